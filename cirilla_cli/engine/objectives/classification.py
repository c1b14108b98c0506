"""Cross-entropy of documents' labels."""

from collections.abc import Mapping

from torch import Tensor

from cirilla_cli.data.batches import PADDING
from cirilla_cli.data.labelled_batches import LabelledBatch
from cirilla_cli.engine.config import ClassificationConfig
from cirilla_cli.engine.objectives.base import Forward, Term, accumulate, sizes, tallied
from cirilla_cli.model.heads import LabelLoss
from cirilla_cli.model.parts import Tally


class Classification:
    """Summed cross-entropy of each document's label, and the share that is classified right.

    The term ``nll`` is the plain loss, whatever the smoothing; ``accuracy`` is only reported.
    """

    main = "nll"

    def __init__(self, config: ClassificationConfig) -> None:
        self.smoothing = config.label_smoothing

    def counts(self, batch: LabelledBatch) -> Mapping[str, float]:
        """Documents, their tokens, and what layers sum their own losses over."""
        tokens = (batch.documents_BT != PADDING).sum()
        return {"documents": float(len(batch.labels_P)), "tokens": float(tokens), **sizes(batch)}

    def terms(self, forward: Forward, batch: LabelledBatch) -> Mapping[str, Term]:
        """``nll`` and ``accuracy`` per document, ``uniform`` where it has a weight, and what layers add."""
        tally = Tally()
        sums = forward(batch.tokens_BT, batch.documents_BT, LabelLoss(batch.labels_P), tally)
        terms = {
            "nll": Term(sums.nll, "documents", 1.0 - self.smoothing),
            "accuracy": Term(sums.correct, "documents", 0.0),
        }
        if self.smoothing:
            terms["uniform"] = Term(sums.uniform, "documents", self.smoothing)
        return {**terms, **tallied(tally)}

    def backward(self, forward: Forward, batch: LabelledBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of the step's mean over documents."""
        return accumulate(self.terms(forward, batch), denominators)
