"""Questions one at a time, each different from all that were asked about its piece of the page before."""

from collections.abc import Iterable, Sequence
from functools import partial

from cirilla_cli.synth.base import Rejected
from cirilla_cli.synth.config import VariantsConfig
from cirilla_cli.synth.grounding import Pair
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign, rounds
from cirilla_cli.synth.strategies.prompts import DIFFERENT, PAGE, earlier
from cirilla_cli.synth.strategies.qa import judged, repeated

ASK = """\
Write one question that this text answers, clear to someone who does not see the text, so name whom or what it is \
about. Give a short, complete answer, and as evidence one passage copied word for word from the text."""


class Variants(PieceByPiece[VariantsConfig]):
    """Asks round after round, and ends where the teacher finds nothing new."""

    name = "variants"
    prompts = {"ask": f"{PAGE}{ASK}{{earlier}}"}

    def _words(self) -> Iterable[str]:
        return [DIFFERENT]

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        ask = partial(self._another, unit, desk)
        return rounds(self._config.rounds, ask, lambda pair: judged(unit, pair, desk))

    def _another(self, unit: Unit, desk: Desk, number: int, asked: list[str]) -> Pair | Rejected | Unsettled:
        prompt = self._prompt("ask", unit, earlier=earlier(asked))
        return desk.ask(f"{unit.id}/{number}", prompt, Pair, partial(self._complaint, unit, asked))

    def _complaint(self, unit: Unit, asked: Sequence[str], pair: Pair) -> Complaint | None:
        said = f"{pair.question} {pair.answer}"
        return repeated(pair.question, asked, self._config.most_alike) or foreign(said, unit.text)
