"""Direct preference optimisation."""

# Shape suffixes: B rows, T positions, P pairs.

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, PairBatch
from cirilla_cli.engine.config import LOGITS_BYTES, DPOConfig
from cirilla_cli.engine.objectives.base import Forward, Term, accumulate, sizes, tallied
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import TokenLogp


def answer_logps(logp_BT: Tensor, documents_BT: Tensor, n_pairs: int) -> Tensor:
    """Log-probabilities ``[P, 2]`` of each pair's two answers: the sums over their documents' target tokens."""
    # Padding goes to one sum more, which is dropped.
    index = torch.where(documents_BT == PADDING, 2 * n_pairs, documents_BT).flatten()
    sums = torch.zeros(2 * n_pairs + 1, dtype=logp_BT.dtype, device=logp_BT.device)
    return sums.index_add(0, index, logp_BT.flatten())[:-1].view(n_pairs, 2)


class DPO:
    """-log sigmoid(beta * (log-ratio of the better answer - log-ratio of the worse)) (arXiv:2305.18290, equation 7).

    With ``label_smoothing`` e: (1 - e) times that plus e times the loss of the swapped pair (conservative DPO).
    """

    main = "dpo"

    def __init__(self, config: DPOConfig, *, logits_bytes: int = LOGITS_BYTES) -> None:
        self.beta, self.smoothing, self.sft_weight = config.beta, config.label_smoothing, config.sft_weight
        self.logits_bytes = logits_bytes

    def counts(self, batch: PairBatch) -> Mapping[str, float]:
        """Pairs, the better answers' tokens, and what layers sum their own losses over."""
        better_BT = (batch.documents_BT != PADDING) & (batch.documents_BT % 2 == 0)
        chosen = (batch.targets_BT != IGNORE) & better_BT
        tokens = (batch.targets_BT != IGNORE).sum()
        return {
            "pairs": float(len(batch.pairs_P)), "chosen_tokens": float(chosen.sum()), "tokens": float(tokens),
            **sizes(batch),
        }  # fmt: skip

    def terms(self, forward: Forward, batch: PairBatch) -> Mapping[str, Term]:
        """``dpo`` per pair, ``sft`` per token of the better answers, what layers add, and figures without gradient."""
        tally = Tally()
        policy_P2 = self.logps(forward, batch, tally)
        ratio_P2 = policy_P2 - batch.reference_P2.to(policy_P2.dtype)
        margin_P = self.beta * (ratio_P2[:, 0] - ratio_P2[:, 1])
        loss_P = -(1 - self.smoothing) * F.logsigmoid(margin_P) - self.smoothing * F.logsigmoid(-margin_P)
        fixed_P2 = policy_P2.detach()
        above_P = (fixed_P2[:, 0] > fixed_P2[:, 1]).to(fixed_P2.dtype)
        return {
            "dpo": Term(loss_P.sum(), "pairs"),
            "sft": Term(-policy_P2[:, 0].sum(), "chosen_tokens", self.sft_weight),
            "reward_margin": Term(margin_P.detach().sum(), "pairs", 0.0),
            "reward_accuracy": Term((margin_P.detach() > 0).to(fixed_P2.dtype).sum(), "pairs", 0.0),
            "margin": Term((fixed_P2[:, 0] - fixed_P2[:, 1]).sum(), "pairs", 0.0),
            "chosen_above": Term(above_P.sum(), "pairs", 0.0),
            **tallied(tally),
        }

    def backward(self, forward: Forward, batch: PairBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of the step's mean over pairs."""
        return accumulate(self.terms(forward, batch), denominators)

    def logps(self, forward: Forward, batch: PairBatch, tally: Tally | None = None) -> Tensor:
        """Log-probabilities ``[P, 2]`` of both answers under the model."""
        readout = TokenLogp(batch.targets_BT, self.logits_bytes)
        logp_BT = forward(batch.tokens_BT, batch.documents_BT, readout, tally)
        return answer_logps(logp_BT, batch.documents_BT, len(batch.pairs_P))
