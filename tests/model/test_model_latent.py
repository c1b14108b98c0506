"""Latent attention against transformers, the paper in loops, and its own other form; float64 on the CPU."""

import math
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.cache import PastCache
from cirilla_cli.model.count import cache_bytes, forward_flops_per_token, parameters
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mixers.config import LatentAttentionConfig
from cirilla_cli.model.mixers.latent import LatentAttention
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import RMSNormConfig, RopeConfig, YarnRopeConfig

from .conftest import VOCAB, config_of, randomise

B, T, D, EXACT = 2, 11, 20, 1e-10
ANGLES_ARE_FLOAT32 = 1e-5
"""What an angle rounded to float32 may cost; a wrong order of operations or mask costs 1e-2 and more."""

SHAPE: dict[str, Any] = {
    "n_heads": 3, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 6,
}  # fmt: skip
RATIO = (0.1 * 1.2 * math.log(4.0) + 1) / (0.1 * 0.8 * math.log(4.0) + 1)
YARN = YarnRopeConfig(theta=256.0, factor=4.0, original_context=8, attention_factor=RATIO)
CONFIGS = {
    "plain queries": LatentAttentionConfig(**SHAPE, rope=RopeConfig(theta=256.0)),
    "low-rank queries": LatentAttentionConfig(**SHAPE, q_lora_rank=8, rope=RopeConfig(theta=256.0)),
    "biases": LatentAttentionConfig(**SHAPE, q_lora_rank=8, bias=True, rope=RopeConfig(theta=256.0)),
    "yarn": LatentAttentionConfig(**SHAPE, q_lora_rank=8, rope=YARN, mscale_all_dim=0.8),
}
"""Every form that DeepSeek's class in transformers has too; frequencies of 1 and 1/16 are exact in float32."""


def built(config: LatentAttentionConfig) -> LatentAttention:
    attention = config.build(D, RMSNormConfig()).double()
    randomise(attention)
    return attention


