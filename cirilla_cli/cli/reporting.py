"""`cirilla report`: a page about training runs."""

from pathlib import Path
from typing import Annotated

import typer

from cirilla_cli.cli.options import Json


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE.html", help="Default: report.html in the run, of several runs: here."
        ),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write each picture as a PNG beside the page.")] = False,
    json_: Json = False,
) -> None:
    """One page about training runs: curves, speed, samples, configuration, and how several runs differ.

    Example: cirilla report runs/a runs/b --out compared.html
    """
    from cirilla_cli import __version__
    from cirilla_cli.cli.places import check_place
    from cirilla_cli.cli.render import columns, plain, show_json
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.recipe.explain import diff
    from cirilla_cli.report.run import report as write

    page = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    if out is not None:
        if out.suffix != ".html":
            raise CirillaError(f"`--out` is {str(out)!r}: a page's name must end in .html", hint="--out report.html")
        check_place(out.parent, "--out")
    made = write(runs, page, png=png, compare=diff, version=__version__)
    if json_:
        show_json({key: value for key, value in plain(made).items() if key != "table"})
        return
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    names = [run["run"] for run in made.runs]
    print(columns([["", *names], *([line.title, *(cell.text for cell in line.cells)] for line in made.table)]))
    print("\n".join(["", made.out, *made.png]))


COMMANDS = {"report": report}
