"""Held-out pairs: how often, and by how much, the better answer is the likelier one."""

from collections.abc import Sequence
from typing import Any

from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.rows import Sample, held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Subject
from cirilla_cli.evals.config import PreferencesTaskConfig
from cirilla_cli.evals.stats import ratio_interval, share


class PreferencesTask:
    """log p(chosen) - log p(rejected) of the model alone, no reference, in nats, on held-out pairs."""

    kind = "preferences"

    def __init__(self, pairs: Sequence[Sample]) -> None:
        self.pairs = [pair for pair in pairs if pair.kind == "preference"]

    @classmethod
    def read(cls, config: PreferencesTaskConfig) -> "PreferencesTask":
        """The held-out pairs of sample files.

        Raises:
            CirillaError: malformed rows, or no pair is held out.
        """
        records = read_inputs(config.path)
        pairs = [r for r in records if isinstance(r, Sample) and r.kind == "preference"]
        kept = [pair for pair in pairs if held_out(pair.split_key, frac=config.val)]
        if not kept:
            why = (
                f"none of its {len(pairs)} pairs is held out (`val` is {config.val})" if pairs else "no preference pair"
            )
            raise CirillaError(f"{', '.join(map(str, config.path))}: {why}")
        return cls(kept)

    def score(self, subject: Subject) -> dict[str, Any]:
        """n, correct (chosen likelier), accuracy, interval, margin (mean), margin_interval, too_long (left out)."""
        answers = [(pair.messages, answer or "") for pair in self.pairs for answer in (pair.chosen, pair.rejected)]
        logps = subject.likelihoods(answers)
        margins = [
            better - worse
            for better, worse in zip(logps[::2], logps[1::2], strict=True)
            if better is not None and worse is not None
        ]
        return {
            **share(sum(margin > 0 for margin in margins), len(margins)),
            "margin": round(sum(margins) / len(margins), 6) if margins else None,
            "margin_interval": ratio_interval(margins, [1.0] * len(margins)),
            "too_long": len(self.pairs) - len(margins),
        }
