"""Dilated attention against a dense mask built in loops from the paper's words."""

# oracle: mixer dilated: test_a_row_of_one_document_is_what_the_loops_say

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import DilatedAttentionConfig
from cirilla_cli.model.mixers.dilated import (
    DilatedAttention,
    attend_dilated,
    attend_dilated_apart,
    attend_dilated_by_mask,
)
from cirilla_cli.model.ops.fold import apart_of
from cirilla_cli.model.sections import RMSNormConfig

from .conftest import randomise

D, T, N = 24, 23, 4
PATTERNS = {
    "one, whole": ((32, 1),),
    "one, short": ((4, 1),),
    "two": ((4, 1), (8, 2)),
    "three, the last longer than the row": ((3, 1), (6, 2), (64, 4)),
    "dilation beyond the heads": ((5, 1), (12, 6)),
}


def section(patterns: tuple[tuple[int, int], ...], **keys: object) -> DilatedAttentionConfig:
    segments, dilations = zip(*patterns, strict=True)
    return DilatedAttentionConfig(n_heads=N, segments=segments, dilations=dilations, **keys)  # type: ignore[arg-type]


def by_loops(q: Tensor, k: Tensor, v: Tensor, patterns: tuple[tuple[int, int], ...], documents: list[int]) -> Tensor:
    """Every pattern's own softmax, then the paper's sum of them weighted by their denominators (equation 10)."""
    positions = [documents[:t].count(documents[t]) for t in range(len(documents))]
    out = torch.zeros_like(q)
    for n in range(N):
        for t, at in enumerate(positions):
            parts, denominators = [], []
            for length, R in patterns:
                if at % length % R != n % R:
                    continue
                sees = [
                    s
                    for s in range(t + 1)
                    if documents[s] == documents[t]
                    and positions[s] // length == at // length
                    and positions[s] % length % R == n % R
                ]
                weights = [math.exp(float(q[t, n] @ k[s, n])) for s in sees]
                denominators.append(sum(weights))
                parts.append(sum(w * v[s, n] for w, s in zip(weights, sees, strict=True)) / sum(weights))
            out[t, n] = sum(d / sum(denominators) * p for d, p in zip(denominators, parts, strict=True))
    return out


def heads(seed: int) -> Tensor:
    return torch.randn(T, N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
def test_a_row_of_one_document_is_what_the_loops_say(patterns: tuple[tuple[int, int], ...]) -> None:
    q, k, v = heads(0), heads(1), heads(2)
    ours = attend_dilated(q[None], k[None], v[None], patterns)[0]
    torch.testing.assert_close(ours, by_loops(q, k, v, patterns, [0] * T), rtol=0, atol=1e-12)


def built(patterns: tuple[tuple[int, int], ...], **keys: object) -> DilatedAttention:
    attention = section(patterns, **keys).build(D, RMSNormConfig()).double()
    randomise(attention)
    return attention


@torch.no_grad()
@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
def test_packed_rows_are_what_the_loops_say(patterns: tuple[tuple[int, int], ...]) -> None:
    attention, documents = built(patterns, rope=None), [3] * 9 + [5] * 14
    x = torch.randn(T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    q, k, v = ((x @ m.weight.T).view(T, N, 6) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    expected = by_loops(q / math.sqrt(6), k, v, patterns, documents).flatten(1) @ attention.o_proj.weight.T
    layout = SequenceLayout.packed(torch.tensor([documents])).prepared(attention.needs, torch.float64)
    torch.testing.assert_close(attention(x[None], layout)[0], expected, rtol=0, atol=1e-12)


LONG = 640
DOCUMENTS = [1] * 70 + [2] * 3 + [3] * 333 + [4] * 1 + [5] * 213 + [-1] * 20
"""Rows so long are taken apart into their documents, of which these cross segments, fill none, and are one token."""


@torch.no_grad()
@pytest.mark.parametrize("patterns", [((4, 1), (24, 2)), ((8, 1), (600, 4))], ids=["short", "one longer than all"])
def test_long_packed_rows_are_what_the_loops_say(patterns: tuple[tuple[int, int], ...]) -> None:
    attention = built(patterns, rope=None)
    x = torch.randn(2, LONG, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    layout = SequenceLayout.packed(torch.tensor([[7] * LONG, DOCUMENTS])).prepared(attention.needs, torch.float64)
    assert layout.apart is not None
    q, k, v = ((x[1] @ m.weight.T).view(LONG, N, 6) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    expected = by_loops(q / math.sqrt(6), k, v, patterns, DOCUMENTS).flatten(1) @ attention.o_proj.weight.T
    torch.testing.assert_close(attention(x, layout)[1, :-20], expected[:-20], rtol=0, atol=1e-12)
    alone = attention(x[:1], SequenceLayout.rows(1, LONG).prepared(attention.needs, torch.float64))
    torch.testing.assert_close(attention(x, layout)[:1], alone, rtol=0, atol=1e-12)


def test_gradients_of_long_packed_rows_are_those_of_dense_scores() -> None:
    layout, patterns, found = SequenceLayout.packed(torch.tensor([DOCUMENTS])), ((8, 1), (64, 4)), []
    fold = apart_of(layout, torch.float64)
    assert fold is not None
    real = layout.documents_BT != -1
    for sparse in (True, False):
        x = [torch.cat([heads(seed)] * 28)[None, :LONG].clone().requires_grad_() for seed in range(3)]
        out = (
            attend_dilated_apart(*x, fold, patterns) if sparse
            else attend_dilated_by_mask(*x, layout, layout, patterns)
        )  # fmt: skip
        out[real].square().sum().backward()
        found.append([out[real].detach(), *(part.grad for part in x)])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)


def test_rows_that_go_on_with_a_document_are_not_taken_apart() -> None:
    whole = SequenceLayout.packed(torch.zeros(1, 2 * LONG, dtype=torch.long))
    later = SequenceLayout(whole.positions_BT[:, LONG:], torch.zeros(1, LONG, dtype=torch.long))
    assert apart_of(later, torch.float64) is None
    assert apart_of(SequenceLayout.packed(torch.tensor([DOCUMENTS[:100]])), torch.float64) is None


@torch.no_grad()
def test_decoding_past_the_longest_segment_equals_one_pass() -> None:
    attention = built(((4, 1), (8, 2)))
    x = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = attention(x, SequenceLayout.rows(2, T).prepared(attention.needs, torch.float64))
    for sizes in ([1] * T, [5, 18], [20, 1, 2]):
        cache, out, start = attention.make_cache(T), [], 0
        for size in sizes:
            layout = SequenceLayout.rows(2, size, start=start).prepared(attention.needs, torch.float64)
            out.append(attention(x[:, start : start + size], layout, cache))
            start += size
        torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=1e-12)


def test_no_dilation_in_one_segment_is_plain_attention() -> None:
    q, k, v = (x[None].transpose(1, 2) for x in (heads(0), heads(1), heads(2)))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0).transpose(1, 2)
    ours = attend_dilated(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), ((T, 1),))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


def test_the_gradient_is_numerically_right() -> None:
    x = [torch.randn(1, 7, 2, 2, dtype=torch.float64).requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *qkv: attend_dilated(*qkv, ((2, 1), (4, 2))), x)


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"segments": (4, 8), "dilations": (1,)}, "one dilation for each"),
        ({"segments": (4,), "dilations": (2,)}, "begin with 1"),
        ({"segments": (4, 9), "dilations": (1, 2)}, "multiple of its dilation"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(patterns: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DilatedAttentionConfig(n_heads=N, **patterns)  # type: ignore[arg-type]
