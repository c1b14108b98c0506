"""What the rules make of a page, as it stands in the results of a part."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cirilla_cli.data.parts import Form
from cirilla_cli.data.rows import Question, Sample
from cirilla_cli.synth.base import Made, Rejected


@dataclass(frozen=True, slots=True)
class Typed:
    """A question with a slip in it; it counts where the clean one has the same answer wherever it was asked before."""

    row: Sample
    clean: str


Row = Made | Typed


def _dump(rows: Iterable[Row]) -> Any:
    return [_dumped(row) for row in rows]


def _dumped(row: Row) -> Any:
    match row:
        case Typed():
            return {"typed": row.clean, "row": _dumped(row.row)}
        case Sample():
            return {"sample": row.model_dump(mode="json", exclude_none=True)}
        case Question():
            return {"question": row.model_dump(mode="json", exclude_none=True)}
    return {"rejected": asdict(row)}


def _load(data: Any) -> list[Row]:
    return [_loaded(row) for row in data]


def _loaded(data: Any) -> Row:
    match data:
        case {"typed": clean, "row": {"sample": row}}:
            return Typed(Sample.model_validate(row), clean)
        case {"sample": row}:
            return Sample.model_validate(row)
        case {"question": row}:
            return Question.model_validate(row)
    return Rejected(**data["rejected"])


ROWS: Form[list[Row]] = Form(_dump, _load)
