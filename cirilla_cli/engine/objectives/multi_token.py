"""Cross-entropy of the next token and of those after it, for models with steps ahead."""

# Shape suffixes: B rows, T positions.

from collections.abc import Mapping

import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, TokenBatch
from cirilla_cli.engine.config import LOGITS_BYTES, MultiTokenConfig
from cirilla_cli.engine.objectives.base import Forward, Term, accumulate, sizes, tallied
from cirilla_cli.model.mtp import shifted
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import MultiToken, TokenLoss

_NO_DOCUMENT = PADDING - 1
"""Document number of what is behind the end of a row."""


class MultiTokenPrediction:
    """The next token's loss and ``weight`` times the mean of the further ones' (arXiv:2412.19437, equation 25).

    Each distance is a mean over its own targets: fewer the further ahead, because none reaches into another document.
    """

    main = "nll"

    def __init__(self, config: MultiTokenConfig, *, logits_bytes: int = LOGITS_BYTES) -> None:
        self.weight, self.depth, self.logits_bytes = config.weight, config.depth, logits_bytes

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        """Target tokens at each distance, and what layers sum their own losses over."""
        targets = self._targets(batch)
        ahead = {_unit(k): float((t_BT != IGNORE).sum()) for k, t_BT in enumerate(targets) if k}
        return {"tokens": float((targets[0] != IGNORE).sum()), **ahead, **sizes(batch)}

    def terms(self, forward: Forward, batch: TokenBatch) -> Mapping[str, Term]:
        """``nll`` of the next token, ``nll_2`` of the one after, and so on; and what layers add."""
        tally = Tally()
        losses = tuple(TokenLoss(targets_BT, self.logits_bytes) for targets_BT in self._targets(batch))
        first, *rest = forward(batch.tokens_BT, batch.documents_BT, MultiToken(losses), tally)
        ahead = {
            f"nll_{k + 1}": Term(sums.loss, _unit(k), self.weight / self.depth) for k, sums in enumerate(rest, start=1)
        }
        return {"nll": Term(first.loss, "tokens"), **ahead, **tallied(tally)}

    def backward(self, forward: Forward, batch: TokenBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of the weighted means."""
        return accumulate(self.terms(forward, batch), denominators)

    def _targets(self, batch: TokenBatch) -> list[Tensor]:
        """The targets 1, 2, ... tokens on; IGNORE where that is outside the document."""
        found, documents_BT = [batch.targets_BT], batch.documents_BT
        for k in range(1, self.depth + 1):
            same_BT = shifted(documents_BT, k, _NO_DOCUMENT) == documents_BT
            found.append(torch.where(same_BT, shifted(batch.targets_BT, k, IGNORE), IGNORE))
        return found


def _unit(k: int) -> str:
    return f"tokens_{k + 1}"
