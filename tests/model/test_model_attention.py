"""Attention, rotary positions, norm and feed-forward against the textbook, in float64 and in loops."""

# oracle: mixer attention: test_matches_the_textbook
# oracle: rope plain: test_rope_is_multiplication_by_a_complex_number

import math

import pytest
import torch
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.mixers.attention import Attention
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.ops.attention import _by_products, _Scores, attend, attend_reference
from cirilla_cli.model.rope import Rotation, angles_of, apply_rope
from cirilla_cli.model.sections import RMSNormConfig, RopeConfig, RopeSection, SwiGLUConfig

from .conftest import MIXERS, randomise

B, T, D, EPS = 2, 11, 24, 1e-5
ANGLES_ARE_FLOAT32 = 1e-5
"""What an angle rounded to float32 may cost; an order of operations or a mask that is wrong costs 1e-2 and more."""


def packed() -> SequenceLayout:
    """Two documents in each row, cut at another place in each."""
    return SequenceLayout.packed(torch.tensor([[7] * 4 + [8] * 7, [1] * 9 + [3] * 2]))


def plain(width: int, theta: float) -> Rotation:
    return Rotation(RopeConfig(theta=theta), width)


def sight(window: int | None) -> Needs:
    return Needs(frozenset(), frozenset({Sight(True, window)}))


