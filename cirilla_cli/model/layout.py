"""Where each token sits and whom it may look at: made once per forward pass, shared by every layer."""

# Shape suffixes: B batch, T new positions, S keys (remembered and new positions).

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cirilla_cli.model.rope import rope_angles

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SequenceLayout:
    """Positions and documents of the tokens of one forward pass.

    What blocks need beyond tensors of activations (rotation angles, masks) is computed by `prepared` before the first
    block, so that a block never asks anything of an object that changes.
    """

    positions_BT: Tensor
    """Place of each token within its own document."""
    documents_BT: Tensor | None = None
    """Which document a token belongs to; None where each row is one unpadded document whose keys are contiguous."""
    angles: Mapping[tuple[int, float], Angles] = field(default_factory=dict)
    """Rotation of the positions by (head_dim, theta)."""
    visible: Mapping[int | None, Tensor] = field(default_factory=dict)
    """Mask among these very tokens by window, where one is needed."""

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

    def prepared(self, ropes: Iterable[tuple[int, float]], windows: Iterable[int | None], dtype: torch.dtype) -> Self:
        """With the angles of ``ropes`` and the masks among these tokens for ``windows``."""
        angles = {rope: rope_angles(self.positions_BT, *rope, dtype) for rope in ropes}
        masks = {w: visible_BTS(self, self, w) for w in windows if not self.causal_alone(w)}
        return replace(self, angles=angles, visible=masks)

    def causal_alone(self, window: int | None) -> bool:
        """Whether causality is the only rule among these tokens, so that no mask is needed."""
        return self.documents_BT is None and (window is None or window >= self.length)


pytree.register_dataclass(SequenceLayout)


def visible_BTS(query: SequenceLayout, key: SequenceLayout, window: int | None) -> Tensor:
    """True where query t may look at key s: same document, not later, fewer than ``window`` positions back."""
    distance_BTS = query.positions_BT[:, :, None] - key.positions_BT[:, None, :]
    visible = distance_BTS >= 0
    if query.documents_BT is not None and key.documents_BT is not None:
        visible = visible & (query.documents_BT[:, :, None] == key.documents_BT[:, None, :])
    return visible if window is None else visible & (distance_BTS < window)
