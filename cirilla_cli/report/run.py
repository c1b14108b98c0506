"""One self-contained page about one or several training runs; opens without a network, runs no script."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import atomic_write, write_text
from cirilla_cli.report.draw import MOST_POINTS, Picture, draw, panels_of, thinned
from cirilla_cli.report.numbers import Line, final, table
from cirilla_cli.report.read import Run, read_runs

_MARK = '<meta name="generator" content="cirilla report">'

Compare = Callable[[dict[str, Any], dict[str, Any]], Sequence[tuple[str, Any, Any]]]
"""Key, value here and value there of everything in which two recipes differ."""


@dataclass
class PageReport:
    """What was written; `--json` prints it."""

    out: str
    png: list[str]
    runs: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    notes: list[str]
    table: list[Line] = field(repr=False, default_factory=list)


def report(paths: list[Path], out: Path, *, png: bool, compare: Compare, version: str) -> PageReport:
    """Read the runs at ``paths`` and write the page ``out``, with ``png`` its pictures beside it.

    Raises:
        CirillaError: a path is no run, or ``out`` is a file that no report wrote.
    """
    runs = read_runs(paths)
    _check_free(out)
    found = [final(run) for run in runs]
    pictures = [draw(panel, runs) for panel in panels_of(runs)]
    made = PageReport(
        str(out), [str(_beside(out, picture)) for picture in pictures if png],
        [{"run": str(run.path), **numbers} for run, numbers in zip(runs, found, strict=True)],
        differences(runs, compare), _notes(runs), table(found),
    )  # fmt: skip
    for picture in pictures if png else []:
        with atomic_write(_beside(out, picture)) as file:
            file.write(picture.png)
    # JSON can hold halves of characters, which no file of text can.
    page = _page(runs, made, pictures, version).encode("utf-8", "replace").decode()
    write_text(out, page)
    return made


def _beside(out: Path, picture: Picture) -> Path:
    return out.with_name(f"{out.stem}-{picture.slug}.png")


def _check_free(out: Path) -> None:
    """Raises: CirillaError: something else than an earlier report stands at ``out``."""
    if out.is_dir():
        raise CirillaError(f"{out}: is a folder, and a file is to be written", hint="--out FILE.html")
    if out.is_file():
        with out.open("rb") as file:
            if _MARK.encode() not in file.read(1000):
                raise CirillaError(f"{out}: exists, and is no report", hint="--out FILE.html names another file")


def _notes(runs: Sequence[Run]) -> list[str]:
    return [f"{run.name}: {note}" for run in runs for note in run.notes]


def differences(runs: Sequence[Run], compare: Compare) -> list[dict[str, Any]]:
    """Every key in which a recipe differs from the first, with its value in each; `out` and `name` always do."""
    changed: dict[str, list[Any]] = {}
    for number, run in enumerate(runs[1:], 1):
        for key, first, here in compare(runs[0].recipe, run.recipe):
            changed.setdefault(key, [first] * len(runs))[number] = here
    return [{"key": key, "values": values} for key, values in changed.items() if key not in ("out", "name")]


def _page(runs: Sequence[Run], made: PageReport, pictures: Sequence[Picture], version: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Everything that is filled in is escaped: names, prompts and what models say are anybody's text.
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    )  # fmt: skip
    return pages.get_template("page.html").render(
        title="Training: " + ", ".join(run.name for run in runs), names=[run.name for run in runs], notes=made.notes,
        numbers=made.table, pictures=[_embedded(picture) for picture in pictures], samples=_samples(runs),
        differences=[{"key": d["key"], "values": [_value(v) for v in d["values"]]} for d in made.differences],
        configurations=[_configuration(run) for run in runs], most_points=MOST_POINTS, version=version,
        thinned=any(len(thinned(run.points("loss"))) < len(run.points("loss")) for run in runs),
    )  # fmt: skip


def _embedded(picture: Picture) -> dict[str, str]:
    """A picture as an image of its own, in which nothing can be run or loaded."""
    return {"title": picture.title, "data": base64.b64encode(picture.svg.encode()).decode()}


def _samples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each prompt with what every run made of it, step by step."""
    said: dict[str, dict[int, list[str]]] = {}
    for number, run in enumerate(runs):
        for sample in run.samples:
            steps = said.setdefault(sample.prompt, {})
            steps.setdefault(sample.step, [""] * len(runs))[number] = sample.text
    return [
        {"text": prompt, "rows": [{"step": f"{step:,}", "texts": steps[step]} for step in sorted(steps)]}
        for prompt, steps in said.items()
    ]


def _configuration(run: Run) -> dict[str, str]:
    lock = {key: value for key, value in run.lock.items() if key != "resolved"}
    return {"name": str(run.path), "recipe": _recipe(run), "lock": json.dumps(lock, indent=2, ensure_ascii=False)}


def _recipe(run: Run) -> str:
    """The resolved recipe as it stands in the run, or as the lock remembers it."""
    try:
        return (run.path / "resolved.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return json.dumps(run.recipe, indent=2, ensure_ascii=False)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
