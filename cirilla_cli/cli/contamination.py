"""Evaluation sets that a pipeline names, looked for in the rows that its stages train on, before they train."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import write_json
from cirilla_cli.progress import Progress

if TYPE_CHECKING:
    from cirilla_cli.cli.pipeline import Stage

FILE = "contamination.json"
"""What was compared and found, in the pipeline's folder."""

_Paths = tuple[Path, ...]


class Comparison:
    """Compares rows with evaluation sets, each pair of a stage and a set once."""

    def __init__(self, stages: "Sequence[Stage]", out: Path, *, refuse: bool) -> None:
        self._stages, self._out, self._refuse = stages, out, refuse
        self._done: set[tuple[str, str]] = set()
        self._found: list[dict[str, Any]] = []

    def before(self, stage: "Stage", progress: Progress) -> None:
        """Look at what ``stage`` trains on; if it measures, at what all before it did.

        Raises:
            CirillaError: rows hold what is measured, and that is to be refused.
        """
        at = self._stages.index(stage)
        to_come = [Path(one.resolved.out) for one in self._stages[at:]]
        for config, sets in self._named(stage, at):
            there = {name: paths for name, paths in sets.items() if _there(paths, to_come)}
            for one in self._stages[:at] if stage.verb == "eval" else [stage]:
                new = {name: paths for name, paths in there.items() if (one.name, name) not in self._done}
                self._compare(one, new, config, progress)

    def _named(self, stage: "Stage", at: int) -> Iterator[tuple[Any, dict[str, _Paths]]]:
        """Sets to look for: of eval stages, and what else curate stages name, by the measure that their rows passed."""
        evals = [stage] if stage.verb == "eval" else self._stages[at:]
        measured = {name: paths for one in evals for name, paths in _measured(one)}
        yield None, measured
        for one in self._stages if stage.verb != "eval" else ():
            recipe: Any = one.resolved.recipe
            if one.verb == "curate":
                sets = {f"{one.name}.{name}": (path,) for name, path in recipe.curate.evaluation.items()}
                yield recipe.curate.contamination, {k: v for k, v in sets.items() if v not in measured.values()}

    def _compare(self, stage: "Stage", sets: Mapping[str, _Paths], config: Any, progress: Progress) -> None:
        from cirilla_cli.curate.leaks import compare

        rows = [(path, format_) for path, format_ in _trained_on(stage) if _holds_rows(path)]
        if not rows or not sets:
            return
        found = compare(rows, sets, config)
        self._done |= {(stage.name, name) for name in sets}
        self._found.append({"stage": stage.name, **asdict(found)})
        write_json(self._out / FILE, self._found)
        if found.leaking:
            said = f"stage `{stage.name}` trains on {found.leaking:,} of {found.rows:,} rows that hold what is measured"
            self._tell(f"{said}: {_counts(found.sets)} ({self._out / FILE})", progress)

    def _tell(self, said: str, progress: Progress) -> None:
        if not self._refuse:
            progress.say(said)
            return
        raise CirillaError(
            said,
            hint="put a stage with `verb: curate` before it and name the sets in `curate.evaluation`, which drops such "
            'rows; mark questions that may be known `"seen": true`; or contamination=report to train all the same',
        )


def _counts(sets: Mapping[str, Mapping[str, int | float]]) -> str:
    return ", ".join(
        f"{one['leaked']:,} of {one['texts'] - one['seen']:,} texts of {name}"
        for name, one in sets.items()
        if one["leaked"]
    )


def _measured(stage: "Stage") -> Iterator[tuple[str, _Paths]]:
    """The sets of an eval stage; not those that are a held-out share of the training rows themselves."""
    recipe: Any = stage.resolved.recipe
    if stage.verb != "eval":
        return
    for name, task in recipe.eval.tasks.items():
        match task.kind:
            case "questions" | "choices":
                yield f"{stage.name}.{name}", (task.path,)
            case "text":
                yield f"{stage.name}.{name}", task.path
            case "preferences" | "classification" if task.val == 1:
                yield f"{stage.name}.{name}", task.path


def _there(paths: _Paths, to_come: Sequence[Path]) -> bool:
    """Whether a set is there already, and no stage still to come writes it."""
    return all(path.exists() and not any(path.is_relative_to(out) for out in to_come) for path in paths)


def _trained_on(stage: "Stage") -> Iterator[tuple[Path, Any]]:
    """Rows and shards that a stage trains on, or tokenizes for that, with their format."""
    recipe: Any = stage.resolved.recipe
    match stage.verb:
        case "tokenize":
            yield from ((path, recipe.tokenize.format) for path in recipe.tokenize.inputs)
        case "pretrain" | "sft" | "dpo" if recipe.data.kind in ("packed_text", "masked_text"):
            yield from ((source.path, source.format) for source in recipe.data.sources.values())
        case "pretrain" | "sft" | "dpo":
            format_ = None if recipe.data.kind == "labelled_text" else recipe.data.format
            yield from ((path, format_) for path in recipe.data.path)


def _holds_rows(path: Path) -> bool:
    """Whether it is no folder of shards: the rows of those were compared before they were tokenized."""
    return path.exists() and not any((path / below / "index.json").is_file() for below in (".", *_SHARDS))


_SHARDS = [f"{above}{kind}" for above in ("", "shards/") for kind in ("text", "chat", "preference")]
