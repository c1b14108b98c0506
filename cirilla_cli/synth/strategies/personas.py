"""Questions as different people would ask them, so that the same page is asked about in different words."""

import random
from collections.abc import Iterable

from cirilla_cli.data.rows import short_id
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import PersonasConfig
from cirilla_cli.synth.strategies.base import Desk, PieceByPiece, Settled, Unit, Unsettled
from cirilla_cli.synth.strategies.prompts import PAGE
from cirilla_cli.synth.strategies.qa import ASK, ask_pairs, judged

_ASKED_BY = """
The questions are those of {persona}: what such a person would want to know, in words that such a person would use. \
Each answer is worded for this person, and says nothing that does not stand in the text."""


class Personas(PieceByPiece[PersonasConfig]):
    """One request for each person who asks about a piece."""

    name = "personas"
    prompts = {"ask": PAGE + ASK + _ASKED_BY}

    def _words(self) -> Iterable[str]:
        return self._config.personas

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        rows: list[Made] = []
        for number, persona in enumerate(self.askers(unit)):
            wish = self._prompt("ask", unit, count=self._config.pairs, persona=persona)
            found = ask_pairs(unit, desk, wish, f"/{number}")
            if isinstance(found, Unsettled):
                return found
            rows += [found] if isinstance(found, Rejected) else [judged(unit, pair, desk) for pair in found.pairs]
        return rows

    def askers(self, unit: Unit) -> list[str]:
        """Who asks about a piece: drawn by its id alone."""
        different = list(dict.fromkeys(self._config.personas))
        return random.Random(short_id("personas", unit.id)).sample(different, self._config.per_part)
