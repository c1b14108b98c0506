"""One long attention call as a batch of short ones: no mask, and no score, of every query by every key.

Rows of packed documents fall apart into their documents, windows into bands of queries beside the keys they reach. Both
are exact: the scores that a mask would keep, and few of those that it would throw away.
"""

# Shape suffixes: B batch, T positions of a row, N heads, H width of one, M short calls, C queries and L keys of one,
# R runs.

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cirilla_cli.model.layout import PADDING, SequenceLayout, Sight, visible_BTS

_FILLER = PADDING - 1
"""Document of places that fill a short call up; they see each other and nobody else does."""

_LONG = 512
"""Rows from this length on are taken apart into documents: in shorter ones, small calls cost what they save.

So many positions are also what short calls of one length are filled up to: few shapes occur, and a library that keeps
what it made for each shape does not grow.
"""


@dataclass(frozen=True)
class Part:
    """Short calls of one size."""

    queries_MC: Tensor
    """Which position is each query, of all rows laid end to end."""
    keys_ML: Tensor
    """The same for the keys."""
    bias_MCL: Tensor | None
    """Added to the scores: minus infinity where a query may not look; None where causality is the only rule."""


@dataclass(frozen=True)
class Fold:
    """A whole call."""

    parts: tuple[Part, ...]
    back_BT: Tensor
    """Where the output of each position is, of all parts' outputs laid end to end."""


pytree.register_dataclass(Part)
pytree.register_dataclass(Fold)


def fold_of(layout: SequenceLayout, sight: Sight, dtype: torch.dtype) -> Fold | None:
    """The way that computes fewest scores; None where that is not even half of what a mask computes.

    Documents differ in length, and how long they are has to be known outside the device: only on CPUs is that free.
    """
    B, T = layout.positions_BT.shape
    on_cpu = layout.positions_BT.device.type == "cpu"
    splits = on_cpu and T >= _LONG and layout.documents_BT is not None and _begins_anew(layout)
    groups = _alike(_runs(layout)[1], T) if splits else []
    apart = sum(_filled(len(members), length) * length**2 for members, _, length in groups) if splits else B * T * T
    banded = B * _band_scores(layout, sight) if sight.window is not None else B * T * T
    if 2 * min(apart, banded) > B * T * T:
        return None
    return by_bands(layout, sight, dtype) if banded < apart else by_documents(layout, sight, dtype)


# Windows


def band_block(window: int) -> int:
    """Queries of one band: about as many as the window reaches, within what the fused kernels like."""
    return min(256, max(64, 1 << (window - 1).bit_length()))


