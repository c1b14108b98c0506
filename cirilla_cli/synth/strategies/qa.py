"""Single questions with their answers, several from each piece of a page in one request."""

import re
from collections.abc import Sequence

from cirilla_cli.data.rows import Message
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import QAConfig
from cirilla_cli.synth.grounding import Pair, Pairs, quoted
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign
from cirilla_cli.synth.strategies.prompts import PAGE

ASK = """\
Write {count} questions that this text answers. Each must be clear to someone who does not see the text, so name whom \
or what it is about. Give a short, complete answer to each, and as evidence one passage copied word for word from the \
text."""
_WORD = re.compile(r"\w+")


class QA(PieceByPiece[QAConfig]):
    """Asks for several pairs at once and judges each by itself."""

    name = "qa"
    prompts = {"ask": PAGE + ASK}

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        found = ask_pairs(unit, desk, self._prompt("ask", unit, count=self._config.pairs))
        if isinstance(found, Unsettled):
            return found
        return [found] if isinstance(found, Rejected) else [judged(unit, pair, desk) for pair in found.pairs]


def ask_pairs(unit: Unit, desk: Desk, prompt: str, key: str = "") -> Pairs | Rejected | Unsettled:
    """The pairs that the teacher writes about ``unit``, not yet judged; ``key`` tells several requests apart."""
    return desk.ask(f"{unit.id}{key}", prompt, Pairs, lambda pairs: _all_foreign(pairs, unit))


def judged(unit: Unit, pair: Pair, desk: Desk, rule: str = "") -> Made:
    """The sample that ``pair`` is, or why it is none."""
    id_ = desk.row_id(unit, pair.question, pair.answer)
    reason, evidence = unit.fault(pair), quoted(pair.evidence, unit.text)
    if reason is not None or evidence is None:
        return rejected(unit, pair, id_, reason)
    return desk.chat(unit, id_, turns(pair), [evidence], rule)


REPEATED = "not different from an earlier question"


def repeated(question: str, asked: Sequence[str], most_alike: float) -> Complaint | None:
    """A complaint where a question shares more of its words (Jaccard) with one that was asked before."""
    words = set(_WORD.findall(question.casefold()))
    others = ((old, set(_WORD.findall(old.casefold()))) for old in asked)
    alike = next((old for old, other in others if len(words & other) >= most_alike * max(1, len(words | other))), None)
    return None if alike is None else Complaint(REPEATED, f"That asks again what was asked before: {alike}"[:240])


def turns(pair: Pair) -> tuple[Message, Message]:
    """The question and its answer."""
    question, answer = pair.question.strip(), pair.answer.strip()
    return Message(role="user", content=question), Message(role="assistant", content=answer)


def rejected(unit: Unit, pair: Pair, id_: str, reason: str | None) -> Rejected:
    """The reject that names what the teacher wrote."""
    said = reason or "the evidence does not stand in the page"
    return Rejected(id_, said, {"unit": unit.id, **pair.model_dump()})


def _all_foreign(pairs: Pairs, unit: Unit) -> Complaint | None:
    """A complaint where no pair is in the page's language; single ones are judged like other faults."""
    found = [foreign(f"{pair.question} {pair.answer}", unit.text) for pair in pairs.pairs]
    return found[0] if all(found) else None
