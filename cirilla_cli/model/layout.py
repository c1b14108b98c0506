"""Where each token sits and whom it may look at: made once per forward pass, shared by every layer."""

# Shape suffixes: B batch, T new positions, S keys (remembered and new positions).

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cirilla_cli.model.rope import Angles, Rotation, angles_of

PADDING = -1
"""Document number of positions that hold no token; nobody sees them and nothing counts them."""


class Sight(NamedTuple):
    """Which keys a query may see among those of its own document."""

    causal: bool = True
    """Only its own position and earlier ones, except in a prefix; else later ones too."""
    window: int | None = None
    """Only keys fewer than this many positions away, itself included; None for any distance."""


@dataclass(frozen=True)
class Needs:
    """What a mixer wants prepared before the first block."""

    rotations: frozenset[Rotation] = frozenset()
    sights: frozenset[Sight] = frozenset()
    capped: frozenset[Sight] = frozenset()
    """Those of them whose scores are bounded, which not every kernel can do without a mask."""
    apart: bool = False
    """Whether packed documents are wanted as rows of their own."""

    @classmethod
    def of_all(cls, several: Iterable["Needs"]) -> "Needs":
        """What all of them want together."""
        every = list(several)
        rotations = frozenset(r for needs in every for r in needs.rotations)
        sights = frozenset(s for needs in every for s in needs.sights)
        capped = frozenset(s for needs in every for s in needs.capped)
        return cls(rotations, sights, capped, any(needs.apart for needs in every))


@dataclass(frozen=True)
class SequenceLayout:
    """Positions and documents of the tokens of one forward pass.

    What blocks need beyond tensors of activations (rotation angles, masks) is computed by `prepared` before the first
    block, so that a block never asks anything of an object that changes.
    """

    positions_BT: Tensor
    """Place of each token within its own document; a document begins at 0."""
    documents_BT: Tensor | None = None
    """Which document a token belongs to, each a run of equal numbers (padding beside it); None where each row is one
    unpadded document."""
    prefix_BT: Tensor | None = None
    """True for tokens that every query of their document may see, however early it stands; None for nowhere."""
    registers_BT: Tensor | None = None
    """True where there is a register of an encoder in place of a token: seen, but not counted; None for nowhere."""
    angles: Mapping[str, Angles] = field(default_factory=dict)
    """Cosines and sines of the positions, by the name of the rotation."""
    masks: Mapping[Sight, Any] = field(default_factory=dict)
    """Who sees whom among these very tokens, as the back end of this device wants it; nothing where it needs none."""
    apart: Any = None
    """Where each packed document is (`ops.fold.Fold`), so that it can be a row of its own; None where nobody asks."""

    @classmethod
    def rows(cls, batch: int, length: int, *, start: int = 0, device: torch.device | str = "cpu") -> Self:
        """One document a row, no padding: tokens ``start`` to ``start + length``."""
        return cls(torch.arange(start, start + length, device=device).expand(batch, length))

    @classmethod
    def packed(cls, documents_BT: Tensor) -> Self:
        """Several documents a row, each a run of equal numbers; positions count from the start of each run."""
        T = documents_BT.shape[1]
        index_T = torch.arange(T, device=documents_BT.device)
        starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
        starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        first_BT = torch.where(starts_BT, index_T, 0).cummax(dim=1).values
        return cls(index_T - first_BT, documents_BT)

    @property
    def length(self) -> int:
        """Tokens a row."""
        return self.positions_BT.shape[1]

    def prepared(self, needs: Needs, dtype: torch.dtype) -> Self:
        """With the angles that ``needs`` names, and the masks among these tokens for what it says is seen."""

        # Back ends are written to the layout, so they are found from here only when asked for.
        from cirilla_cli.model.ops.fold import apart_of
        from cirilla_cli.model.ops.masks import mask_of

        # A set's order differs from process to process, and with it what is allocated after what.
        rotations, sights = sorted(needs.rotations, key=str), sorted(needs.sights, key=str)
        angles = {rotation.name: angles_of(rotation, self.positions_BT, dtype) for rotation in rotations}
        masks = {s: mask_of(self, s, dtype, capped=s in needs.capped) for s in sights}
        masks = {sight: mask for sight, mask in masks.items() if mask is not None}
        return replace(self, angles=angles, masks=masks, apart=apart_of(self, dtype) if needs.apart else None)

    def needs_no_mask(self, sight: Sight) -> bool:
        """Whether causality, or nothing, is the only rule among these tokens."""
        wide = sight.window is None or sight.window >= self.length
        return self.documents_BT is None and wide and (self.prefix_BT is None or not sight.causal)


pytree.register_dataclass(SequenceLayout)


def visible_BTS(query: SequenceLayout, key: SequenceLayout, sight: Sight) -> Tensor:
    """True where query t may look at key s: same document, near enough, and not later unless the key is of a prefix."""
    distance_BTS = query.positions_BT[:, :, None] - key.positions_BT[:, None, :]
    visible = distance_BTS >= 0 if sight.causal else torch.ones_like(distance_BTS, dtype=torch.bool)
    if key.prefix_BT is not None:
        visible = visible | key.prefix_BT[:, None, :]
    if sight.window is not None:
        visible = visible & (distance_BTS.abs() < sight.window)
    if query.documents_BT is not None and key.documents_BT is not None:
        visible = visible & (query.documents_BT[:, :, None] == key.documents_BT[:, None, :])
    return visible