def _reach(layout: SequenceLayout, sight: Sight, block: int) -> tuple[int, int]:
    """Blocks of keys that a window reaches before a block of queries, and behind it."""
    side = -(-((sight.window or 1) - 1) // block)
    return side, 0 if sight.causal and layout.prefix_BT is None else side


def _band_scores(layout: SequenceLayout, sight: Sight) -> int:
    block = band_block(sight.window or 1)
    return -(-layout.length // block) * block * block * (1 + sum(_reach(layout, sight, block)))


def by_bands(layout: SequenceLayout, sight: Sight, dtype: torch.dtype, block: int | None = None) -> Fold:
    """Runs of ``block`` queries, each with the blocks of keys that its window reaches.

    Within a document the distance of two positions is that of their places in the row, so what is left out no window
    reaches; a prefix is seen through the window too.
    """
    (B, T), device = layout.positions_BT.shape, layout.positions_BT.device
    block = block or band_block(sight.window or 1)
    before, after = _reach(layout, sight, block)
    start = torch.arange(0, T, block, device=device)[:, None]
    row = torch.arange(B, device=device)[:, None, None] * T
    new, old = (start + torch.arange(a * block, b * block, device=device) for a, b in ((0, 1), (-before, 1 + after)))
    inside = [(place >= 0) & (place < T) for place in (new, old)]
    queries, keys = ((row + place.clamp(0, T - 1)).flatten(0, 1) for place in (new, old))
    if layout.documents_BT is None and layout.prefix_BT is None:
        seen = _seen_in_bands(new, old, inside[0], inside[1], sight).repeat(B, 1, 1)
    else:
        query, key = (
            _taken(layout, sight, at, within.repeat(B, 1)) for at, within in zip((queries, keys), inside, strict=True)
        )
        seen = visible_BTS(query, key, sight)
    back = torch.arange(B, device=device)[:, None] * (len(start) * block) + torch.arange(T, device=device)
    return Fold((Part(queries, keys, as_bias(seen, dtype)),), back)


def _seen_in_bands(queries_MC: Tensor, keys_ML: Tensor, real_MC: Tensor, known_ML: Tensor, sight: Sight) -> Tensor:
    """Who sees whom ``[M, C, L]`` in a row of one document: in every band the same, but for what is not of the row."""
    seen_1CL = visible_BTS(SequenceLayout(queries_MC[:1]), SequenceLayout(keys_ML[:1]), sight)
    return seen_1CL & (known_ML[:, None] | ~real_MC[:, :, None])


# Documents


def apart_of(layout: SequenceLayout, dtype: torch.dtype) -> Fold | None:
    """Every document as a row of its own, for what looks at one document a row and at no later position.

    None where there is none to take apart, where rows are short, and where a document goes on from an earlier call or
    has a prefix that is seen before its time. How long documents are has to be known outside the device: on a GPU that
    waits for it, once a forward pass, instead of making every score of every layer.
    """
    single = layout.documents_BT is None or layout.prefix_BT is not None
    if single or layout.length < _LONG or not _begins_anew(layout):
        return None
    return by_documents(layout, Sight(), dtype)


def by_documents(layout: SequenceLayout, sight: Sight, dtype: torch.dtype) -> Fold:
    """Every document a row of its own, those of about the same length together; what fills a row up comes last."""
    starts_R, lengths_R = _runs(layout)
    parts, taken = [], 0
    back = torch.empty_like(layout.positions_BT, dtype=torch.long).flatten()
    for members, size, length in _alike(lengths_R, layout.length):
        filling = (0, _filled(len(members), length) - len(members))
        starts, size = torch.nn.functional.pad(starts_R[members], filling), torch.nn.functional.pad(size, filling)
        step = torch.arange(length, device=size.device)
        real = step < size[:, None]
        at = starts[:, None] + torch.where(real, step, 0)
        back[at[real]] = taken + real.flatten().nonzero()[:, 0]
        taken += at.numel()
        causal = sight.causal and layout.prefix_BT is None and (sight.window or length) >= length
        row = _taken(layout, sight, at, real)
        parts.append(Part(at, at, None if causal else as_bias(visible_BTS(row, row, sight), dtype)))
    return Fold(tuple(parts), back.view_as(layout.positions_BT))


def _filled(count: int, length: int) -> int:
    """Short calls of one length, with those that fill up."""
    together = max(1, _LONG // length)
    return -(-count // together) * together


def _runs(layout: SequenceLayout) -> tuple[Tensor, Tensor]:
    """Where each document begins, of all rows laid end to end, and how long it is."""
    assert layout.documents_BT is not None
    changes = torch.ones_like(layout.documents_BT, dtype=torch.bool)
    changes[:, 1:] = layout.documents_BT[:, 1:] != layout.documents_BT[:, :-1]
    starts_R = changes.flatten().nonzero()[:, 0]
    return starts_R, torch.diff(starts_R, append=starts_R.new_tensor([changes.numel()]))


def _begins_anew(layout: SequenceLayout) -> bool:
    """Whether every document begins here, so that none is the other half of an earlier run."""
    assert layout.documents_BT is not None
    starts_R, _ = _runs(layout)
    position, document = layout.positions_BT.flatten()[starts_R], layout.documents_BT.flatten()[starts_R]
    return bool(((position == 0) | (document == PADDING)).all())


def _alike(lengths_R: Tensor, longest: int) -> list[tuple[Tensor, Tensor, int]]:
    """Which runs are between two powers of two long, their lengths, and what they are filled up to."""
    size = torch.log2(lengths_R.clamp(min=16) - 0.5).long()
    groups = [(one, (size == one).nonzero()[:, 0]) for one in torch.unique(size).tolist()]
    return [(members, lengths_R[members], min(2 << one, longest)) for one, members in groups]


# Both


def _taken(layout: SequenceLayout, sight: Sight, at_MC: Tensor, inside_MC: Tensor) -> SequenceLayout:
    """The layout of short calls; places not inside a row are farther from all others than a window reaches."""
    far = -(layout.length + (sight.window or 0))
    documents, prefix = layout.documents_BT, layout.prefix_BT
    return replace(
        layout,
        positions_BT=torch.where(inside_MC, layout.positions_BT.flatten()[at_MC], far),
        documents_BT=None if documents is None else torch.where(inside_MC, documents.flatten()[at_MC], _FILLER),
        prefix_BT=None if prefix is None else prefix.flatten()[at_MC] & inside_MC,
        registers_BT=None,
        angles={},
        masks={},
        apart=None,
    )


def taken_MCNH(x_BTNH: Tensor, at_MC: Tensor) -> Tensor:
    """Vectors at positions of all rows laid end to end, ``[M, C, N, H]``."""
    return x_BTNH.flatten(0, 1).flatten(1).index_select(0, at_MC.flatten()).view(*at_MC.shape, *x_BTNH.shape[2:])


def as_bias(mask_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where the mask is true, else minus infinity."""
    zeros = torch.zeros(mask_BTS.shape, dtype=dtype, device=mask_BTS.device)
    return zeros.masked_fill_(~mask_BTS, -math.inf)
