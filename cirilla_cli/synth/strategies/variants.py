"""Questions one at a time, each different from all that were asked about its piece of the page before."""

from collections.abc import Sequence

from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import VariantsConfig
from cirilla_cli.synth.grounding import Pair
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign
from cirilla_cli.synth.strategies.qa import judged, repeated

ASK = """\
Write one question that this text answers, clear to someone who does not see the text, so name whom or what it is \
about. Give a short, complete answer, and as evidence one passage copied word for word from the text."""
DIFFERENT = "Ask about something else than these questions do, which were asked before:"


class Variants(PieceByPiece[VariantsConfig]):
    """Asks round after round, and ends where the teacher finds nothing new."""

    name = "variants"
    instructions = f"{ASK}\n{DIFFERENT}"

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        asked: list[str] = []
        rows: list[Made] = []
        for number in range(self._config.rounds):
            pair = self._another(unit, number, asked, desk)
            if isinstance(pair, Unsettled):
                return pair
            if isinstance(pair, Rejected):
                return [*rows, pair]
            asked.append(" ".join(pair.question.split()))
            rows.append(judged(unit, pair, desk))
        return rows

    def _another(self, unit: Unit, number: int, asked: Sequence[str], desk: Desk) -> Pair | Rejected | Unsettled:
        prompt = f"{unit.block}\n\n{ASK}{earlier(asked)}"
        return desk.ask(f"{unit.id}/{number}", prompt, Pair, lambda pair: self._complaint(pair, unit, asked))

    def _complaint(self, pair: Pair, unit: Unit, asked: Sequence[str]) -> Complaint | None:
        said = f"{pair.question} {pair.answer}"
        return repeated(pair.question, asked, self._config.most_alike) or foreign(said, unit.text)


def earlier(asked: Sequence[str]) -> str:
    """The end of a prompt that wants another question than those before; nothing where there are none."""
    return "\n".join([f"\n{DIFFERENT}", *(f"- {question}" for question in asked)]) if asked else ""
