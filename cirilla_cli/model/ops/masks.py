"""Which back end attention takes, and what it wants to know before the first layer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.utils import _pytree as pytree

from cirilla_cli.model.layout import SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops.flex import block_mask
from cirilla_cli.model.ops.fold import Fold, fold_of


@dataclass(frozen=True)
class Undivided:
    """Every row turned out to be one document, so that no mask is needed."""


pytree.register_dataclass(Undivided)

Mask = Tensor | Fold | BlockMask | Undivided
"""Who sees whom, in the form that the back end takes: `[B, T, S]` of truth, short calls, blocks."""


def mask_of(layout: SequenceLayout, sight: Sight, dtype: torch.dtype, *, capped: bool) -> Mask | None:
    """What attention among the tokens of ``layout`` needs; None where the fused kernels know it: causality, or nothing.

    | | rule | back end |
    |---|---|---|
    | CPU | causality alone | fused kernels, or blocks of queries where they are faster |
    | any device | causality alone, or nothing | fused kernels, no mask |
    | CUDA, training | any other, or capped scores | FlexAttention, by blocks |
    | CPU | documents, or a window much shorter than the row | fused kernels or products, in short calls |
    | else | a window much shorter than the row | the same |
    | else | | fused kernels or products with a mask |
    """
    training_on_cuda = layout.positions_BT.device.type == "cuda" and torch.is_grad_enabled()
    # FlexAttention's kernels do not compute in float64, which is for tests.
    if training_on_cuda and dtype != torch.float64:
        return None if layout.needs_no_mask(sight) and not capped else block_mask(layout, layout, sight)
    if layout.needs_no_mask(sight):
        return None
    if _undivided(layout) and replace(layout, documents_BT=None).needs_no_mask(sight):
        return Undivided()
    return fold_of(layout, sight, dtype) or visible_BTS(layout, layout, sight)


def _undivided(layout: SequenceLayout) -> bool:
    """Whether every row is one document, or nothing but padding; looked up on CPUs alone, where that is free."""
    documents_BT = layout.documents_BT
    if documents_BT is None or documents_BT.device.type != "cpu":
        return False
    return bool((documents_BT == documents_BT[:, :1]).all())
