"""Causal attention in blocks of queries against the formula with every score in memory; float64."""

import dataclasses

import pytest
import torch
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops import blocked
from cirilla_cli.model.ops.attention import attend, attend_reference
from cirilla_cli.model.ops.blocked import attend_blocked, takes_blocks
from cirilla_cli.model.ops.fold import as_bias
from cirilla_cli.model.ops.masks import Undivided, mask_of

SIGHT = Sight()
HEADS = {"multi-head": (4, 4), "grouped": (6, 2), "multi-query": (3, 1)}


def inputs(
    length: int, heads: tuple[int, int], dtype: torch.dtype = torch.float64, *, key: int = 8, value: int = 12
) -> list[Tensor]:
    """Queries, keys and wider values of two rows, and the gradient that comes in."""
    generator = torch.Generator().manual_seed(length)
    (N, K), shape = heads, (2, length)
    shapes = ((*shape, N, key), (*shape, K, key), (*shape, K, value), (*shape, N, value))
    found = [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes]
    return [x.requires_grad_(i < 3) for i, x in enumerate(found)]


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [out, *torch.autograd.grad(out, inputs[:3], inputs[3])]


def packed(length: int) -> SequenceLayout:
    """Documents of thirds in one row, of a half and the rest in the other."""
    index = torch.arange(length)
    return SequenceLayout.packed(torch.stack([index * 3 // length, (index > length // 2).long()]))


@pytest.mark.parametrize("kept", [0, 1024], ids=["made again", "kept"])
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("block", [5, 8, 64])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_blocks_equal_the_reference_and_its_gradients(
    heads: tuple[int, int], block: int, documents: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """33 positions: blocks that divide the row and that do not, and one that is longer."""
    monkeypatch.setattr(blocked, "_KEPT", kept)
    layout = packed(33) if documents else SequenceLayout.rows(2, 33)
    x = inputs(33, heads)
    expected = attend_reference(*x[:3], layout, layout, SIGHT, scale=0.3)
    bias = as_bias(visible_BTS(layout, layout, SIGHT), torch.float64) if documents else None
    ours = attend_blocked(*x[:3], bias, 0.3, block=block)
    torch.testing.assert_close(with_gradients(ours, x), with_gradients(expected, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kept", [0, 1024], ids=["made again", "kept"])
def test_blocks_pass_torch_s_gradient_check(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "_KEPT", kept)
    q, k, v, _ = inputs(7, HEADS["grouped"])
    assert torch.autograd.gradcheck(lambda *x: attend_blocked(*x, None, 0.3, block=3), (q, k, v))


LAYOUTS = {
    "one document": SequenceLayout.rows(2, 256),
    "one document each, as packing says it": SequenceLayout.packed(torch.tensor([[4], [9]]).expand(2, 256)),
    "packed": packed(256),
    "prefix": dataclasses.replace(SequenceLayout.rows(2, 256), prefix_BT=torch.arange(256).expand(2, 256) < 200),
}


@pytest.mark.parametrize("sight", [SIGHT, Sight(True, 70), Sight(False)], ids=["causal", "window", "both ways"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_attend_is_the_same_function_where_it_takes_blocks(layout: SequenceLayout, sight: Sight) -> None:
    x = inputs(256, HEADS["grouped"])
    assert takes_blocks(x[0], x[1]), "or this would compare something else"
    at = layout.prepared(Needs(frozenset(), frozenset({sight})), torch.float64)
    expected = attend_reference(*x[:3], layout, layout, sight)
    found = with_gradients(attend(*x[:3], at, at, sight), x)
    torch.testing.assert_close(found, with_gradients(expected, x), rtol=0, atol=1e-11)


def test_rows_of_one_document_need_no_mask() -> None:
    """Packing numbers documents even where each row is one; a row of padding alone has nobody to be hidden from."""
    whole = SequenceLayout.packed(torch.tensor([[4], [-1]]).expand(2, 20))
    assert mask_of(whole, SIGHT, torch.float32, capped=False) == Undivided()
    for layout, sight in ((packed(20), SIGHT), (whole, Sight(True, 3))):
        assert not isinstance(mask_of(layout, sight, torch.float32, capped=False), Undivided)


def test_bfloat16_in_blocks_is_as_near_the_exact_one_as_torch_s_kernel() -> None:
    """Root mean squares of the differences to float64, of the output and of each gradient: at most 2.5 times theirs."""
    x = inputs(256, HEADS["multi-head"], torch.bfloat16, key=64, value=64)
    exact = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in x]
    layout = SequenceLayout.rows(2, 256)
    expected = with_gradients(attend_reference(*exact[:3], layout, layout, SIGHT), exact)
    q, k, v = (leaf.transpose(1, 2) for leaf in x[:3])
    kernel = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    ours = attend(*x[:3], layout, layout, SIGHT)
    for mine, theirs, truth in zip(with_gradients(ours, x), with_gradients(kernel, x), expected, strict=True):
        errors = [float((out.detach().double() - truth.detach()).square().mean().sqrt()) for out in (mine, theirs)]
        assert errors[0] <= 2.5 * errors[1], errors
