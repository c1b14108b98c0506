"""Cross-entropy of target tokens: pretraining and fine-tuning, which differ only in the targets their data sets."""

from collections.abc import Mapping

from torch import Tensor

from cirilla_cli.data.batches import IGNORE, TokenBatch
from cirilla_cli.engine.config import LOGITS_BYTES, CrossEntropyConfig
from cirilla_cli.engine.objectives.base import Forward, Term, accumulate, sizes, tallied
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import TokenLoss


class CrossEntropy:
    """Summed cross-entropy with label smoothing (arXiv:1512.00567, section 7) and PaLM's z-loss (arXiv:2204.02311).

    The term ``nll`` is the plain loss and is what curves and validation show; ``loss`` is what is minimised.
    """

    main = "nll"

    def __init__(self, config: CrossEntropyConfig, *, logits_bytes: int = LOGITS_BYTES) -> None:
        self.smoothing, self.z_weight, self.logits_bytes = config.label_smoothing, config.z_loss, logits_bytes

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        """Target tokens, and what layers sum their own losses over."""
        return {"tokens": float((batch.targets_BT != IGNORE).sum()), **sizes(batch)}

    def terms(self, forward: Forward, batch: TokenBatch) -> Mapping[str, Term]:
        """``nll``, ``uniform`` and ``z`` where they have a weight, and what layers add."""
        tally = Tally()
        sums = forward(batch.tokens_BT, batch.documents_BT, TokenLoss(batch.targets_BT, self.logits_bytes), tally)
        terms = {"nll": Term(sums.nll, "tokens", 1.0 - self.smoothing)}
        if self.smoothing:
            terms["uniform"] = Term(sums.uniform, "tokens", self.smoothing)
        if self.z_weight:
            terms["z"] = Term(sums.z, "tokens", self.z_weight)
        return {**terms, **tallied(tally)}

    def backward(self, forward: Forward, batch: TokenBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of the step's mean over target tokens."""
        return accumulate(self.terms(forward, batch), denominators)
