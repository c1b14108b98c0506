"""Arguments and options that verbs share, each declared once, and how a verb takes several of them as a group."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any

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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, also when it fails.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show the resolved recipe, and stop.")]


def option(*names: str, default: Any = None, **shown: Any) -> Any:
    """A field of a group of options: its names on the command line, and how the help shows it."""
    return field(default=default, metadata={"typer": typer.Option(default, *names, **shown)})


@dataclass(frozen=True)
class Flags:
    """The options that most verbs share."""

    out: str | None = option("--out", "-o", metavar="PATH", help="Where the result goes; the same as out=PATH.")
    device: str | None = option("--device", metavar="NAME", help="auto, cpu, cuda or mps; the same as device=NAME.")
    json: Json = False
    quiet: bool = option("--quiet", "-q", default=False, help="No progress on stderr.")
    verbose: bool = option(
        "--verbose",
        "-v",
        default=False,
        help="A line for every step of progress; default: a live bar, or a line in 10 s.",
    )
    dry_run: DryRun = False
    fresh: bool = option("--fresh", default=False, help="Start over instead of continuing what is there.")
    resume: bool = option(
        "--resume", default=False, help="Insist on continuing: fail where there is nothing to continue."
    )
    nproc: int | None = option(
        "--nproc",
        metavar="N",
        min=1,
        help="Share the run among N processes here, each with its own GPU if there are any.",
    )
    verify_resume: bool = option(
        "--verify-resume",
        default=False,
        help="Train nothing: replay from the checkpoint before the newest, and compare every bit.",
    )
    shard: str | None = option(
        "--shard", metavar="I/N", help="Do one of N shares of the work, as a part in OUT/parts; --merge joins them."
    )
    merge: bool = option("--merge", default=False, help="Make the result of all parts in OUT/parts.")


_EVERYWHERE = frozenset({"json", "quiet", "verbose", "dry_run"})


@dataclass(frozen=True)
class Group:
    """Options of one verb that belong together; None leaves a value to the recipe."""

    def given(self) -> dict[str, Any]:
        """What the call gave, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


def takes(*flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function: of each parameter that is a dataclass, the fields become the command's options.

    Args:
        flags: the fields of `Flags` that the verb takes besides those that all take.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        groups: dict[str, tuple[Any, list[str]]] = {}
        options: list[inspect.Parameter] = []
        for parameter in inspect.signature(verb).parameters.values():
            group = parameter.annotation
            if not is_dataclass(group):
                options.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
                continue
            taken = [f for f in fields(group) if group is not Flags or f.name in _EVERYWHERE.union(flags)]
            groups[parameter.name] = group, [f.name for f in taken]
            options += [
                inspect.Parameter(
                    f.name, parameter.KEYWORD_ONLY, default=f.metadata.get("typer", f.default), annotation=f.type
                )
                for f in taken
            ]

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            for name, (group, names) in groups.items():
                given[name] = group(**{option: given.pop(option) for option in names})
            verb(**given)

        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return command

    return decorate
