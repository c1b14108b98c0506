"""Questions that grow: a grounded one, then changes of it in depth or breadth (Evol-Instruct, arXiv:2304.12244)."""

import random
from collections.abc import Iterable, Sequence
from functools import partial

from cirilla_cli.data.rows import Sample, short_id
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import Change, EvolveConfig
from cirilla_cli.synth.grounding import Pair
from cirilla_cli.synth.inert import fenced
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign
from cirilla_cli.synth.strategies.prompts import PAGE
from cirilla_cli.synth.strategies.qa import judged, repeated
from cirilla_cli.synth.strategies.variants import ASK

_EVOLVE = """\
A question and its answer, which were written from it:
{told}

Make a new question of that one: {change} It must be answered by the text, clear to someone who does not see the text, \
and not much longer. Give a short, complete answer, and as evidence one passage copied word for word from the text."""
CHANGES: dict[Change, str] = {
    "constrain": "set one more condition, which narrows down what is asked for.",
    "deepen": "ask how or why, or what follows, where that one asks what, who, when or where.",
    "concretize": "put something particular from the text in the place of something general.",
    "combine": "ask for it together with a second fact of the text, so that the answer needs both.",
    "broaden": "ask about another matter in the same text, as hard, and one that few would think of.",
}


class Evolve(PieceByPiece[EvolveConfig]):
    """One pair a piece, and round after round a change of the last one that passed every check."""

    name = "evolve"
    prompts = {"first": PAGE + ASK, "change": PAGE + _EVOLVE}

    def _words(self) -> Iterable[str]:
        return CHANGES.values()

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`; where the first pair has a fault there is nothing to change."""
        rows: list[Made] = []
        asked: list[str] = []
        last: Pair | None = None
        for number, change in enumerate([None, *self.plan(unit)]):
            if number and last is None:
                break
            prompt, check = self._wish(unit, change, last), partial(self._complaint, asked, unit)
            pair = desk.ask(f"{unit.id}/{number}", prompt, Pair, check)
            if isinstance(pair, Unsettled):
                return pair
            rows.append(pair if isinstance(pair, Rejected) else judged(unit, pair, desk, change or "first"))
            asked += [pair.question] if isinstance(pair, Pair) else []
            last = pair if isinstance(pair, Pair) and isinstance(rows[-1], Sample) else last
        return rows

    def plan(self, unit: Unit) -> list[Change]:
        """The changes of a piece's question: drawn by its id alone."""
        draw = random.Random(short_id("evolve", unit.id))
        return [draw.choice(self._config.changes) for _ in range(self._config.rounds)]

    def _complaint(self, asked: Sequence[str], unit: Unit, pair: Pair) -> Complaint | None:
        said = f"{pair.question} {pair.answer}"
        return repeated(pair.question, asked, self._config.most_alike) or foreign(said, unit.text)

    def _wish(self, unit: Unit, change: Change | None, last: Pair | None) -> str:
        if change is None or last is None:
            return self._prompt("first", unit)
        told = f"Question: {last.question.strip()}\nAnswer: {last.answer.strip()}"
        return self._prompt("change", unit, told=fenced(told), change=CHANGES[change])
