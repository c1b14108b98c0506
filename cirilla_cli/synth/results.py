"""What the rules make of a page, as it stands in the results of a part."""

from dataclasses import dataclass
from functools import partial

from pydantic import TypeAdapter

from cirilla_cli.data.parts import Form
from cirilla_cli.data.rows import Question, Sample
from cirilla_cli.synth.base import Rejected

ByRule = Sample | Question | Rejected


@dataclass(frozen=True, slots=True)
class Typed:
    """A question with a slip in it; it counts where the clean one has the same answer wherever it was asked before."""

    row: Sample
    clean: str


Row = ByRule | Typed

_rows = TypeAdapter(list[Row])

ROWS: Form[list[Row]] = Form(partial(_rows.dump_python, mode="json", exclude_none=True), _rows.validate_python)
"""Each kind of row is told by its fields, of which no other has the same."""
