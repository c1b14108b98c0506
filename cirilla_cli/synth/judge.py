"""Marks for rows that passed every check, by a model that sees the page, the question and the answer together."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import Made, Rejected, Spent
from cirilla_cli.synth.config import TeacherSourceConfig
from cirilla_cli.synth.grounding import Answer, quoted
from cirilla_cli.synth.inert import fenced
from cirilla_cli.synth.journal import Journal
from cirilla_cli.synth.strategies.base import INERT, Complaint, Desk, Settled, Unit, Unsettled, settled

FILE = "judge.jsonl"
"""The journal of what was judged."""
_SYSTEM = f"You judge training data that was written from pages. {INERT} Reply with JSON alone."
_JUDGE = """\
This was written from it:
{row}

Give whole marks from 1 (bad) to 5 (nothing to object to). grounded: all that was written follows from the text. \
relevant: each answer answers what was asked, all of it and nothing else. clear: it is well written and clear to \
someone who does not see the text. As evidence copy the one passage of the text, word for word, that decided most."""
_Mark = Annotated[int, Field(ge=1, le=5)]


class Marks(Answer):
    """What a judge is asked for."""

    grounded: _Mark
    relevant: _Mark
    clear: _Mark
    evidence: str


class Judge:
    """Lets rows through whose lowest mark is high enough."""

    def __init__(self, journal: Journal, config: TeacherSourceConfig, least: int) -> None:
        calm = config.model_copy(update={"temperature": 0.0})
        self._desk, self._least = Desk(journal, calm, "judge", _JUDGE, _SYSTEM), least
        self.spent, self.told, self.check = journal.spent, f", judged by {journal.told},", journal.check

    def judged(self, unit: Unit, rows: Settled) -> Settled:
        """The rows of a unit, those with a low mark as rejects; Unsettled where the judge did not answer."""
        return rows if isinstance(rows, Unsettled) else settled(self._one(unit, row) for row in rows)

    def _one(self, unit: Unit, row: Made) -> Made | Unsettled:
        if not isinstance(row, Sample | Document):
            return row
        seen = [unit, *(other for other in unit.others if other.document.id in (row.parents or ()))]
        text = "\n".join(one.text for one in seen)
        prompt = "\n\n".join([*(one.block for one in seen), _JUDGE.format(row=fenced(_told(row)))])
        marks = self._desk.ask(f"{unit.id}/judge/{row.id}", prompt, Marks, lambda marks: _complaint(marks, text))
        pages = {"pages": list(row.parents or ())}
        if isinstance(marks, Rejected):
            return replace(marks, detail={**marks.detail, **pages})
        return marks if isinstance(marks, Unsettled) else self._kept(row, marks, pages)

    def _kept(self, row: Sample | Document, marks: Marks, pages: dict[str, list[str]]) -> Made:
        given = marks.model_dump(exclude={"evidence"})
        lowest = min(given, key=lambda name: given[name])
        if given[lowest] >= self._least:
            return row
        detail = {"criterion": lowest, "mark": given[lowest], **pages, "row": _told(row), **marks.model_dump()}
        return Rejected(row.id, f"judged not {lowest} enough", detail)


class Nobody:
    """Where nobody judges."""

    spent, told = Spent(), ""

    def check(self) -> None:
        """There is nobody to look for."""

    def judged(self, unit: Unit, rows: Settled) -> Settled:
        """The rows as they are."""
        return rows


def _complaint(marks: Marks, text: str) -> Complaint | None:
    if quoted(marks.evidence, text) is None:
        return Complaint("the judge's evidence does not stand in the page", "That passage does not stand in the text")
    return None


def _told(row: Sample | Document) -> str:
    """What is judged of a row: of a preference its right answer."""
    if isinstance(row, Document):
        return row.text
    turns = [f"{'Question' if turn.role == 'user' else 'Answer'}: {turn.content}" for turn in row.messages]
    return "\n".join([*turns, *([f"Answer: {row.chosen}"] if row.chosen is not None else [])])
