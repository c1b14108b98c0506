"""Cross-entropy of target tokens: pretraining and fine-tuning, which differ only in the targets their data sets."""

from collections.abc import Mapping

from torch import Tensor

from cirilla_cli.data.batches import IGNORE, TokenBatch
from cirilla_cli.engine.config import LOGITS_BYTES, CrossEntropyConfig
from cirilla_cli.engine.objectives.base import Forward, Term, accumulate, sizes, tallied
from cirilla_cli.model.ops.cross_entropy import Weights
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import TokenLoss


class CrossEntropy:
    """Summed cross-entropy with label smoothing (arXiv:1512.00567, section 7) and PaLM's z-loss (arXiv:2204.02311).

    The term ``nll`` is the plain loss and is what curves and validation show; ``loss`` is what is minimised. Where it
    holds more than ``nll``, the term ``penalised`` has the gradient.
    """

    main = "nll"

    def __init__(self, config: CrossEntropyConfig, *, logits_bytes: int = LOGITS_BYTES) -> None:
        self.weights = Weights(1.0 - config.label_smoothing, config.label_smoothing, config.z_loss)
        self.logits_bytes = logits_bytes

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        """Target tokens, and what layers sum their own losses over."""
        return {"tokens": float((batch.targets_BT != IGNORE).sum()), **sizes(batch)}

    def terms(self, forward: Forward, batch: TokenBatch) -> Mapping[str, Term]:
        """``nll``; where there is more, ``penalised`` and of ``uniform`` and ``z`` what is in it; what layers add."""
        tally = Tally()
        readout = TokenLoss(batch.targets_BT, self.logits_bytes, self.weights)
        sums = forward(batch.tokens_BT, batch.documents_BT, readout, tally)
        if self.weights == Weights():
            return {"nll": Term(sums.loss, "tokens"), **tallied(tally)}
        terms = {"penalised": Term(sums.loss, "tokens"), "nll": Term(sums.nll, "tokens", 0.0)}
        if self.weights.uniform:
            terms["uniform"] = Term(sums.uniform, "tokens", 0.0)
        if self.weights.z:
            terms["z"] = Term(sums.z, "tokens", 0.0)
        return {**terms, **tallied(tally)}

    def backward(self, forward: Forward, batch: TokenBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of the step's mean over target tokens."""
        return accumulate(self.terms(forward, batch), denominators)
