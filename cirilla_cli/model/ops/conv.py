"""Causal convolution of each channel on its own, over documents that know nothing of each other."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, R remembered positions, E channels,
# K taps, 1 one.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_ELEMENTS = 2**17
"""Size of a tensor of some positions, of which several stay in the caches of a core; each thread has one."""


def causal_conv(
    x_BTE: Tensor,
    weight_E1K: Tensor,
    bias_E: Tensor | None = None,
    *,
    tail_BRE: Tensor | None = None,
    positions_BT: Tensor | None = None,
) -> Tensor:
    """Each channel's last K inputs, weighted: ``[B, T, E]``.

    The last tap is that of the position itself, as in ``nn.Conv1d(E, E, K, groups=E)``. Written as K shifted products,
    because a depthwise kernel wants time innermost and cannot leave out taps by position; its gradient is written out,
    so it can be differentiated once.

    Args:
        weight_E1K: the taps, oldest first.
        tail_BRE: the K - 1 inputs before the first new one, as `tail_of` gives them; None for zeros.
        positions_BT: place of each input in its document, where a row holds several: no output sees further back than
            to the first. None for rows of one document.
    """
    taps_KE = weight_E1K[:, 0].T
    if tail_BRE is None:
        return _shifted_BTE(x_BTE, taps_KE, bias_E, positions_BT)
    seen_BSE = torch.cat([tail_BRE, x_BTE], dim=1)
    if x_BTE.shape[1] == 1 and positions_BT is None:
        out_BTE = (seen_BSE * taps_KE).sum(1, keepdim=True)
        return out_BTE if bias_E is None else out_BTE + bias_E
    # Outputs at what is remembered are dropped, so it is all the same where in a document that is.
    places_BS = None if positions_BT is None else F.pad(positions_BT, (len(taps_KE) - 1, 0))
    return _shifted_BTE(seen_BSE, taps_KE, bias_E, places_BS)[:, len(taps_KE) - 1 :]


def _shifted_BTE(x_BTE: Tensor, taps_KE: Tensor, bias_E: Tensor | None, positions_BT: Tensor | None) -> Tensor:
    """The outputs as K products of the taps with the inputs, each shifted by one more."""
    out_BTE: Tensor = ShiftedProducts.apply(x_BTE, taps_KE, bias_E, positions_BT)  # type: ignore[no-untyped-call]
    return out_BTE


class ShiftedProducts(torch.autograd.Function):
    """A few positions at a time on a CPU: K products over all of them are K times the way to memory and back."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Outputs, from inputs, taps, bias and positions within documents."""
        x_BTE, taps_KE, bias_E, positions_BT = inputs
        ctx.save_for_backward(x_BTE, taps_KE, bias_E, positions_BT)
        out_BTE = torch.empty_like(x_BTE, memory_format=torch.contiguous_format)
        for start, stop in _stretches(x_BTE):
            torch.mul(x_BTE[:, start:stop], taps_KE[-1], out=out_BTE[:, start:stop])
            if bias_E is not None:
                out_BTE[:, start:stop].add_(bias_E)
            for back in range(1, len(taps_KE)):
                first = max(start, back)
                part = _reached(x_BTE[:, first - back : max(first, stop) - back], positions_BT, first, back)
                out_BTE[:, first:stop].addcmul_(part, taps_KE[-1 - back])
        return out_BTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what has one."""
        (x_BTE, taps_KE, bias_E, positions_BT), (grad_BTE,) = ctx.saved_tensors, grads
        x_grad_BTE, taps_grad_KE = torch.empty_like(grad_BTE), torch.zeros_like(taps_KE)
        for start, stop in _stretches(x_BTE):
            torch.mul(grad_BTE[:, start:stop], taps_KE[-1], out=x_grad_BTE[:, start:stop])
            taps_grad_KE[-1] += (grad_BTE[:, start:stop] * x_BTE[:, start:stop]).sum((0, 1))
            for back in range(1, len(taps_KE)):
                part = _reached(grad_BTE[:, start + back : stop + back], positions_BT, start + back, back)
                end = start + part.shape[1]
                x_grad_BTE[:, start:end].addcmul_(part, taps_KE[-1 - back])
                taps_grad_KE[-1 - back] += (part * x_BTE[:, start:end]).sum((0, 1))
        return x_grad_BTE, taps_grad_KE, None if bias_E is None else grad_BTE.sum((0, 1)), None


def _stretches(x_BTE: Tensor) -> list[tuple[int, int]]:
    """The positions computed at once, first and after the last."""
    B, T, E = x_BTE.shape
    size = T
    if x_BTE.device.type == "cpu" and not torch.compiler.is_compiling():
        size = max(1, CACHED_ELEMENTS * torch.get_num_threads() // (B * E))
    return [(start, min(start + size, T)) for start in range(0, T, size)]


def _reached(part: Tensor, positions_BT: Tensor | None, first: int, back: int) -> Tensor:
    """The same, with zeros for those from position ``first`` on whose document began less than ``back`` before."""
    if positions_BT is None:
        return part
    return part * (positions_BT[:, first : first + part.shape[1]] >= back).to(part.dtype)[..., None]


def tail_of(tail_BRE: Tensor | None, x_BTE: Tensor, taps: int) -> Tensor:
    """The ``taps - 1`` inputs that the next call wants to know of, ``[B, K - 1, E]``."""
    new_BTE = x_BTE[:, max(0, x_BTE.shape[1] - (taps - 1)) :]
    seen_BSE = F.pad(new_BTE, (0, 0, taps - 1, 0)) if tail_BRE is None else torch.cat([tail_BRE, new_BTE], dim=1)
    return seen_BSE[:, seen_BSE.shape[1] - (taps - 1) :]
