"""Routers: which experts a token passes, and how much each counts; in float32 whatever the format of the rest."""

# Shape suffixes: M tokens, D model width, E experts, K experts of one token, G groups of experts.

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.parts import Exact, OwnInit
from cirilla_cli.model.routing import NoisyRouterConfig, SigmoidRouterConfig, SoftmaxRouterConfig


class Routing(NamedTuple):
    """What a router decided."""

    experts_MK: Tensor
    """The chosen experts."""
    weights_MK: Tensor
    """What their outputs are multiplied with."""
    probabilities_ME: Tensor
    """Scores of all experts, summing to one: what balance losses look at."""
    logits_ME: Tensor


class Router(Exact, ABC):
    """One vector an expert, compared with the token."""

    def __init__(self, d_model: int, n_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))

    @abstractmethod
    def forward(self, x_MD: Tensor) -> Routing:
        """Experts for tokens ``[M, D]``."""

    def rebalance(self, chosen_E: Tensor) -> None:
        """Act on how often each expert was chosen in an optimizer step; most routers leave that to a loss."""

    def _logits(self, x_MD: Tensor) -> Tensor:
        return wide_linear(x_MD, self.weight)


def wide_linear(x_MD: Tensor, weight_ED: Tensor) -> Tensor:
    """The product ``[M, E]`` in float32 at least: near ties are many, and which side wins decides what is computed."""
    wide = torch.promote_types(x_MD.dtype, torch.float32)
    return F.linear(x_MD.to(wide), weight_ED.to(wide))


class SoftmaxRouter(Router):
    """The highest of a softmax (Jiang et al., 2024, arXiv:2401.04088, section 2.1)."""

    def __init__(self, config: SoftmaxRouterConfig, d_model: int, n_experts: int, top_k: int) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.renormalise = config.renormalise

    def forward(self, x_MD: Tensor) -> Routing:
        """Experts for tokens ``[M, D]``."""
        logits_ME = self._logits(x_MD)
        probabilities_ME = logits_ME.softmax(dim=-1)
        weights_MK, experts_MK = probabilities_ME.topk(self.top_k, dim=-1)
        if self.renormalise:
            weights_MK = weights_MK / weights_MK.sum(dim=-1, keepdim=True)
        return Routing(experts_MK, weights_MK, probabilities_ME, logits_ME)


class NoisyRouter(Router):
    """Noise of a learned spread while training (Shazeer et al., 2017, arXiv:1701.06538, equations 3 to 5).

    The noise is drawn as dropout is, from torch's own generator, which the training loop seeds anew for each step: so a
    step is the same whenever it is run. It is not the same in another cut into micro-batches: layers draw in turn
    within a micro-batch, so which number a token gets depends on the tokens beside it, and nothing that a layer sees
    says which row of the whole step a token is of.
    """

    def __init__(self, config: NoisyRouterConfig, d_model: int, n_experts: int, top_k: int) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.noise_weight = nn.Parameter(torch.empty(n_experts, d_model))

    def forward(self, x_MD: Tensor) -> Routing:
        """Experts for tokens ``[M, D]``; in training by noisy logits."""
        logits_ME = self._logits(x_MD)
        if self.training:
            spread_ME = F.softplus(wide_linear(x_MD, self.noise_weight))
            logits_ME = logits_ME + torch.randn_like(logits_ME) * spread_ME
        chosen_MK, experts_MK = logits_ME.topk(self.top_k, dim=-1)
        return Routing(experts_MK, chosen_MK.softmax(dim=-1), logits_ME.softmax(dim=-1), logits_ME)


class SigmoidRouter(Router, OwnInit):
    """Sigmoids, chosen by their sum with a bias and weighted without it (DeepSeek-AI, 2024, arXiv:2412.19437, 2.1.2).

    The bias rises for experts that are chosen too seldom and falls for the others, so that no loss has to pull the
    router away from what predicts best (Wang et al., 2024, arXiv:2408.15664).
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: SigmoidRouterConfig, d_model: int, n_experts: int, top_k: int) -> None:
        super().__init__(d_model, n_experts, top_k)
        self.config = config
        self.register_buffer("e_score_correction_bias", torch.zeros(n_experts))

    def initialise(self, generator: torch.Generator) -> None:
        """No bias."""
        self.e_score_correction_bias.zero_()

    def forward(self, x_MD: Tensor) -> Routing:
        """Experts for tokens ``[M, D]``."""
        logits_ME = self._logits(x_MD)
        scores_ME = logits_ME.sigmoid()
        experts_MK = self._chosen(scores_ME.detach() + self.e_score_correction_bias).topk(self.top_k, dim=-1).indices
        weights_MK = scores_ME.gather(1, experts_MK)
        if self.config.renormalise:
            weights_MK = weights_MK / (weights_MK.sum(dim=-1, keepdim=True) + 1e-20)
        probabilities_ME = scores_ME / scores_ME.sum(dim=-1, keepdim=True)
        return Routing(experts_MK, weights_MK * self.config.scale, probabilities_ME, logits_ME)

    def _chosen(self, scores_ME: Tensor) -> Tensor:
        """Scores of the experts of the best groups ``[M, E]``, minus infinity for the others."""
        if self.config.n_groups == self.config.top_groups:
            return scores_ME
        in_groups = scores_ME.view(len(scores_ME), self.config.n_groups, -1)
        best_MG = in_groups.topk(2, dim=-1).values.sum(dim=-1)
        kept = best_MG.topk(self.config.top_groups, dim=-1).indices
        mask_MG = torch.ones_like(best_MG, dtype=torch.bool).scatter(1, kept, False)
        out_ME: Tensor = in_groups.masked_fill(mask_MG[:, :, None], float("-inf")).flatten(1)
        return out_ME

    @torch.no_grad()
    def rebalance(self, chosen_E: Tensor) -> None:
        """Move each bias by the rate, up for experts below the mean, down for those above (arXiv:2408.15664)."""
        bias_E = self.e_score_correction_bias
        bias_E.add_(torch.sign(chosen_E.mean() - chosen_E).to(bias_E.dtype), alpha=self.config.bias_rate)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep the bias in float32 at least: bfloat16 does not resolve the steps it is moved by."""
        exact_E = self.e_score_correction_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved_E = self.e_score_correction_bias
        wanted = torch.promote_types(moved_E.dtype, torch.float32)
        if moved_E.dtype != wanted:
            self.e_score_correction_bias = exact_E.to(moved_E.device, wanted)
        return self
