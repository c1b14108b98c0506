"""Preference pairs: a grounded answer, and a wrong one of similar length that fails a check which its row names."""

from cirilla_cli.data.rows import Sample
from cirilla_cli.synth.base import Made, Rejected, origin_of
from cirilla_cli.synth.config import PreferencesConfig
from cirilla_cli.synth.grounding import FOREIGN_NAME, FOREIGN_NUMBER, Answer, Pair, quoted
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, settled
from cirilla_cli.synth.strategies.prompts import PAGE
from cirilla_cli.synth.strategies.qa import ASK, ask_pairs, rejected, turns
from cirilla_cli.verify.match import normalise

_WRONG = """\
A question about it: {question}
The right answer: {answer}

Write a wrong answer to that question: as fluent, as sure and about as long as the right one, and false, because it \
holds a name or a number that does not stand in the text."""
_FAILED = {FOREIGN_NAME: "name-not-in-page", FOREIGN_NUMBER: "number-not-in-page"}
"""The checks that a wrong answer may fail, and what rows call them; one that fails another is no answer at all."""
_LEAST, _MOST = 0.5, 2.0
"""Lengths of wrong answers as a share of the right one's, so that length tells nothing."""


class Wrong(Answer):
    """A wrong answer."""

    answer: str


class Preferences(PieceByPiece[PreferencesConfig]):
    """Asks for pairs as `QA` does, then for a wrong answer to each that is grounded."""

    name = "preferences"
    prompts = {"ask": PAGE + ASK, "wrong": PAGE + _WRONG}

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        found = ask_pairs(unit, desk, self._prompt("ask", unit, count=self._config.pairs))
        if isinstance(found, Unsettled):
            return found
        if isinstance(found, Rejected):
            return [found]
        return settled(self._paired(unit, pair, desk) for pair in found.pairs)

    def _paired(self, unit: Unit, pair: Pair, desk: Desk) -> Made | Unsettled:
        id_ = desk.row_id(unit, pair.question, pair.answer)
        reason, evidence = unit.fault(pair), quoted(pair.evidence, unit.text)
        if reason is not None or evidence is None:
            return rejected(unit, pair, id_, reason)
        prompt = self._prompt("wrong", unit, question=pair.question, answer=pair.answer)
        wrong = desk.ask(f"{unit.id}/{id_}", prompt, Wrong, lambda wrong: _complaint(wrong, pair, unit))
        return _sample(unit, pair, wrong, evidence, desk) if isinstance(wrong, Wrong) else wrong


def _sample(unit: Unit, pair: Pair, wrong: Wrong, evidence: str, desk: Desk) -> Sample:
    """The preference of the right answer over the wrong one."""
    return Sample(
        kind="preference", id=desk.row_id(unit, pair.question, pair.answer, wrong.answer), messages=turns(pair)[:1],
        chosen=pair.answer.strip(), rejected=wrong.answer.strip(), split_key=unit.document.id, evidence=(evidence,),
        source=origin_of(unit.document), parents=(unit.document.id,),
        generator=desk.origin(_FAILED[str(_failed(wrong, pair, unit))]),
    )  # fmt: skip


def _failed(wrong: Wrong, pair: Pair, unit: Unit) -> str | None:
    """The check that the wrong answer fails in the place of the right one."""
    return unit.fault(pair.model_copy(update={"answer": wrong.answer}))


def _complaint(wrong: Wrong, pair: Pair, unit: Unit) -> Complaint | None:
    share = len(wrong.answer.strip()) / len(pair.answer.strip())
    if normalise(wrong.answer) == normalise(pair.answer):
        return Complaint("the wrong answer is the right one", "That is the right answer")
    if not _LEAST <= share <= _MOST:
        said = f"That is {share:.1f} times as long as the right answer"
        return Complaint("the wrong answer is not of similar length", said)
    failed = _failed(wrong, pair, unit)
    if failed is None:
        said = "That could be true: it must hold a name or a number that does not stand in the text"
        return Complaint("the wrong answer fails no check", said)
    return None if failed in _FAILED else Complaint("the wrong answer is no answer", f"That cannot be used: {failed}")
