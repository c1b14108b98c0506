"""What of evaluation sets stands in rows that are about to be trained on; nothing is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cirilla_cli.curate.config import ContaminationConfig
from cirilla_cli.curate.decontaminate import Decontaminator, EvalSet, Leak, Row, read_eval_sets
from cirilla_cli.data.config import FormatName
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.jsonl import Complaints, read_rows

_SHOWN = 20


@dataclass
class Compared:
    """What comparing found, as a pipeline's `contamination.json` has it."""

    rows: int = 0
    leaking: int = 0
    """Rows that hold a text of a set."""
    sets: dict[str, dict[str, int | float]] = field(default_factory=dict)
    """What `Decontaminator.report` says of each."""
    first: list[dict[str, str | int]] = field(default_factory=list)
    """The first rows that leak, and what."""


def compare(
    sources: Iterable[tuple[Path, FormatName | None]], sets: Mapping[str, Sequence[Path]],
    config: ContaminationConfig | None = None,
) -> Compared:  # fmt: skip
    """Compare every row of ``sources`` with the texts of ``sets`` that are not marked as seen.

    Raises:
        CirillaError: rows or sets are not understood.
    """
    finder = Decontaminator(config or ContaminationConfig(), _holding_any(sets))
    found = Compared()
    for _, _, leak in finder.checked(_named(sources)):
        found.rows += 1
        if leak is not None:
            _add(found, leak)
    found.sets = finder.report()
    return found


def _add(found: Compared, leak: Leak) -> None:
    found.leaking += 1
    if len(found.first) < _SHOWN:
        found.first.append(leak.row())


def _holding_any(sets: Mapping[str, Sequence[Path]]) -> list[EvalSet]:
    """The sets with rows; that others have none, evaluation says."""
    return read_eval_sets({name: paths for name, paths in sets.items() if any(map(_holds_any, paths))})


def _holds_any(path: Path) -> bool:
    return path.suffix != ".jsonl" or next(iter(read_rows(path, Complaints())), None) is not None


def _named(sources: Iterable[tuple[Path, FormatName | None]]) -> Iterator[tuple[str, Row]]:
    for path, format_ in sources:
        yield from ((str(path), row) for row in read_inputs([path], format=format_))
