"""A training run's folder as numbers and texts, whatever of it is there."""

import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_json

_MARKS = ("lock.json", "metrics.jsonl")
"""What every training run has: the first from its beginning, the second from its first step."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Said:
    """What the model made of a prompt after a step."""

    step: int
    prompt: str
    text: str


@dataclass
class Run:
    """What stands in the folder of one run; parts that are missing are empty, and `notes` says which."""

    path: Path
    name: str
    rows: list[dict[str, Any]]
    samples: list[Said]
    recipe: dict[str, Any]
    lock: dict[str, Any]
    state: dict[str, Any]
    """`state.json` of the newest checkpoint."""
    report: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def points(self, key: str, over: str = "step") -> Points:
        """Finite values of one metric beside those of another, in the order of steps."""
        return [
            (row[over], float(row[key])) for row in self.rows if is_number(row.get(key)) and is_number(row.get(over))
        ]

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max(self.rows[-1]["step"] if self.rows else 0, _whole(self.state.get("step")) or 0)

    @property
    def steps(self) -> int | None:
        """How many steps there are to be, where it is known."""
        train = self.recipe.get("train")
        return _whole(self.state.get("steps")) or _whole(train.get("steps") if isinstance(train, dict) else None)

    @property
    def is_finished(self) -> bool:
        """Whether all steps were done, or early stopping ended the run."""
        return self.state.get("stopped_early") is True or (self.steps is not None and self.step >= self.steps)


def is_number(value: Any) -> bool:
    """Whether a value can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_runs(paths: list[Path]) -> list[Run]:
    """Every run, under the shortest names that tell them apart.

    Raises:
        CirillaError: naming every path that is no run, or is named twice.
    """
    wrong = [said for path in paths if (said := _problem(path))]
    there = [os.path.realpath(path) for path in paths]  # also of links in a circle, which `_problem` tells
    wrong += [f"{path}: is named twice" for n, path in enumerate(paths) if there[n] in there[:n]]
    if wrong:
        raise CirillaError("\n".join(wrong), hint=_runs_near(paths))
    last = [path.resolve().name for path in paths]
    names = last if len(set(last)) == len(last) else [str(path) for path in paths]
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _problem(path: Path) -> str:
    """Why a path is no training run; empty if it is one."""
    if not path.exists():
        return f"{path}: no such folder"
    if not path.is_dir():
        return f"{path}: is a file, and the folder of a training run is expected"
    if not any((path / mark).is_file() for mark in _MARKS):
        return f"{path}: is no training run: neither {' nor '.join(_MARKS)} is there"
    return ""


def _runs_near(paths: list[Path]) -> str:
    """What can be typed instead: the runs one or two folders further down, or the list of all."""
    folders = [path for path in paths if path.is_dir() and _problem(path)]
    found = sorted(
        {lock.parent for path in folders for depth in ("*", "*/*") for lock in path.glob(f"{depth}/lock.json")}
    )
    runs = [str(run) for run in found if "checkpoints" not in run.parts]
    return f"cirilla report {shlex.join(runs[:8])}" if runs else "cirilla runs lists what there is"


def _read(path: Path, name: str) -> Run:
    notes: list[str] = []
    lock = _object(path / "lock.json", notes)
    recipe = lock.get("resolved")
    states = sorted(path.glob("checkpoints/step-*/state.json"))
    run = Run(
        path, name, rows=sorted(_metrics(path, notes), key=lambda row: row["step"]), samples=list(_said(path, notes)),
        recipe=recipe if isinstance(recipe, dict) else {}, lock=lock, report=_object(path / "report.json", notes),
        state=_object(states[-1], notes) if states else {}, notes=notes,
    )  # fmt: skip
    notes += _missing(run)
    return run


def _missing(run: Run) -> Iterator[str]:
    if not run.rows:
        yield "no step has been logged yet"
    elif not run.is_finished:
        yield f"not finished: step {run.step:,}" + ("" if run.steps is None else f" of {run.steps:,}")
    if not run.recipe:
        yield "lock.json with the recipe is missing or damaged"


def _metrics(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    return (row for row in _rows(path / "metrics.jsonl", notes) if _whole(row.get("step")) is not None)


def _said(path: Path, notes: list[str]) -> Iterator[Said]:
    for row in _rows(path / "samples.jsonl", notes):
        step, prompt, text = _whole(row.get("step")), row.get("prompt"), row.get("text")
        if step is not None and isinstance(prompt, str) and isinstance(text, str):
            yield Said(step, prompt, text)


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Every whole row of a log; what is torn or damaged is counted in a note."""
    if not path.is_file():
        return []
    complaints = Complaints()
    rows = [row.data for row in read_rows(path, complaints)]
    if complaints.count:
        at = ", ".join(f"{where.line} ({where.expected})" for where in complaints.wheres[:3])
        notes.append(f"{path.name}: passed over {complaints.count} damaged line(s): {at}")
    return rows


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in a file; empty where it is missing or damaged, for a report shows what there is."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name}: damaged, passed over")
        return {}
    return value