def turned(x_TNH: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Pair (x[i], x[i + H/2]) is a complex number, turned by position * theta^(-2i/H)."""
    half = x_TNH.shape[-1] // 2
    angles = positions[:, None].double() * theta ** (-torch.arange(half).double() / half)
    out = torch.complex(x_TNH[..., :half], x_TNH[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([out.real, out.imag], dim=-1)


def affine(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))


def normed(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x / ((x**2).mean(-1, keepdim=True) + EPS).sqrt() * weight


def turned_in_part(x_TNH: Tensor, positions: Tensor, rope: RopeSection | None) -> Tensor:
    if rope is None:
        return x_TNH
    front = int(x_TNH.shape[-1] * rope.fraction)
    return torch.cat([turned(x_TNH[..., :front], positions, rope.theta), x_TNH[..., front:]], dim=-1)


def bounded(scores: Tensor, cap: float | None) -> Tensor:
    return scores if cap is None else cap * torch.tanh(scores / cap)


def seen_by(config: AttentionConfig, t: int, docs: list[int]) -> list[int]:
    """The keys that query t may see."""
    near = [s for s in range(T) if config.window is None or abs(t - s) < config.window]
    return [s for s in near if docs[s] == docs[t] and (s <= t or not config.causal)]


def textbook(config: AttentionConfig, attention: Attention, x_BTD: Tensor, documents: Tensor) -> Tensor:
    """Softmax attention as the papers write it: loops over row, head and query; shares no code with ours."""
    width, weights = config.head_dim or D // config.n_heads, dict(attention.named_parameters())
    out_BTO = []
    for x_TD, docs in zip(x_BTD, documents.tolist(), strict=True):
        positions = torch.tensor([docs[:t].count(docs[t]) for t in range(T)])
        q, k, v = (affine(weights, f"{n}_proj", x_TD).unflatten(1, (-1, width)) for n in "qkv")
        q = turned_in_part(normed(q, weights.get("q_norm.weight")), positions, config.rope)
        k = turned_in_part(normed(k, weights.get("k_norm.weight")), positions, config.rope)
        out = torch.zeros_like(q)
        for n in range(config.n_heads):
            kv = n // (config.n_heads // (config.n_kv_heads or config.n_heads))
            for t in range(T):
                sees, scale = seen_by(config, t, docs), config.scale or 1 / math.sqrt(width)
                scores = bounded(torch.stack([q[t, n] @ k[s, kv] * scale for s in sees]), config.softcap)
                out[t, n] = sum(p * v[s, kv] for p, s in zip(scores.softmax(0), sees, strict=True))
        out_BTO.append(affine(weights, "o_proj", out.flatten(1)))
    return torch.stack(out_BTO)


def build(config: AttentionConfig) -> Attention:
    attention = config.build(D, RMSNormConfig(eps=EPS)).double()
    randomise(attention)
    return attention


@pytest.mark.parametrize("config", MIXERS.values(), ids=MIXERS)
def test_matches_the_textbook(config: AttentionConfig) -> None:
    attention, x_BTD = build(config), torch.randn(B, T, D, dtype=torch.float64)
    layout = packed().prepared(attention.needs, torch.float64)
    assert layout.documents_BT is not None
    with torch.no_grad():
        expected = textbook(config, attention, x_BTD, layout.documents_BT)
        torch.testing.assert_close(attention(x_BTD, layout), expected, rtol=0, atol=ANGLES_ARE_FLOAT32)


@pytest.mark.parametrize("config", MIXERS.values(), ids=MIXERS)
def test_one_document_without_a_mask_matches_the_textbook(config: AttentionConfig) -> None:
    attention, x_BTD = build(config), torch.randn(B, T, D, dtype=torch.float64)
    layout = SequenceLayout.rows(B, T).prepared(attention.needs, torch.float64)
    with torch.no_grad():
        expected = textbook(config, attention, x_BTD, torch.zeros(B, T))
        torch.testing.assert_close(attention(x_BTD, layout), expected, rtol=0, atol=ANGLES_ARE_FLOAT32)


@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_rope_is_multiplication_by_a_complex_number(theta: float) -> None:
    x_BTNH, positions = torch.randn(1, 9, 3, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 40, 41, 42])
    ours = apply_rope(x_BTNH, *angles_of(plain(16, theta), positions[None], torch.float64))[0]
    torch.testing.assert_close(ours, turned(x_BTNH[0], positions, theta), rtol=0, atol=ANGLES_ARE_FLOAT32)


def test_rope_angles_keep_their_precision_in_bfloat16() -> None:
    """Position 4,001 has no bfloat16 of its own (the nearest is 4,000): rounding comes after the cosine."""
    cos, _ = angles_of(plain(4, 10_000.0), torch.tensor([[4001]]), torch.bfloat16)
    assert abs(float(cos[0, 0, 0, 0]) - math.cos(4001.0)) < 1e-2


def test_rms_norm_is_what_its_formula_says() -> None:
    norm = RMSNormConfig(eps=0.1).build(5).double()
    randomise(norm)
    x = torch.randn(3, 5, dtype=torch.float64)
    for row, got in zip(x.tolist(), norm(x).detach(), strict=True):
        root = math.sqrt(sum(v * v for v in row) / 5 + 0.1)
        expected = [v / root * w for v, w in zip(row, norm.weight.tolist(), strict=True)]
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_swiglu_is_what_its_formula_says() -> None:
    mlp = SwiGLUConfig(d_ff=7).build(5).double()
    randomise(mlp)
    x = torch.randn(5, dtype=torch.float64)
    gate, up = mlp.gate_proj.weight @ x, mlp.up_proj.weight @ x
    inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate.tolist(), up.tolist(), strict=True)]
    expected = mlp.down_proj.weight @ torch.tensor(inner, dtype=torch.float64)
    torch.testing.assert_close(mlp(x[None, None], SequenceLayout.rows(1, 1))[0, 0], expected, rtol=0, atol=1e-12)


def test_a_query_sees_exactly_what_the_definition_says() -> None:
    layout = packed()
    documents = [[7] * 4 + [8] * 7, [1] * 9 + [3] * 2]
    for window in (None, 1, 3):
        seen = visible_BTS(layout, layout, Sight(True, window))
        for b in range(B):
            for t in range(T):
                for s in range(T):
                    same = documents[b][t] == documents[b][s]
                    assert bool(seen[b, t, s]) == (same and s <= t and (window is None or t - s < window))


def inputs(kv_heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, T, 4, 8), (B, T, kv_heads, 8), (B, T, kv_heads, 8))
    q, k, v = (torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes)
    return q, k, v


CALLS = pytest.mark.parametrize(
    ("layout", "window"),
    [(SequenceLayout.rows(B, T), None), (SequenceLayout.rows(B, T), 3), (packed(), None), (packed(), 3)],
    ids=["causal", "windowed", "packed", "packed and windowed"],
)


@CALLS
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_the_fast_path_equals_the_reference(
    layout: SequenceLayout, window: int | None, kv_heads: int, dtype: torch.dtype, atol: float
) -> None:
    """In bfloat16 the reference is computed in float64 from the same rounded inputs."""
    layout = layout.prepared(sight(window), dtype)
    q, k, v = inputs(kv_heads, dtype)
    expected = attend_reference(q.double(), k.double(), v.double(), layout, layout, Sight(True, window))
    torch.testing.assert_close(
        attend(q, k, v, layout, layout, Sight(True, window)).double(), expected, rtol=0, atol=atol
    )


@CALLS
def test_attention_by_products_is_the_same_function(layout: SequenceLayout, window: int | None) -> None:
    """What masked bfloat16 takes on CPUs, here in float64 where the formula can be told from its rounding."""
    q, k, v = inputs(2, torch.float64)
    expected = attend_reference(q, k, v, layout, layout, Sight(True, window))
    ours = _by_products(q, k, v, _Scores(visible_BTS(layout, layout, Sight(True, window)), True, None, None))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("window", [None, 2, 8])
def test_few_queries_over_many_keys_equal_the_reference(length: int, window: int | None) -> None:
    query, key = SequenceLayout.rows(B, length, start=T - length), SequenceLayout.rows(B, T)
    q, k, v = inputs(2, torch.float64)
    q = q[:, -length:]
    expected = attend_reference(q, k, v, query, key, Sight(True, window))
    torch.testing.assert_close(attend(q, k, v, query, key, Sight(True, window)), expected, rtol=0, atol=1e-12)


@CALLS
def test_gradients_of_the_fast_path_equal_the_reference(layout: SequenceLayout, window: int | None) -> None:
    layout, found = layout.prepared(sight(window), torch.float64), []
    for function in (attend, attend_reference):
        leaves = [x.requires_grad_() for x in inputs(2, torch.float64)]
        function(*leaves, layout, layout, Sight(True, window)).square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)
