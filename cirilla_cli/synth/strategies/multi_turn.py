"""Conversations of several turns: a question, follow-ups of sixteen kinds, now and then another page."""

import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from cirilla_cli.data.rows import Document, short_id
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import FollowUp, MultiTurnConfig
from cirilla_cli.synth.grounding import Pair, quoted
from cirilla_cli.synth.inert import fenced
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign
from cirilla_cli.synth.strategies.prompts import PAGE
from cirilla_cli.synth.strategies.qa import rejected, turns
from cirilla_cli.verify.match import normalise

_FIRST = "Write the first question of a conversation about {title}, which this text answers; name whom it is about."
_SWITCH = "The person now turns to something else. Write a question about {title}, which this text answers; name it."
_NEXT = "Write the next question of the same person, which this text answers: {kind}"
_TOLD = "The conversation so far:\n{told}\n\n"
_ANSWER = (
    "Give a complete answer that rests on nothing but the text, and as evidence one passage copied from it word for "
    "word."
)
FOLLOW_UPS: dict[FollowUp, str] = {
    "elaborate": "it asks for more detail on the last answer.",
    "clarify": "it asks what something in the last answer means, or whom or what it speaks of.",
    "rephrase": "it asks to say the last answer in other words.",
    "cite_and_summarize": "it asks for the passage that the last answer rests on and for its gist; the answer quotes.",
    "cite_and_explain": "it asks for the passage that the last answer rests on and how it follows; the answer quotes.",
    "simplify": "it asks for the last answer in simpler words, as for a child.",
    "true_statement": 'it begins with "True or false:" and makes a statement that the text supports, then a question '
    'mark. The answer begins with "True" and says why.',
    "false_statement": 'it begins with "True or false:" and makes a statement that the text denies, then a question '
    'mark. The answer begins with "False" and says what is so.',
    "vague": "it is very short and unspecific, and only the conversation shows what it means.",
    "example": "it asks for an example of what was said.",
    "importance": "it asks why that matters.",
    "relation": "it asks how that is connected with another event, person or thing in the text.",
    "comparison": "it asks to compare it with something else in the text.",
    "related_facts": "it asks for two further facts that belong to it.",
    "chronology": "it asks what came before or after, or when.",
    "significance": "it asks what it meant for those it concerned, such as its political or historical weight.",
}
_VERDICTS: dict[FollowUp, str] = {"true_statement": "True", "false_statement": "False"}


class MultiTurn(PieceByPiece[MultiTurnConfig]):
    """One conversation a piece of a page, turn after turn; which turns follows from the piece alone."""

    name = "multi_turn"
    prompts = {
        "first": f"{PAGE}{_FIRST}\n{_ANSWER}",
        "switch": f"{PAGE}{_TOLD}{_SWITCH}\n{_ANSWER}",
        "follow_up": f"{PAGE}{_TOLD}{_NEXT}\n{_ANSWER}",
    }

    def _words(self) -> Iterable[str]:
        return (FOLLOW_UPS[kind] for kind in self._config.follow_ups)

    def units(self, documents: Iterable[Document]) -> Iterator[Unit]:
        """See `Strategy.units`; each piece knows the pages that it may turn to, so all documents are read first."""
        units = list(super().units(documents))
        ring = Ring(units)
        for unit in units:
            others = tuple(ring.others(unit, self._config.max_turns - 1)) if self._config.new_context else ()
            yield Unit(unit.document, unit.number, unit.text, others)

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`: turns with a fault are left out, and what remains must be long enough."""
        rows: list[Made] = []
        good: list[tuple[Unit, Pair]] = []
        plan = self.plan(unit)
        for number, (about, kind) in enumerate(plan):
            key = f"{unit.id}/{number}"
            check = partial(_complaint, about, kind if good else None, [pair.question for _, pair in good])
            pair = desk.ask(key, self._wish(about, kind, good), Pair, check)
            if isinstance(pair, Unsettled):
                return pair
            if isinstance(pair, Rejected):
                rows.append(pair)
            elif (reason := about.fault(pair)) is not None:
                rows.append(rejected(about, pair, desk.row_id(unit, number, pair.question), reason))
            else:
                good.append((about, pair))
        return [*rows, self._judged(unit, plan, good, desk)]

    def plan(self, unit: Unit) -> list[tuple[Unit, FollowUp | None]]:
        """What each turn is about, and how it follows the one before: None where it begins with a piece."""
        draw = random.Random(short_id("multi_turn", unit.id))
        turned: list[tuple[Unit, FollowUp | None]] = [(unit, None)]
        others = iter(unit.others)
        for _ in range(draw.randint(self._config.min_turns, self._config.max_turns) - 1):
            kind = draw.choice(self._config.follow_ups)
            switched = next(others, None) if draw.random() < self._config.new_context else None
            turned.append((turned[-1][0], kind) if switched is None else (switched, None))
        return turned

    def _wish(self, about: Unit, kind: FollowUp | None, good: Sequence[tuple[Unit, Pair]]) -> str:
        if not good:
            return self._prompt("first", about)
        told = fenced(
            "\n".join(f"Question: {pair.question.strip()}\nAnswer: {pair.answer.strip()}" for _, pair in good)
        )
        if kind is None:
            return self._prompt("switch", about, told=told)
        return self._prompt("follow_up", about, told=told, kind=FOLLOW_UPS[kind])

    def _judged(
        self, unit: Unit, plan: Sequence[tuple[Unit, FollowUp | None]], good: Sequence[tuple[Unit, Pair]], desk: Desk
    ) -> Made:
        """The conversation; it names every page that was shown, also where the turn about it was left out."""
        pages = tuple(dict.fromkeys(about.document.id for about, _ in plan))
        if len(good) < self._config.min_turns:
            detail = {"good_turns": len(good), "pages": list(pages)}
            return Rejected(unit.id, "too few good turns", detail)
        evidence = (quoted(pair.evidence, about.text) for about, pair in good)
        id_ = desk.row_id(unit, *(part for _, pair in good for part in (pair.question, pair.answer)))
        return desk.chat(unit, id_, [turn for _, pair in good for turn in turns(pair)], evidence, parents=pages)


class Ring:
    """Pages on a circle of hashes: a page that leaves changes the choice of those alone that had chosen it."""

    def __init__(self, units: Sequence[Unit]) -> None:
        first = {unit.document.id: unit for unit in units if unit.number == 0}
        self._circle = sorted((short_id("ring", id_), unit) for id_, unit in first.items())

    def others(self, unit: Unit, count: int) -> Iterator[Unit]:
        """The first pieces of ``count`` pages other than the unit's own; fewer where there are no others."""
        points = [point for point, _ in self._circle]
        for number in range(count if len(points) > 1 else 0):
            place = bisect(points, short_id("ring", unit.id, number))
            found = self._circle[place % len(points)][1]
            yield found if found.document.id != unit.document.id else self._circle[(place + 1) % len(points)][1]


def _complaint(about: Unit, kind: FollowUp | None, asked: Sequence[str], pair: Pair) -> Complaint | None:
    """A complaint about a turn: a question asked before, no verdict where one is asked for, another language."""
    if normalise(pair.question) in map(normalise, asked):
        return Complaint("repeats a question of the conversation", "That question was asked before")
    verdict = _VERDICTS.get(kind, "") if kind else ""
    if not pair.answer.strip().startswith(verdict):
        return Complaint("no verdict on the statement", f'The answer must begin with "{verdict}"')
    return foreign(f"{pair.question} {pair.answer}", about.text)
