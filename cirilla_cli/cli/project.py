"""`cirilla run`, `init`, `runs`: whole pipelines, new projects, and what lies under runs/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cirilla_cli.cli.options import DryRun, Flags, Group, Json, Words, option, takes


@takes("out", "fresh")
def run(words: Words = None, *, flags: Flags) -> None:
    """Run a pipeline: every stage that is not up to date; interrupted ones continue.

    Example: cirilla run quickstart
    """
    from cirilla_cli.cli.running import run_verb

    run_verb(words or [], flags)


@dataclass(frozen=True)
class Plan(Group):
    """What a project is made from, and for which machine."""

    wiki: str | None = option("--wiki", metavar="URL", help="A MediaWiki's address or api.php.")
    dump: str | None = option("--dump", metavar="FILE|URL", help="A MediaWiki XML export.")
    files: Path | None = option("--files", metavar="DIR", help="A folder of texts, HTML pages or JSONL.")
    budget: str = option(
        "--budget", metavar="CARD[,TIME]", default="cpu", help="cpu, or memory and time such as 16GiB,8h."
    )
    contact: str | None = option("--contact", metavar="MAIL", help="Who to write to (with --wiki, --dump URL).")


@takes()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Folder to make; also the name of the runs.")],
    *,
    plan: Plan,
    json_: Json = False,
) -> None:
    """A folder with a pipeline and its recipes, ready to run.

    Example: cirilla init mywiki --dump dump.xml.bz2 --budget 16GiB,8h
    """
    from cirilla_cli.cli.starting import init_project

    init_project(name, **vars(plan), as_json=json_)


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


COMMANDS = {"run": run, "init": init, "runs": runs}
