"""Answers that are reasoned out: steps that each rest on a passage of their own, then what follows from them."""

import re
from collections.abc import Iterable, Sequence
from functools import partial

from pydantic import Field

from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import CotConfig
from cirilla_cli.synth.grounding import Answer, Pair, quoted, unsound
from cirilla_cli.synth.strategies.base import (
    Complaint,
    Desk,
    PieceByPiece,
    Settled,
    Unit,
    Unsettled,
    foreign,
    odd,
    rounds,
)
from cirilla_cli.synth.strategies.prompts import DIFFERENT, PAGE, earlier
from cirilla_cli.synth.strategies.qa import repeated, turns

_ASK = """\
Write one question that can be answered only by putting together two or more facts which stand apart in this text, \
clear to someone who does not see the text, so name whom or what it is about. Then give the steps to its answer, two \
to {max_steps}: each says in a sentence one fact or what follows, with one passage as evidence, copied word for word \
from the text. At last give the short, complete answer that follows from them.{earlier}"""
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_MOST_ALIKE = 0.7


class Step(Answer):
    """One fact, or what follows from those before it."""

    says: str = Field(min_length=1)
    evidence: str


class Reasoned(Answer):
    """A question, the steps to its answer, and the answer."""

    question: str
    steps: list[Step] = Field(min_length=2)
    answer: str


class Cot(PieceByPiece[CotConfig]):
    """Asks question after question, and ends where the teacher finds nothing new."""

    name = "cot"
    prompts = {"ask": PAGE + _ASK}

    def _words(self) -> Iterable[str]:
        return [DIFFERENT]

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        ask, judged = partial(self._another, unit, desk), partial(_judged, unit, desk)
        return rounds(self._config.questions, ask, judged)

    def _another(self, unit: Unit, desk: Desk, number: int, asked: list[str]) -> Reasoned | Rejected | Unsettled:
        prompt = self._prompt("ask", unit, max_steps=self._config.max_steps, earlier=earlier(asked))
        return desk.ask(f"{unit.id}/{number}", prompt, Reasoned, partial(self._complaint, unit, asked))

    def _complaint(self, unit: Unit, asked: Sequence[str], found: Reasoned) -> Complaint | None:
        if len(found.steps) > self._config.max_steps:
            return Complaint("more steps than max_steps", f"At most {self._config.max_steps} steps are asked for")
        said = " ".join([found.question, *(step.says for step in found.steps), found.answer])
        return repeated(found.question, asked, _MOST_ALIKE) or foreign(said, unit.text)


def _judged(unit: Unit, desk: Desk, found: Reasoned) -> Made:
    """The sample, steps on numbered lines above the answer, or why it is none."""
    lines = [f"{number}. {' '.join(step.says.split())}" for number, step in enumerate(found.steps, 1)]
    whole = Pair(question=found.question, answer="\n".join([*lines, "", found.answer.strip()]), evidence="")
    id_ = desk.row_id(unit, whole.question, whole.answer)
    last = Pair(question=found.question, answer=found.answer, evidence=found.steps[-1].evidence)
    reason = next(filter(None, (*(_fault(step, unit) for step in found.steps), unit.fault(last))), None)
    passages = [passage for step in found.steps if (passage := quoted(step.evidence, unit.text)) is not None]
    places = (*_SENTENCES.split(unit.text), *passages)
    if reason is None and any(all(one in place for one in passages) for place in places):
        reason = "the steps rest on one fact alone"
    if reason is not None:
        return Rejected(id_, reason, {"unit": unit.id, **found.model_dump()})
    return desk.chat(unit, id_, turns(whole), passages)


def _fault(step: Step, unit: Unit) -> str | None:
    return odd(step.says, unit.text) or unsound(step.says, [step.evidence], unit.text, unit.document.title)