def inputs(seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROWS = {
    "one document": [[0] * T] * B,
    "packed documents": [[7] * 4 + [8] * 7, [1] * 9 + [3] * 2],
    "padded on the left": [[PADDING] * 3 + [0] * 8, [PADDING] * 6 + [0] * 5],
}
"""The document of each position."""


def layout_of(documents: list[list[int]]) -> SequenceLayout:
    return SequenceLayout.packed(torch.tensor(documents))


def part(layout: SequenceLayout, start: int, stop: int, attention: LatentAttention) -> SequenceLayout:
    assert layout.documents_BT is not None
    cut = SequenceLayout(layout.positions_BT[:, start:stop], layout.documents_BT[:, start:stop])
    return cut.prepared(attention.needs, torch.float64)


def in_parts(attention: LatentAttention, x_BTD: Tensor, documents: list[list[int]], cuts: list[int]) -> Tensor:
    """The output through the cache, the row cut at ``cuts``."""
    cache, layout, edges = attention.make_cache(T), layout_of(documents), [0, *cuts, T]
    pieces = zip(edges[:-1], edges[1:], strict=True)
    return torch.cat([attention(x_BTD[:, a:b], part(layout, a, b, attention), cache) for a, b in pieces], dim=1)


# transformers


def halves(width: int) -> Tensor:
    """Row i of ours is row halves[i] of DeepSeek's: its pairs stand side by side, ours half the width apart."""
    return torch.tensor([*range(0, width, 2), *range(1, width, 2)])


def as_deepseek(config: LatentAttentionConfig, attention: LatentAttention) -> dict[str, Tensor]:
    """Our weights in the row order of DeepSeek's checkpoints."""
    weights = {name: weight.clone() for name, weight in attention.state_dict().items()}
    still, turning, rows = config.qk_nope_head_dim, config.qk_rope_head_dim, halves(config.qk_rope_head_dim)
    for name in {"q_proj.weight", "q_b_proj.weight"} & weights.keys():
        for n in range(config.n_heads):
            first = n * (still + turning) + still
            weights[name][first + rows] = attention.state_dict()[name][first : first + turning]
    for name in {"kv_a_proj_with_mqa.weight", "kv_a_proj_with_mqa.bias"} & weights.keys():
        weights[name][config.kv_lora_rank + rows] = attention.state_dict()[name][config.kv_lora_rank :]
    return weights


class Theirs(NamedTuple):
    """DeepSeek's attention, and what makes its angles."""

    attention: Any
    rotary: Any
    cache: Any

    def __call__(self, x_BTD: Tensor, documents: list[list[int]], start: int = 0, cache: Any = None) -> Tensor:
        """The output at the positions from ``start``; the mask is built in loops."""
        T = x_BTD.shape[1]
        positions = torch.tensor([[row[:t].count(row[t]) for t in range(start, start + T)] for row in documents])
        sees = [[[s <= t and row[s] == row[t] for s in range(start + T)] for t in range(start, start + T)]
                for row in documents]  # fmt: skip
        mask = torch.zeros(len(documents), 1, T, start + T).double()
        mask[~torch.tensor(sees)[:, None]] = -math.inf
        return self.attention(x_BTD, self.rotary(x_BTD, positions), mask, past_key_values=cache)[0]


def deepseek(config: LatentAttentionConfig, attention: LatentAttention) -> Theirs:
    """transformers' class with the same weights, its configuration written by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers.models.deepseek_v3 import modeling_deepseek_v3 as module

        assert config.rope is not None
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope.theta}
        if isinstance(config.rope, YarnRopeConfig):
            rope |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 1.2,
                     "mscale_all_dim": 0.8}  # fmt: skip
        settings = transformers.DeepseekV3Config(
            hidden_size=D, num_attention_heads=config.n_heads, num_key_value_heads=config.n_heads,
            q_lora_rank=config.q_lora_rank, kv_lora_rank=config.kv_lora_rank, v_head_dim=config.v_head_dim,
            qk_nope_head_dim=config.qk_nope_head_dim, qk_rope_head_dim=config.qk_rope_head_dim,
            attention_bias=config.bias, rope_parameters=rope, max_position_embeddings=32, rms_norm_eps=0.1,
            attn_implementation="sdpa",
        )  # fmt: skip
        other = module.DeepseekV3Attention(settings, layer_idx=0).double().eval()
        other.load_state_dict(as_deepseek(config, attention), strict=True)
        return Theirs(other, module.DeepseekV3RotaryEmbedding(settings), transformers.DynamicCache)


def in_float64(other: Theirs) -> Theirs:
    """With norms that do not go through float32, which theirs do whatever the weights are."""
    for name in ("q_a_layernorm", "kv_a_layernorm"):
        theirs = getattr(other.attention, name)
        if theirs is not None:
            norm = nn.RMSNorm(theirs.weight.numel(), eps=1e-6).double()
            norm.weight = theirs.weight
            setattr(other.attention, name, norm)
    return other


@pytest.mark.parametrize("documents", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.inference_mode()
def test_equals_deepseeks_attention_with_the_same_weights(
    config: LatentAttentionConfig, documents: list[list[int]]
) -> None:
    attention, x_BTD = built(config), inputs()
    ours = attention(x_BTD, layout_of(documents).prepared(attention.needs, torch.float64))
    expected = in_float64(deepseek(config, attention))(x_BTD, documents)
    torch.testing.assert_close(ours, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.inference_mode()
def test_equals_deepseeks_attention_from_the_cache(config: LatentAttentionConfig) -> None:
    attention, x_BTD, documents, cuts = built(config), inputs(), ROWS["padded on the left"], [7, 8, 9, 10]
    other = in_float64(deepseek(config, attention))
    cache, edges = other.cache(), [0, *cuts, T]
    expected = [
        other(x_BTD[:, a:b], [row[:b] for row in documents], a, cache)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    ours = in_parts(attention, x_BTD, documents, cuts)
    torch.testing.assert_close(ours, torch.cat(expected, dim=1), rtol=0, atol=EXACT)


@torch.inference_mode()
def test_the_norms_of_the_latents_have_deepseeks_eps() -> None:
    """Where the input is so small that eps decides; their norm as it is, rounded to float32."""
    config = CONFIGS["low-rank queries"]
    attention, x_BTD = built(config), inputs(scale=1e-3)
    ours = attention(x_BTD, SequenceLayout.rows(B, T).prepared(attention.needs, torch.float64))
    torch.testing.assert_close(ours, deepseek(config, attention)(x_BTD, [[0] * T] * B), rtol=1e-5, atol=1e-6)


# oracle: mixer mla: test_is_what_the_paper_says


def turned(x: list[float], position: int, theta: float) -> list[float]:
    """Pair (x[i], x[i + R/2]) is a complex number, turned by position * theta^(-2i/R)."""
    half = len(x) // 2
    z = [
        complex(x[i], x[i + half]) * complex(math.cos(a), math.sin(a))
        for i, a in ((i, position * theta ** (-i / half)) for i in range(half))
    ]
    return [c.real for c in z] + [c.imag for c in z]


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x @ x / len(x) + 1e-6).sqrt() * weight


def paper(config: LatentAttentionConfig, w: dict[str, Tensor], x_TD: Tensor, docs: list[int]) -> Tensor:
    """Equations of arXiv:2405.04434, appendix C, one position and head after the other; shares no code with ours."""
    assert isinstance(config.rope, RopeConfig)
    P, R, V = config.qk_nope_head_dim, config.kv_lora_rank, config.v_head_dim
    wide, theta, queries, keys, values = P + config.qk_rope_head_dim, config.rope.theta, [], [], []
    for t, x in enumerate(x_TD):
        place = docs[:t].count(docs[t])
        down = x if config.q_lora_rank is None else normed(w["q_a_proj.weight"] @ x, w["q_a_layernorm.weight"])
        q = w.get("q_proj.weight", w.get("q_b_proj.weight")) @ down
        heads = [q[n * wide : (n + 1) * wide] for n in range(config.n_heads)]
        queries.append([[*h[:P].tolist(), *turned(h[P:].tolist(), place, theta)] for h in heads])
        both = w["kv_a_proj_with_mqa.weight"] @ x
        up = w["kv_b_proj.weight"] @ normed(both[:R], w["kv_a_layernorm.weight"])
        shared = turned(both[R:].tolist(), place, theta)
        keys.append([[*up[n * (P + V) :][:P].tolist(), *shared] for n in range(config.n_heads)])
        values.append([up[n * (P + V) + P :][:V] for n in range(config.n_heads)])
    rows = []
    for t in range(len(docs)):
        out, sees = [], [s for s in range(t + 1) if docs[s] == docs[t]]
        for n in range(config.n_heads):
            scores = [
                math.exp(sum(a * b for a, b in zip(queries[t][n], keys[s][n], strict=True)) / math.sqrt(wide))
                for s in sees
            ]
            out.append(sum(e / sum(scores) * values[s][n] for e, s in zip(scores, sees, strict=True)))
        rows.append(w["o_proj.weight"] @ torch.cat(out))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["plain queries", "low-rank queries"])
@torch.inference_mode()
def test_is_what_the_paper_says(name: str) -> None:
    attention, x_BTD, documents = built(CONFIGS[name]), inputs(), ROWS["packed documents"]
    ours = attention(x_BTD, layout_of(documents).prepared(attention.needs, torch.float64))
    for got, x_TD, docs in zip(ours, x_BTD, documents, strict=True):
        expected = paper(CONFIGS[name], attention.state_dict(), x_TD, docs)
        torch.testing.assert_close(got, expected, rtol=0, atol=ANGLES_ARE_FLOAT32)


# Two forms


FORMS = {
    **CONFIGS,
    "unturned": LatentAttentionConfig(**SHAPE, rope=None),
    "scaled": LatentAttentionConfig(**SHAPE, scale=0.7),
}


@pytest.mark.parametrize("documents", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_both_forms_are_one_function_with_one_gradient(
    config: LatentAttentionConfig, documents: list[list[int]]
) -> None:
    attention, layout, found = built(config), layout_of(documents), []
    now, whole = part(layout, 6, T, attention), part(layout, 0, T, attention)
    for form in (attention.plain, attention.absorbed):
        attention.zero_grad()
        x_BTD = inputs().requires_grad_()
        queries, seen = attention.queries(x_BTD[:, 6:], now), attention.latents(x_BTD, whole)
        out = form(queries, seen, now, whole)
        out.square().sum().backward()
        found.append([out, x_BTD.grad, attention.kv_b_proj.weight.grad])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_both_forms_let_a_prefix_be_seen() -> None:
    attention, prefix = built(CONFIGS["plain queries"]), torch.arange(T).expand(B, T) < 4
    layout = SequenceLayout(torch.arange(T).expand(B, T), torch.zeros(B, T, dtype=torch.long), prefix)
    layout = layout.prepared(attention.needs, torch.float64)
    q_BTNH, seen_BSC = attention.queries(inputs(), layout), attention.latents(inputs(), layout)
    absorbed = attention.absorbed(q_BTNH, seen_BSC, layout, layout)
    torch.testing.assert_close(absorbed, attention.plain(q_BTNH, seen_BSC, layout, layout), rtol=0, atol=EXACT)


WIDE = LatentAttentionConfig(n_heads=2, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=2, v_head_dim=4)
NARROW = LatentAttentionConfig(n_heads=2, kv_lora_rank=3, qk_nope_head_dim=6, qk_rope_head_dim=2, v_head_dim=4)


@pytest.mark.parametrize("config", [WIDE, NARROW], ids=["wide latent", "narrow latent"])
def test_the_form_is_chosen_by_what_torch_counts(config: LatentAttentionConfig) -> None:
    """Fewer products, and scores that take no more memory than the keys and values they spare."""
    attention, chosen = built(config), set()
    for total in range(1, 31):
        for new in (1, 2, 3, 5, 8, 12, 13, total):
            if new > total:
                continue
            query = SequenceLayout.rows(1, new, start=total - new).prepared(attention.needs, torch.float64)
            key = query if new == total else SequenceLayout.rows(1, total)
            q_BTNH = torch.zeros(1, new, 2, 8, dtype=torch.float64)
            seen_BSC = torch.zeros(1, total, config.kv_lora_rank + 2, dtype=torch.float64)
            counts = []
            for form in (attention.absorbed, attention.plain):
                with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                    form(q_BTNH, seen_BSC, query, key)
                counts.append(counter.get_total_flops())
            scores, expanded = 2 * new * total, 2 * total * (6 + 2 + 4)
            expected = counts[0] < counts[1] and scores <= expanded
            assert attention.absorbs(new, total) == expected, (new, total)
            chosen.add(expected)
    assert chosen == {True, False}


def test_deepseek_v3_decodes_absorbed_and_prefills_plain() -> None:
    with torch.device("meta"):
        attention = LatentAttentionConfig(
            n_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
        ).build(7168, RMSNormConfig())
    assert attention.absorbs(1, 2)
    assert attention.absorbs(4, 64)
    assert attention.absorbs(128, 4096)
    assert not attention.absorbs(1, 1)
    assert not attention.absorbs(256, 4096)
    assert not attention.absorbs(4096, 4096)


@torch.inference_mode()
@pytest.mark.parametrize("config", [WIDE, CONFIGS["low-rank queries"]], ids=["wide latent", "low-rank queries"])
def test_every_split_of_a_prompt_gives_the_same_output(config: LatentAttentionConfig) -> None:
    attention, x_BTD, documents = built(config), inputs(), ROWS["one document"]
    whole = attention(x_BTD, SequenceLayout.rows(B, T).prepared(attention.needs, torch.float64))
    for a in range(1, T):
        for cuts in ([a], *([a, b] for b in range(a + 1, T)), [*range(a, T)]):
            torch.testing.assert_close(in_parts(attention, x_BTD, documents, cuts), whole, rtol=0, atol=EXACT)


def test_splits_use_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, used = built(WIDE), []
    for name in ("plain", "absorbed"):
        form = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda *args, form=form, name=name: [used.append(name), form(*args)][1])
    with torch.inference_mode():
        in_parts(attention, inputs(), ROWS["one document"], [7, 8, 9, 10])
        attention(inputs(), SequenceLayout.rows(B, T).prepared(attention.needs, torch.float64))
    assert used == ["plain", *["absorbed"] * 4, "plain"]


@torch.inference_mode()
def test_what_was_decoded_can_be_taken_back() -> None:
    attention, x_BTD, wrong = built(WIDE), inputs(), inputs(seed=1)
    layout = layout_of(ROWS["packed documents"])
    whole = attention(x_BTD, layout.prepared(attention.needs, torch.float64))
    cache = attention.make_cache(T, rollback=3)
    attention(x_BTD[:, :5], part(layout, 0, 5, attention), cache)
    attention(wrong[:, 5:8], part(layout, 5, 8, attention), cache)
    cache.trim(5)
    rest = [attention(x_BTD[:, t : t + 1], part(layout, t, t + 1, attention), cache) for t in range(5, T)]
    torch.testing.assert_close(torch.cat(rest, dim=1), whole[:, 5:], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_both_forms_in_bfloat16_stay_near_the_exact_one() -> None:
    attention, x_BTD = built(WIDE), inputs()
    layout = SequenceLayout.rows(B, T)
    exact = attention(x_BTD, layout.prepared(attention.needs, torch.float64))
    attention, cache, rough = attention.bfloat16(), attention.make_cache(T), []
    for a, b in ((0, 7), (7, 8), (8, T)):
        now = SequenceLayout.rows(B, b - a, start=a).prepared(attention.needs, torch.bfloat16)
        rough.append(attention(x_BTD[:, a:b].bfloat16(), now, cache))
    error = (torch.cat(rough, dim=1).double() - exact).square().mean().sqrt()
    assert float(error) < 0.02 * float(exact.std())


# Gradient, counts, cache, section


@pytest.mark.parametrize("form", ["plain", "absorbed"])
def test_the_gradient_is_that_of_finite_differences(form: str) -> None:
    config = LatentAttentionConfig(
        n_heads=2, q_lora_rank=2, kv_lora_rank=3, qk_nope_head_dim=2, qk_rope_head_dim=2, v_head_dim=1, bias=True
    )
    attention = config.build(3, RMSNormConfig()).double()
    randomise(attention)
    layout = SequenceLayout.packed(torch.tensor([[0, 0, 1, 1]])).prepared(attention.needs, torch.float64)
    names, leaves = zip(*((n, p.detach().requires_grad_()) for n, p in attention.named_parameters()), strict=True)

    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = attention

        def forward(self, x: Tensor) -> Tensor:
            queries, seen = self.inner.queries(x, layout), self.inner.latents(x, layout)
            out: Tensor = self.inner.o_proj(getattr(self.inner, form)(queries, seen, layout, layout).flatten(2))
            return out

    def out(x: Tensor, *weights: Tensor) -> Tensor:
        given = {f"inner.{name}": weight for name, weight in zip(names, weights, strict=True)}
        return torch.func.functional_call(forced, given, (x,))

    forced, x = Forced(), torch.randn(1, 4, 3, dtype=torch.float64).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(out, (x, *leaves))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_and_products_are_counted(config: LatentAttentionConfig) -> None:
    whole = config_of("X", {"X": config}, d_model=D)
    assert parameters(whole) == sum(p.numel() for p in whole.build().parameters())
    rows = torch.zeros(2, T, dtype=torch.long)
    model = fresh(whole, seed=0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(rows, SequenceLayout.rows(2, T), readout=LastLogits(T))
    assert counter.get_total_flops() == forward_flops_per_token(whole, T) * rows.numel()


@torch.inference_mode()
def test_the_cache_holds_one_latent_and_one_turned_key_a_position() -> None:
    config = CONFIGS["low-rank queries"]
    whole = config_of("X", {"X": config}, d_model=D)
    assert cache_bytes(whole, 100, element=2) == 2 * 2 * 100 * (7 + 4)
    model = fresh(whole, seed=0).double()
    caches = model.make_caches(T)
    model(torch.zeros(1, T, dtype=torch.long), SequenceLayout.rows(1, T), caches, readout=LastLogits(1))
    positions = 8 * T
    assert [cache.nbytes - positions for cache in caches] == [8 * T * (7 + 4)] * 2
    assert all(isinstance(cache, PastCache) for cache in caches)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"qk_rope_head_dim": 3}, "must be even"),
        ({"rope": RopeConfig(fraction=0.5)}, "rope.fraction must be 1"),
        ({"mscale_all_dim": 1.0}, "goes with a rope of kind yarn"),
        ({"mscale_all_dim": 1.0, "rope": YARN, "scale": 0.1}, "without scale"),
    ],
    ids=["odd width", "partial rotation", "no yarn", "two scales"],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LatentAttentionConfig(**{**SHAPE, **more})


@torch.inference_mode()
def test_decoding_a_model_gives_the_tokens_of_one_pass() -> None:
    model = fresh(config_of("X", {"X": WIDE}), seed=0).double()
    randomise(model)
    rows, caches = torch.randint(VOCAB, (1, 4), generator=torch.Generator().manual_seed(2)), model.make_caches(24)
    last = model(rows, SequenceLayout.rows(1, 4), caches, readout=LastLogits(1))
    for t in range(4, 24):
        rows = torch.cat([rows, last[:, -1].argmax(-1, keepdim=True)], dim=1)
        whole = model(rows, SequenceLayout.rows(1, t + 1), readout=LastLogits(1))
        last = model(rows[:, -1:], SequenceLayout.rows(1, 1, start=t), caches, readout=LastLogits(1))
        torch.testing.assert_close(last, whole, rtol=0, atol=EXACT)
