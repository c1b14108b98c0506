"""Every back end of attention against the reference, with documents, windows, prefixes and padding."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from cirilla_cli.model.layout import PADDING, Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.ops.attention import attend, attend_reference
from cirilla_cli.model.ops.flex import BLOCK, attend_flex, block_mask, takes
from cirilla_cli.model.ops.fold import Fold, by_bands, by_documents, fold_of
from cirilla_cli.model.ops.masks import mask_of
from cirilla_cli.model.sections import RMSNormConfig

from .conftest import randomise

LONG = 3 * BLOCK + 5
"""Not a whole number of blocks, and several of them."""


def rows_of(*lengths: list[int]) -> SequenceLayout:
    """Packed rows of documents of these lengths."""
    return SequenceLayout.packed(torch.tensor([[d for d, n in enumerate(row) for _ in range(n)] for row in lengths]))


def padded(length: int, *pads: int) -> SequenceLayout:
    """One document a row behind padding."""
    pad = torch.tensor(pads)[:, None]
    index = torch.arange(length) - pad
    return SequenceLayout(torch.where(index < 0, index + pad, index), torch.where(index < 0, PADDING, 0))


def prefixed(layout: SequenceLayout) -> SequenceLayout:
    """The first nine tokens of every document are a prefix."""
    return dataclasses.replace(layout, prefix_BT=layout.positions_BT < 9)


def layouts(length: int) -> dict[str, SequenceLayout]:
    """Rows of every sort."""
    a, b = length // 3, length // 2
    one, packed = SequenceLayout.rows(2, length), rows_of([a, 1, length - a - 1], [b, length - b])
    return {
        "one document": one,
        "packed": packed,
        "padded": padded(length, 0, length // 4),
        "prefix": prefixed(one),
        "packed, prefix": prefixed(packed),
    }


SIGHTS = {
    "causal": Sight(), "window": Sight(True, 7), "window of one": Sight(True, 1), "both ways": Sight(False),
    "window both ways": Sight(False, 5), "long window": Sight(True, BLOCK + 1),
}  # fmt: skip


def inputs(length: int, *, keys: int | None = None, value: int = 16) -> list[Tensor]:
    """Queries, keys and values of two query heads to a key head; float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, length, 4, 16), (2, keys or length, 2, 16), (2, keys or length, 2, value))
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.fixture
def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as its formula, without a compiler; says no more that this is slow."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def with_mask(layout: SequenceLayout, sight: Sight, mask: object) -> SequenceLayout:
    return dataclasses.replace(layout, masks={sight: mask})


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
@pytest.mark.parametrize("name", layouts(40))
def test_short_calls_equal_the_reference_and_its_gradients(name: str, sight: Sight, softcap: float | None) -> None:
    layout, found = layouts(40)[name], []
    folds = [by_bands(layout, sight, torch.float64, block) for block in (4, 16)] if sight.window else []
    if layout.documents_BT is not None:
        folds.append(by_documents(layout, sight, torch.float64))
    for mask in (None, *folds):
        leaves = [x.requires_grad_() for x in inputs(40)]
        if mask is None:
            out = attend_reference(*leaves, layout, layout, sight, softcap=softcap)
        else:
            # A fold is taken where there is a rule beside causality, or where it is asked for by the documents.
            at = with_mask(layout, sight, mask)
            out = attend(*leaves, at, at, sight, softcap=softcap)
        out.square().sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours in found[1:]:
        torch.testing.assert_close(ours, found[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
@pytest.mark.parametrize("name", layouts(LONG))
def test_blocks_hold_exactly_what_is_seen(name: str, sight: Sight) -> None:
    """No needed block is missing, none that is called whole has a hole; judged by the dense mask, in loops."""
    layout = layouts(LONG)[name]
    blocks, seen = block_mask(layout, layout, sight), visible_BTS(layout, layout, sight)
    behind = -LONG % BLOCK
    tiles = torch.nn.functional.pad(seen, (0, behind, 0, behind)).unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    for b, i in itertools.product(*(range(n) for n in blocks.kv_num_blocks[:, 0].shape)):
        partly = blocks.kv_indices[b, 0, i, : blocks.kv_num_blocks[b, 0, i]].tolist()
        whole = blocks.full_kv_indices[b, 0, i, : blocks.full_kv_num_blocks[b, 0, i]].tolist()
        assert not set(partly) & set(whole)
        for j in range(tiles.shape[3]):
            tile = tiles[b, i, :, j]
            assert bool(tile.any()) <= (j in partly + whole)
            assert bool(tile.all()) >= (j in whole)
    if (name, sight) == ("one document", Sight(True, 7)):
        assert int((blocks.kv_num_blocks + blocks.full_kv_num_blocks).max()) <= 2, "a short window needs two blocks"


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
@pytest.mark.parametrize("name", layouts(40))
@pytest.mark.usefixtures("written_out")
@torch.inference_mode()
def test_flex_attention_equals_the_reference(name: str, sight: Sight, softcap: float | None) -> None:
    layout, (q, k, v) = layouts(40)[name], inputs(40, value=24)
    expected = attend_reference(q, k, v, layout, layout, sight, softcap=softcap)
    ours = attend_flex(q, k, v, block_mask(layout, layout, sight), None, softcap)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sight", [Sight(), Sight(True, 7)])
@pytest.mark.usefixtures("written_out")
@torch.inference_mode()
def test_flex_attention_of_few_queries_over_remembered_keys_equals_the_reference(sight: Sight) -> None:
    query, key = SequenceLayout.rows(2, 3, start=BLOCK + 2), SequenceLayout.rows(2, BLOCK + 5)
    q, k, v = inputs(3, keys=BLOCK + 5)
    expected = attend_reference(q, k, v, query, key, sight, scale=0.3)
    torch.testing.assert_close(attend_flex(q, k, v, block_mask(query, key, sight), 0.3, None), expected)


def test_heads_too_narrow_for_flex_attention_are_left_to_the_kernels() -> None:
    layout, (q, k, v) = rows_of([9, 11], [20]), inputs(20)
    narrow = [x[..., :8] for x in (q, k, v)]
    assert takes(q, v)
    assert not takes(narrow[0], narrow[2])
    at = with_mask(layout, Sight(), block_mask(layout, layout, Sight()))
    ours, expected = attend(*narrow, at, at, Sight()), attend_reference(*narrow, at, at, Sight())
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def scores(fold: Fold) -> int:
    """How many scores are computed."""
    return sum(part.queries_MC.numel() * part.keys_ML.shape[1] for part in fold.parts)


def test_a_window_on_a_long_row_computes_few_scores_and_no_mask_of_all() -> None:
    layout, sight = SequenceLayout.rows(1, 4096), Sight(True, 256)
    mask = mask_of(layout, sight, torch.float32, capped=False)
    assert isinstance(mask, Fold)
    assert scores(mask) <= 4096 * 512
    assert max(part.bias_MCL.numel() for part in mask.parts if part.bias_MCL is not None) <= 4096 * 512


def test_documents_on_a_cpu_need_no_mask_at_all() -> None:
    mask = mask_of(rows_of([40] * 20, [300, 20, 480]), Sight(), torch.float32, capped=False)
    assert isinstance(mask, Fold)
    assert [part.bias_MCL for part in mask.parts] == [None] * len(mask.parts)
    assert scores(mask) < 800 * 800


def test_what_a_fold_would_not_halve_is_masked() -> None:
    for layout, sight in ((rows_of([19, 1]), Sight()), (SequenceLayout.rows(1, 20), Sight(True, 15))):
        assert fold_of(layout, sight, torch.float32) is None
        assert isinstance(mask_of(layout, sight, torch.float32, capped=False), Tensor)


def test_a_document_that_began_earlier_is_not_taken_apart() -> None:
    """Its second run sees its first one, so runs are no calls of their own."""
    layout = SequenceLayout(torch.tensor([[0, 1, 0, 1, 2, 3]]), torch.tensor([[5, 5, 6, 6, 5, 5]]))
    assert fold_of(layout, Sight(), torch.float32) is None


def test_one_document_needs_nothing() -> None:
    assert mask_of(SequenceLayout.rows(2, 50), Sight(True, 50), torch.float32, capped=False) is None
    assert mask_of(SequenceLayout.rows(2, 50), Sight(False), torch.float32, capped=True) is None


@torch.inference_mode()
def test_a_long_windowed_layer_equals_itself_decoded() -> None:
    """Prefill by bands, then token by token from the rolling buffer; against every score in memory."""
    config = AttentionConfig(n_heads=2, n_kv_heads=1, window=64, rope=None)
    attention = config.build(16, RMSNormConfig()).double()
    randomise(attention)
    x_BTD, cache = torch.randn(2, 300, 16, dtype=torch.float64), attention.make_cache(300)
    layout = SequenceLayout.rows(2, 300).prepared(attention.needs, torch.float64)
    assert isinstance(layout.masks[attention.sight], Fold)
    whole, out = attention(x_BTD, layout), []
    for start, stop in ((0, 280), (280, 281), (281, 300)):
        part = SequenceLayout.rows(2, stop - start, start=start).prepared(attention.needs, torch.float64)
        out.append(attention(x_BTD[:, start:stop], part, cache))
    torch.testing.assert_close(torch.cat(out, 1), whole, rtol=0, atol=1e-10)
    q, k, v = (proj(x_BTD).unflatten(2, (-1, 8)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    expected = attention.o_proj(attend_reference(q, k, v, layout, layout, attention.sight).flatten(2))
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-10)


def test_needs_of_several_layers_are_the_needs_of_all() -> None:
    capped = AttentionConfig(n_heads=2, softcap=5.0, rope=None).build(16, RMSNormConfig()).needs
    plain = AttentionConfig(n_heads=2, window=4).build(16, RMSNormConfig()).needs
    both = Needs.of_all([capped, plain])
    assert both.sights == {Sight(), Sight(True, 4)}
    assert both.capped == {Sight()}
    assert both.rotations == plain.rotations


def test_bfloat16_in_short_calls_is_near_the_exact_one() -> None:
    layout = rows_of([40] * 5, [100, 100])
    exact = inputs(200)
    rough = [x.bfloat16() for x in exact]
    at = layout.prepared(Needs(frozenset(), frozenset({Sight()})), torch.bfloat16)
    expected = attend_reference(*(x.double() for x in rough), layout, layout, Sight())
    assert math.isclose(0, float((attend(*rough, at, at, Sight()).double() - expected).abs().max()), abs_tol=4e-2)
