"""`cirilla runs`: what lies under a folder of runs."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.cli.render import columns, show_json
from cirilla_cli.errors import CirillaError
from cirilla_cli.units import show_bytes, show_seconds

_MARKS = {
    "report.md": "curate", "documents.jsonl": "scrape", "samples.jsonl": "synth", "report.json": "tokenize",
    "scores.json": "eval", "answers.jsonl": "generate", "model.safetensors": "push",
}  # fmt: skip


@dataclass
class Run:
    """One folder that a verb left."""

    path: str
    verb: str
    step: int | None
    steps: int | None
    score: str
    age_seconds: float
    bytes: int


def list_runs(folder: Path, *, clean: bool, dry_run: bool, as_json: bool) -> None:
    """Print every run below ``folder``; with ``clean``, remove what no run needs."""
    if not folder.is_dir():
        raise CirillaError(f"{folder}: no such folder", hint="cirilla run quickstart makes the first run")
    if clean:
        _clean(folder, dry_run=dry_run, as_json=as_json)
        return
    found = sorted(_runs(folder), key=lambda run: run.age_seconds)
    if as_json:
        show_json([asdict(run) for run in found])
    elif not found:
        print(f"{folder}: no runs")
    else:
        rows = [["run", "verb", "step", "score", "age", "size"]]
        rows += [[r.path, r.verb, _steps(r), r.score, show_seconds(r.age_seconds), show_bytes(r.bytes)] for r in found]
        print(columns(rows, right=frozenset({2, 5})))


def _runs(folder: Path) -> Iterator[Run]:
    trained: set[Path] = set()
    for lock in folder.glob("**/lock.json"):
        if "checkpoints" not in lock.relative_to(folder).parts:
            trained.add(lock.parent)
            yield _training_run(lock.parent)
    seen = set(trained)
    for name, verb in _MARKS.items():
        for mark in folder.glob(f"**/{name}"):
            inside = mark.parent in seen or any(parent in trained for parent in mark.parents)
            if not inside and not (verb == "tokenize" and not (mark.parent / "shards").is_dir()):
                seen.add(mark.parent)
                yield Run(str(mark.parent), verb, None, None, _score(mark), _age(mark), _size(mark.parent))


def _training_run(path: Path) -> Run:
    states = sorted(path.glob("checkpoints/step-*/state.json"))
    state = _json(states[-1]) if states else {}
    best = state.get("best_loss")
    return Run(
        path=str(path), verb=state.get("verb") or _verb(path), step=state.get("step", 0), steps=state.get("steps"),
        score=f"val {best:.3f}" if best is not None else "",
        age_seconds=_age(states[-1] if states else path / "lock.json"), bytes=_size(path),
    )  # fmt: skip


def _verb(path: Path) -> str:
    kinds = {
        "packed_text": "pretrain", "masked_text": "pretrain", "conversations": "sft", "labelled_text": "sft",
        "preferences": "dpo",
    }  # fmt: skip
    return kinds.get(_json(path / "lock.json").get("resolved", {}).get("data", {}).get("kind", ""), "?")


def _score(mark: Path) -> str:
    if mark.name != "scores.json":
        return ""
    from cirilla_cli.cli.pipeline import headline

    numbers = headline(_json(mark))
    return ", ".join(f"{key} {value:.0%}" for key, value in numbers.items() if isinstance(value, float))[:60]


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where it is damaged, for a listing shows what there is."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _age(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _steps(run: Run) -> str:
    if run.step is None:
        return ""
    return f"{run.step}/{run.steps}" if run.steps else str(run.step)


def _clean(folder: Path, *, dry_run: bool, as_json: bool) -> None:
    """Remove checkpoints that are neither the last nor the best of their run, and what crashed writes left."""
    doomed = [path for path in folder.glob("**/checkpoints/.step-*.tmp") if path.is_dir()]
    for index in folder.glob("**/checkpoints/index.json"):
        entries = _json(index)
        kept = {entries.get("last"), entries.get("best")}
        if kept == {None}:
            continue  # a damaged index does not say which are needed
        doomed += [p for p in index.parent.glob("step-*") if p.is_dir() and p.name not in kept]
    freed = sum(map(_size, doomed))
    if not dry_run:
        for path in doomed:
            shutil.rmtree(path)
    if as_json:
        show_json({"removed": [str(path) for path in doomed], "bytes": freed, "dry_run": dry_run})
        return
    for path in doomed:
        print(path)
    print(f"{len(doomed)} folders, {show_bytes(freed)} {'would be freed' if dry_run else 'freed'}")
