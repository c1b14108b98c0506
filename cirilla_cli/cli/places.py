"""Whether results can be written where a recipe says, asked before any work is done."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.recipe.load import Resolved

_ROWS = ("scrape", "synth", "curate")
"""Verbs whose `out` may also be `-` or FILE.jsonl."""
_LEFT = {
    "scrape": ("documents.jsonl",), "synth": ("samples.jsonl",),
    "curate": ("documents.jsonl", "samples.jsonl", "validation.jsonl", "test.jsonl"),
}  # fmt: skip
"""Rows that verbs leave in a folder."""


def check_out(resolved: Resolved) -> None:
    """Raises: CirillaError: the recipe's `out` cannot be written, or is one of the files that are read."""
    out, verb = resolved.out, resolved.verb
    if out == "-" and verb in _ROWS:
        return
    if out in ("", "-"):
        said = "means standard output" if out else "is empty"
        raise _wrong("out", out, f"`out` {said}, and `cirilla {verb}` writes a folder", "a folder")
    path = Path(out)
    if verb not in _ROWS or path.suffix != ".jsonl":
        check_place(path, "out")
        targets = [path / name for name in _LEFT.get(verb, ("report.json",))]
    else:
        check_place(path.parent, "out")
        if path.is_dir():
            raise _wrong("out", out, f"{out}: is a folder, and a file is to be written", "a file")
        targets = [path]
    for target in targets:
        _keep_inputs(target, _inputs(resolved))
    if verb == "eval":
        _check_predictions(resolved)


def _check_predictions(resolved: Resolved) -> None:
    """Raises: CirillaError: what a task writes beside the scores cannot be written."""
    recipe: Any = resolved.recipe
    for name, task in recipe.eval.tasks.items():
        if task.kind == "classification" and task.predictions is not None:
            key = f"eval.tasks.{name}.predictions"
            check_place(task.predictions.parent, key)
            if task.predictions.is_dir():
                raise _wrong(key, str(task.predictions), f"{task.predictions}: is a folder, not a file", "a file")
            _keep_inputs(task.predictions, task.path)


def check_place(folder: Path, key: str) -> None:
    """Raises: CirillaError: ``folder`` is a file, or neither there nor can be made."""
    shown = str(folder)
    if "\0" in shown:
        raise _wrong(key, shown, f"`{key}` holds a NUL character", "a path")
    try:
        above = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
        if not above.exists():
            raise _wrong(
                key, shown, f"{above}: is a link that leads nowhere, and a folder is to be written", "a folder"
            )
        if not above.is_dir():
            raise _wrong(key, shown, f"{above}: is a file, and a folder is to be written there", "a folder")
        # Asked by doing it: rights, read-only and special file systems answer only so.
        Path(tempfile.mkdtemp(prefix=".cirilla-", dir=above)).rmdir()
    except OSError as error:
        raise _wrong(key, shown, f"{shown}: cannot be written: {error.strerror}", "a folder") from None


def _wrong(key: str, value: str, message: str, expected: str) -> CirillaError:
    return CirillaError(message, hint="name another place", where=[Where(key=key, value=value, expected=expected)])


def _inputs(resolved: Resolved) -> Iterable[Path]:
    recipe: Any = resolved.recipe
    match resolved.verb:
        case "scrape":
            source = resolved.data["scrape"]["source"]
            # Of an earlier scrape the rows are not read, but what it kept, and that is not written.
            return [Path(source["path"])] if source.get("path") and source["kind"] != "scraped" else []
        case "synth":
            return list(recipe.synth.inputs)
        case "curate":
            paths = [*(source.path for source in recipe.curate.sources.values()), *recipe.curate.evaluation.values()]
            return [*paths, *(path / name for path in paths for name in ("documents.jsonl", "samples.jsonl"))]
    return []


def _keep_inputs(target: Path, inputs: Iterable[Path]) -> None:
    """Inputs are never modified."""
    for path in inputs:
        if target.exists() and path.exists() and target.samefile(path):
            raise CirillaError(f"{target}: is read, and would be written over", hint="--out names another file")
