"""Mixture of experts: a feed-forward in many parts, few of which each token passes."""

# Shape suffixes: B rows, T positions, D model width, M = B T tokens, K experts of one token, E experts.

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cirilla_cli.model.balance import Shares, load_figures, squared_partition, tell
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mlp import Gated
from cirilla_cli.model.ops.grouped import ExpertsProduct, experts_grouped
from cirilla_cli.model.parts import AfterStep, Fused, Tally, Uncompiled
from cirilla_cli.model.routers import Routing
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig


class Experts(Fused):
    """All experts' matrices in two stacks, as in transformers: gate above up ``[E, 2F, D]``, and down ``[E, D, F]``."""

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.product: ExpertsProduct = experts_grouped
        self.gate_up_proj = nn.Parameter(torch.empty(config.n_experts, 2 * config.d_ff, d_model))
        self.down_proj = nn.Parameter(torch.empty(config.n_experts, d_model, config.d_ff))

    def forward(self, x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor) -> Tensor:
        """Weighted sum of each token's experts, ``[M, D]``."""
        return self.product(x_MD, experts_MK, weights_MK, self.gate_up_proj, self.down_proj)

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Each expert's three."""
        d_model, d_ff = self.down_proj.shape[1:]
        return {"gate_up_proj": (d_ff, d_ff), "down_proj": (d_model,)}


class MoE(AfterStep, Uncompiled):
    """sum over the chosen experts of weight * expert(x), plus the shared expert (arXiv:2401.06066, equation 3)."""

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        self.gate = config.router.build(d_model, config.n_experts, config.top_k)
        self.experts = Experts(config, d_model)
        shared = config.shared_d_ff
        self.shared_experts = None if shared is None else Gated(SwiGLUConfig(d_ff=shared), d_model)
        # No buffer: between steps, when checkpoints are written, there is nothing to remember.
        self._chosen_E: Tensor | None = None

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The feed-forward's output ``[B, T, D]``; balance losses go into ``tally``, loads of training are kept."""
        x_MD = x_BTD.flatten(0, 1)
        routing: Routing = self.gate(x_MD)
        out_BTD: Tensor = self.experts(x_MD, routing.experts_MK, routing.weights_MK).view_as(x_BTD)
        if self.shared_experts is not None:
            out_BTD = out_BTD + self.shared_experts(x_BTD, layout)
        training = self.training and torch.is_grad_enabled()
        if training or tally is not None:
            self._account(routing, tokens_of_BT(layout), tally if tally is not None else Tally(), training)
        return out_BTD

    def _account(self, routing: Routing, counted_BT: Tensor, tally: Tally, training: bool) -> None:
        shares = Shares.of(routing, counted_BT)
        if self.config.balance is not None:
            tell(tally, self.config.balance, shares, self.config.top_k)
        if self.config.z_loss:
            total = squared_partition(routing, counted_BT)
            tally.add("moe/z", total, unit="positions", scale=self.config.z_loss)
        if training and self.watching:
            chosen_E = shares.chosen_BE.sum(0)
            self._chosen_E = chosen_E if self._chosen_E is None else self._chosen_E + chosen_E

    def after_step(self, reduce: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Let the router act on the step's loads; returns them as `load_figures`."""
        if self._chosen_E is None:
            return {}
        chosen_E, self._chosen_E = reduce(self._chosen_E), None
        self.gate.rebalance(chosen_E)
        return load_figures(chosen_E)


def tokens_of_BT(layout: SequenceLayout) -> Tensor:
    """True where there is a token: neither padding nor a register."""
    if layout.documents_BT is None:
        tokens_BT = torch.ones_like(layout.positions_BT, dtype=torch.bool)
    else:
        tokens_BT = layout.documents_BT != PADDING
    return tokens_BT if layout.registers_BT is None else tokens_BT & ~layout.registers_BT
