"""Experts on several threads of a CPU: a few at a time, filled up to equally many tokens.

    tokens M x D --take--> N x C x D --product--> N x C x G --gate--> N x C x F --product--> places P x D
           M x D <--------------------- sum over the K places of each token <-------------------+

What a few experts need stays in caches, and their products run side by side, one a thread; whole stacks of sorted
tokens are memory that is new at each step, and small products gain little from a second thread each.
"""

# Shape suffixes: M tokens, K choices of each, S = M K choices, E experts, D model width, F inner width, G = 2 F (gate,
# then up), N experts of a tile, C choices of each with what they are filled up by, P places of all tiles, 1 one.

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_ELEMENTS = 2**19
"""Size of the largest tensor of a tile, such that what is made of it is still in a CPU's caches when it is read."""
MOST_FILLED = 1 / 4
"""Of the choices of a tile, how many may be added to fill it up."""


def experts_padded(
    x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor
) -> Tensor:
    """What `experts_loop` computes, ``[M, D]``. Its gradient is written out: differentiable once."""
    keep = torch.is_grad_enabled()
    out_MD: Tensor = _Padded.apply(x_MD, experts_MK, weights_MK, gate_up_EGD, down_EDF, keep)  # type: ignore[no-untyped-call]
    return out_MD


class _Tile(NamedTuple):
    """Neighbouring experts with about as many choices each."""

    experts: slice
    places: slice
    choices_NC: Tensor
    """Which choices; those that only fill up are number S."""

    def of(self, rows: Tensor, top_k: int = 1) -> Tensor:
        """Rows of their choices, or tokens, ``[N, C, ...]``; the last row is for what only fills up."""
        taken = rows.index_select(0, (self.choices_NC // top_k).flatten())
        return torch.unflatten(taken, 0, self.choices_NC.shape)

    def slots(self, rows_PD: Tensor) -> Tensor:
        """Where their results belong, ``[N, C, D]``."""
        return torch.unflatten(rows_PD[self.places], 0, self.choices_NC.shape)


def _tiles(experts_MK: Tensor, n_experts: int, most: int) -> list[_Tile]:
    """All choices; at most ``most`` in a tile of several experts."""
    choices_S = experts_MK.flatten().sort(stable=True).indices
    counts = torch.bincount(experts_MK.flatten(), minlength=n_experts).tolist()
    tiles, start, first, place = [], 0, 0, 0
    while start < n_experts:
        stop, widest = _end_of_tile(counts, start, most)
        numbers, arange_C = [], torch.arange(widest)
        for count in counts[start:stop]:
            numbers.append(torch.where(arange_C < count, first + arange_C, len(choices_S)))
            first += count
        choices_NC = F.pad(choices_S, (0, 1), value=len(choices_S))[torch.stack(numbers)]
        tiles.append(_Tile(slice(start, stop), slice(place, place + choices_NC.numel()), choices_NC))
        start, place = stop, place + choices_NC.numel()
    return tiles


def _end_of_tile(counts: list[int], start: int, most: int) -> tuple[int, int]:
    """The first expert that is not of the tile that begins with ``start``, and the choices of its largest."""
    stop, widest, total = start + 1, counts[start], counts[start]
    while stop < len(counts):
        wider, total = max(widest, counts[stop]), total + counts[stop]
        filled = wider * (stop + 1 - start)
        if filled > most or filled > total * (1 + MOST_FILLED):
            break
        stop, widest = stop + 1, wider
    return stop, widest


class _Padded(torch.autograd.Function):
    """Keeps what the first product gave; the rest is made again on the way back."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x_MD, experts_MK, weights_MK, gate_up_EGD, down_EDF, keep = inputs
        tiles = _tiles(experts_MK, len(down_EDF), CACHED_ELEMENTS // gate_up_EGD.shape[1])
        x, weights = _with_last_row(x_MD), _with_last_row(weights_MK.flatten().to(x_MD.dtype))
        y_PD, kept = x_MD.new_empty(tiles[-1].places.stop, x_MD.shape[1]), []
        for tile in tiles:
            gate_up_NCG = tile.of(x, experts_MK.shape[1]) @ gate_up_EGD[tile.experts].mT
            gate_NCF, up_NCF = gate_up_NCG.chunk(2, dim=-1)
            inner_NCF = F.silu(gate_NCF).mul_(up_NCF).mul_(tile.of(weights)[..., None])
            torch.bmm(inner_NCF, down_EDF[tile.experts].mT, out=tile.slots(y_PD))
            if keep:
                kept.append(gate_up_NCG)
        ctx.tiles, ctx.places_MK = tiles, _places_MK(tiles, experts_MK.shape)
        ctx.save_for_backward(x_MD, weights_MK, gate_up_EGD, down_EDF, *kept)
        return F.embedding_bag(ctx.places_MK, y_PD, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, weights_MK, gate_up_EGD, down_EDF, *kept = ctx.saved_tensors
        gate_up_grad_EGD, down_grad_EDF = torch.empty_like(gate_up_EGD), torch.empty_like(down_EDF)
        x, out_grad = _with_last_row(x_MD), _with_last_row(grads[0])
        weights = _with_last_row(weights_MK.flatten().to(x_MD.dtype))
        x_grad_PD, weights_grad = x_MD.new_empty(ctx.tiles[-1].places.stop, x_MD.shape[1]), torch.empty_like(weights)
        for tile, gate_up_NCG in zip(ctx.tiles, kept, strict=True):
            e, out_grad_NCD = tile.experts, tile.of(out_grad, weights_MK.shape[1])
            back = _gate_back(gate_up_NCG, out_grad_NCD @ down_EDF[e], tile.of(weights)[..., None])
            weights_grad[tile.choices_NC] = back.weights_NC
            torch.bmm(out_grad_NCD.mT, back.inner_NCF, out=down_grad_EDF[e])
            torch.bmm(back.gate_up_NCG.mT, tile.of(x, weights_MK.shape[1]), out=gate_up_grad_EGD[e])
            torch.bmm(back.gate_up_NCG, gate_up_EGD[e], out=tile.slots(x_grad_PD))
        x_grad_MD = F.embedding_bag(ctx.places_MK, x_grad_PD, mode="sum")
        weights_grad_MK = weights_grad[:-1].view_as(weights_MK).to(weights_MK.dtype)
        return x_grad_MD, None, weights_grad_MK, gate_up_grad_EGD, down_grad_EDF, None


class _GateBack(NamedTuple):
    weights_NC: Tensor
    """The gradient of the choices' weights."""
    inner_NCF: Tensor
    """What the second product was given."""
    gate_up_NCG: Tensor
    """The gradient of what the first one gave."""


def _gate_back(gate_up_NCG: Tensor, grad_NCF: Tensor, weights_NC1: Tensor) -> _GateBack:
    """The way back through weight * silu(gate) * up, from the gradient of that; overwrites ``grad_NCF``."""
    gate_NCF, up_NCF = gate_up_NCG.chunk(2, dim=-1)
    silu_NCF = F.silu(gate_NCF)
    inner_NCF = silu_NCF * up_NCF
    weights_NC = (grad_NCF * inner_NCF).sum(-1)
    grad_NCF.mul_(weights_NC1)
    back_NCG = torch.empty_like(gate_up_NCG)
    back_gate_NCF, back_up_NCF = back_NCG.chunk(2, dim=-1)
    torch.mul(grad_NCF, silu_NCF, out=back_up_NCF)
    torch.ops.aten.silu_backward.grad_input(grad_NCF.mul_(up_NCF), gate_NCF, grad_input=back_gate_NCF)
    return _GateBack(weights_NC, inner_NCF.mul_(weights_NC1), back_NCG)


def _with_last_row(rows: Tensor) -> Tensor:
    """Rows and one of zeros behind them, which what only fills up is read from."""
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


def _places_MK(tiles: list[_Tile], shape: torch.Size) -> Tensor:
    """Where the results of each token stand."""
    choices_P = torch.cat([tile.choices_NC.flatten() for tile in tiles])
    places = torch.empty(shape.numel() + 1, dtype=torch.long)
    places[choices_P] = torch.arange(len(choices_P))
    return places[:-1].view(shape)
