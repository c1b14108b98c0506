"""Arguments and options that verbs share, each declared once."""

from typing import Annotated

import typer

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [INPUT] [KEY=VALUE]...",
        help="A recipe (file or built-in name), an input, and overrides such as train.steps=100; in any order.",
        show_default=False,
    ),
]
ModelWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] [RECIPE] [KEY=VALUE]...",
        help="A model (run, checkpoint, Hugging Face folder, OWNER/NAME; default: the newest under runs/), "
        "a recipe, overrides.",
        show_default=False,
    ),
]
Out = Annotated[
    str | None, typer.Option("--out", "-o", metavar="PATH", help="Where the result goes; the same as out=PATH.")
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps; the same as device=NAME.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, also when it fails.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more: every line of progress, tracebacks of bugs in full.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show the resolved recipe, and stop.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing what is there.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Insist on continuing: fail where there is nothing to continue.")
]
