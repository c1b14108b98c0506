"""A Kolmogorov-Arnold feed-forward: a learned curve on every edge in place of a fixed one on every node."""

# Shape suffixes: I inputs of a layer, O outputs, C curves an edge is a sum of.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import OwnInit, Tally
from cirilla_cli.model.sections import KANConfig


class KANLayer(OwnInit):
    """y_o = sum over i of base_oi silu(x_i) + sum over c of spline_oic B_c(x_i) (arXiv:2404.19756, section 2.2)."""

    def __init__(self, config: KANConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grid, self.order, self.reach = config.grid, config.order, config.reach
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.spline = nn.Linear(inputs * (config.grid + config.order), outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The curves' sums ``[..., O]`` for ``x`` ``[..., I]``."""
        bases = b_splines(x, self.grid, self.order, self.reach)
        out: Tensor = self.base(F.silu(x)) + self.spline(bases.flatten(-2))
        return out

    def initialise(self, generator: torch.Generator) -> None:
        """Curves near zero, at a tenth of what matrices begin with: a fresh layer is nearly a plain one with silu."""
        self.spline.weight.mul_(0.1)


class KAN(nn.Module):
    """Two Kolmogorov-Arnold layers, in and out again (Liu et al., 2024, arXiv:2404.19756)."""

    def __init__(self, config: KANConfig, d_model: int) -> None:
        super().__init__()
        self.up_proj = KANLayer(config, d_model, config.d_ff)
        self.down_proj = KANLayer(config, config.d_ff, d_model)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The feed-forward's output ``[B, T, D]`` for hidden states ``[B, T, D]``."""
        out: Tensor = self.down_proj(self.up_proj(x_BTD))
        return out


def b_splines(x: Tensor, grid: int, order: int, reach: float) -> Tensor:
    """The ``grid + order`` B-splines of that order at ``x``, ``[..., C]``; zero beyond the grid (de Boor's recursion).

    Their knots are evenly spaced, ``grid`` intervals from -reach to reach and ``order`` more on each side.
    """
    step = 2 * reach / grid
    knots = torch.arange(-order, grid + order + 1, device=x.device, dtype=x.dtype) * step - reach
    x = x[..., None]
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - knots[: -k - 1]) / (k * step)
        right = (knots[k + 1 :] - x) / (k * step)
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    return bases
