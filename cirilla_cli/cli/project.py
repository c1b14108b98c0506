"""`cirilla run`, `init`, `runs`: whole pipelines, new projects, and what lies under runs/."""

from pathlib import Path
from typing import Annotated

import typer

from cirilla_cli.cli.options import DryRun, Fresh, Json, Out, Quiet, Verbose, Words


def run(
    words: Words = None,
    out: Out = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Run a pipeline: every stage that is not up to date; interrupted ones continue.

    Example: cirilla run quickstart
    """
    from cirilla_cli.cli.running import run_verb
    from cirilla_cli.cli.verbs import Flags

    run_verb(words or [], Flags(out=out, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run, fresh=fresh))


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Folder to make; also the name of the runs.")],
    wiki: Annotated[str | None, typer.Option("--wiki", metavar="URL", help="A MediaWiki's address or api.php.")] = None,
    dump: Annotated[Path | None, typer.Option("--dump", metavar="FILE", help="A MediaWiki XML export.")] = None,
    files: Annotated[Path | None, typer.Option("--files", metavar="DIR", help="A folder of text files.")] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="CARD[,TIME]", help="cpu, or memory and time such as 16GiB,8h.")
    ] = "cpu",
    contact: Annotated[
        str | None, typer.Option("--contact", metavar="MAIL", help="Who a wiki can write to (with --wiki).")
    ] = None,
    json_: Json = False,
) -> None:
    """A folder with a pipeline and its recipes, ready to run.

    Example: cirilla init mywiki --dump dump.xml.bz2 --budget 16GiB,8h
    """
    from cirilla_cli.cli.starting import init_project

    init_project(name, wiki=wiki, dump=dump, files=files, budget=budget, contact=contact, as_json=json_)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs"),
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove all checkpoints but the last and best, and torn writes.")
    ] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """What lies under runs/: verb, recipe, step of total, score, age, size."""
    from cirilla_cli.cli.listing import list_runs

    list_runs(folder, clean=clean, dry_run=dry_run, as_json=json_)
