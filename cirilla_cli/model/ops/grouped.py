"""Each token through the gated feed-forwards of its own experts: products over sorted tokens, beside a plain loop.

On a CPU with several threads `ops.padded` computes the same.

    tokens M x D --spread--> choices S x D, sorted by expert --product--> S x G --gate--> S x F --product--> S x D
           M x D <---------------------------- gather, K choices of each token added up <-------------------+

No token is dropped, none is padded for. The weight of a choice is applied where the vectors are shortest: F wide.
"""

# Shape suffixes: M tokens, K choices of each, S = M K choices, E experts, D model width, F inner width, G = 2 F
# (gate, then up), I and O widths before and after a product.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.ops.padded import experts_padded

ExpertsProduct = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""`experts_loop`, `experts_grouped`, or what an installed kernel makes of the same arguments."""


def experts_loop(x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate(x)) * up(x)), ``[M, D]``: one expert after the other.

    The reference for `experts_grouped`; also differentiable twice, and in float64.
    """
    out_MD = torch.zeros_like(x_MD)
    for expert, (gate_up_GD, down_DF) in enumerate(zip(gate_up_EGD.unbind(), down_EDF.unbind(), strict=True)):
        token, choice = torch.where(experts_MK == expert)
        gate, up = (x_MD[token] @ gate_up_GD.T).chunk(2, dim=-1)
        part = (F.silu(gate) * up) @ down_DF.T
        out_MD = out_MD.index_add(0, token, part * weights_MK[token, choice, None].to(part.dtype))
    return out_MD


def experts_grouped(
    x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor
) -> Tensor:
    """The same sum ``[M, D]`` by the fastest way there is here: a few experts at a time on a CPU, else all at once."""
    # One thread gains nothing from products of equal size, and pays for what fills them up.
    if x_MD.device.type == "cpu" and not torch.compiler.is_compiling() and torch.get_num_threads() > 1:
        return experts_padded(x_MD, experts_MK, weights_MK, gate_up_EGD, down_EDF)
    return experts_sorted(x_MD, experts_MK, weights_MK, gate_up_EGD, down_EDF)


def experts_sorted(
    x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor
) -> Tensor:
    """The same sum ``[M, D]``, each expert's tokens lying together, so that a product over all experts is one call."""
    order = _Order.of(experts_MK, len(gate_up_EGD))
    x_SD = _spread(x_MD, order)
    gate_SF, up_SF = grouped_product(x_SD, gate_up_EGD, order.ends_E).chunk(2, dim=-1)
    weights_S = weights_MK.flatten().index_select(0, order.choices_S)
    inner_SF = F.silu(gate_SF) * up_SF * weights_S[:, None].to(x_MD.dtype)
    return _gather(grouped_product(inner_SF, down_EDF, order.ends_E), order)


def grouped_product(x_SI: Tensor, weights_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Rows ``ends[e - 1]`` to ``ends[e]`` of x times the transposed matrix of expert e, ``[S, O]``."""
    if takes_grouped_mm(x_SI, weights_EOI):
        # Fused on GPUs from sm_90 on; elsewhere torch's own loop, which costs less than one in Python.
        return F.grouped_mm(x_SI, weights_EOI.mT, offs=ends_E.int())
    return slices_product(x_SI, weights_EOI, ends_E)


def slices_product(x_SI: Tensor, weights_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """The same as a loop over contiguous slices, for every format and width ``[S, O]``."""
    # Split before the last end: what is left is the last expert's.
    slices = x_SI.tensor_split(ends_E[:-1].cpu())
    # Unbound, not indexed: the gradient of each indexing would be as large as the whole stack.
    parts = zip(slices, weights_EOI.unbind(), strict=True)
    return torch.cat([part @ weight.T for part, weight in parts])


def takes_grouped_mm(x_SI: Tensor, weights_EOI: Tensor) -> bool:
    """Whether torch's grouped product takes these: not float64, and every row begins at a multiple of 16 bytes.

    Its description for `torch.compile` knows of bfloat16 alone.
    """
    formats = (torch.bfloat16,) if torch.compiler.is_compiling() else (torch.float32, torch.bfloat16)
    if x_SI.dtype not in formats or x_SI.dtype != weights_EOI.dtype:
        return False
    return all(width * x_SI.element_size() % 16 == 0 for width in weights_EOI.shape[1:])


class _Order(NamedTuple):
    """Choices sorted by expert."""

    choices_S: Tensor
    """Which choice, counted over tokens and then their choices, stands at each place."""
    places_S: Tensor
    """The inverse: where each choice stands."""
    ends_E: Tensor
    """How many choices are of an expert or of one before it."""
    top_k: int

    @classmethod
    def of(cls, experts_MK: Tensor, n_experts: int) -> "_Order":
        sorted_S, choices_S = experts_MK.flatten().sort(stable=True)
        counted_S = torch.arange(len(choices_S), device=choices_S.device)
        places_S = torch.empty_like(choices_S).scatter_(0, choices_S, counted_S)
        ends_E = torch.searchsorted(sorted_S, torch.arange(n_experts, device=sorted_S.device), right=True)
        return cls(choices_S, places_S, ends_E, experts_MK.shape[1])


def _spread(x_MD: Tensor, order: _Order) -> Tensor:
    out_SD: Tensor = _Spread.apply(x_MD, order.choices_S, order.places_S, order.top_k)  # type: ignore[no-untyped-call]
    return out_SD


def _gather(y_SD: Tensor, order: _Order) -> Tensor:
    out_MD: Tensor = _Gather.apply(y_SD, order.choices_S, order.places_S, order.top_k)  # type: ignore[no-untyped-call]
    return out_MD


class _Spread(torch.autograd.Function):
    """The token of each place; its gradient is a gather, not the scattered addition that autograd would make."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, choices_S: Tensor, places_S: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(choices_S, places_S)
        ctx.top_k = top_k
        return x_MD.index_select(0, choices_S // top_k)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gather.apply(grads[0], *ctx.saved_tensors, ctx.top_k), None, None, None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """The sum of each token's places, the transpose of `_Spread`; in one order always, so bit-equal on every run."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, choices_S: Tensor, places_S: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(choices_S, places_S)
        ctx.top_k = top_k
        return y_SD.index_select(0, places_S).view(-1, top_k, y_SD.shape[1]).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Spread.apply(grads[0], *ctx.saved_tensors, ctx.top_k), None, None, None  # type: ignore[no-untyped-call]
