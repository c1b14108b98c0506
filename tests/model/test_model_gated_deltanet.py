"""Gated DeltaNet against its definition in loops and against transformers; its cache, its counts, its first weights."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.count import forward_flops_per_token, parameters, train_flops_per_token
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig
from cirilla_cli.model.mixers.gated_deltanet import GatedDeltaNet
from cirilla_cli.model.ops.delta import Signals, chunked, recurrence, scan
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import RMSNormConfig

from .conftest import config_of, randomise

D, CHUNK = 24, 4
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
FORMS = {
    "plain": GatedDeltaNetConfig(n_heads=4, chunk_size=CHUNK),
    "keys shared, wide values": GatedDeltaNetConfig(
        n_heads=4, n_qk_heads=2, head_dim=5, v_head_dim=8, chunk_size=CHUNK
    ),
    "one key for all, two taps": GatedDeltaNetConfig(
        n_heads=3, n_qk_heads=1, v_head_dim=6, d_conv=2, norm_eps=1e-3, chunk_size=CHUNK
    ),
}  # fmt: skip
EACH_FORM = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def build(config: GatedDeltaNetConfig) -> GatedDeltaNet:
    layer = config.build(D, RMSNormConfig()).double()
    randomise(layer)
    return layer


def signals(length: int, *, heads: int = 4, groups: int = 2, documents: bool = False) -> Signals:
    """Random ones with keys 5 wide and values 3 wide; each position begins a document with a chance of 1 in 5."""
    k = normal(2, length, groups, 5, seed=2)
    starts = torch.rand(2, length, generator=generator(5)) < 0.2 if documents else None
    return Signals(
        normal(2, length, groups, 5, seed=1), k / k.norm(dim=-1, keepdim=True), normal(2, length, heads, 3, seed=3),
        -normal(2, length, heads, seed=4).abs(), torch.sigmoid(2 * normal(2, length, heads, seed=6)), starts,
    )  # fmt: skip


def leaves(s: Signals) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in (s.q_BTGK, s.k_BTGK, s.v_BTHV, s.g_BTH, s.beta_BTH)]


def pieces(sizes: list[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


# The definition


def in_loops(s: Signals, state_BHKV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S = S (a (1 - beta k k^T)) + beta v k^T, y = S q: the paper's form, with values by keys, one row and head."""
    B, T, H, V = s.v_BTHV.shape
    y, last = torch.zeros(B, T, H, V, dtype=torch.float64), []
    for row in range(B):
        for head in range(H):
            of = head // (H // s.k_BTGK.shape[2])
            S = torch.zeros(V, s.k_BTGK.shape[-1], dtype=torch.float64)
            if state_BHKV is not None:
                S = state_BHKV[row, head].T
            for t in range(T):
                if s.starts_BT is not None and bool(s.starts_BT[row, t]):
                    S = torch.zeros_like(S)
                k, beta = s.k_BTGK[row, t, of], s.beta_BTH[row, t, head]
                kept = math.exp(float(s.g_BTH[row, t, head])) * (torch.eye(len(k)).double() - beta * torch.outer(k, k))
                S = S @ kept + beta * torch.outer(s.v_BTHV[row, t, head], k)
                y[row, t, head] = S @ s.q_BTGK[row, t, of]
            last.append(S.T)
    return y, torch.stack(last).view(B, H, -1, V)


def textbook(config: GatedDeltaNetConfig, layer: GatedDeltaNet, x_BTD: Tensor, documents: list[list[int]]) -> Tensor:
    """The layer as the paper's section on it describes it, with the widths and eps of the Qwen models."""
    w, H, G, K, V = dict(layer.named_parameters()), config.n_heads, config.qk_heads, config.width(D), config.v_width(D)
    out_BTD = []
    for x_TD, docs in zip(x_BTD, documents, strict=True):
        T = len(docs)
        inputs = x_TD @ w["in_proj_qkv.weight"].T
        mixed = torch.zeros_like(inputs)
        for t in range(T):
            for back in range(config.d_conv):
                if t - back >= 0 and docs[t - back] == docs[t]:
                    mixed[t] += w["conv1d.weight"][:, 0, config.d_conv - 1 - back] * inputs[t - back]
        mixed = mixed / (1 + torch.exp(-mixed))
        q, k, v = mixed[:, : G * K].view(T, G, K), mixed[:, G * K : 2 * G * K].view(T, G, K), mixed[:, 2 * G * K :]
        q, k = (u / ((u * u).sum(-1, keepdim=True) + 1e-6).sqrt() for u in (q, k))
        g = -torch.exp(w["A_log"]) * torch.log(1 + torch.exp(x_TD @ w["in_proj_a.weight"].T + w["dt_bias"]))
        beta = 1 / (1 + torch.exp(-(x_TD @ w["in_proj_b.weight"].T)))
        starts = torch.tensor([t == 0 or docs[t] != docs[t - 1] for t in range(T)])
        drives = Signals((q / K**0.5)[None], k[None], v.view(1, T, H, V), g[None], beta[None], starts[None])
        y = in_loops(drives)[0][0]
        normed = y / ((y * y).mean(-1, keepdim=True) + config.norm_eps).sqrt() * w["norm.weight"]
        gate = (x_TD @ w["in_proj_z.weight"].T).view(T, H, V)
        out_BTD.append((normed * gate / (1 + torch.exp(-gate))).view(T, H * V) @ w["out_proj.weight"].T)
    return torch.stack(out_BTD)


@EACH_FORM
@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_matches_the_textbook(config: GatedDeltaNetConfig, length: int) -> None:
    layer, x_BTD = build(config), normal(2, length, D)
    documents = [[0] * (length // 3) + [1] * (length - length // 3), [0] * (length - 1) + [1]]
    ours = layer(x_BTD, SequenceLayout.packed(torch.tensor(documents)))
    torch.testing.assert_close(ours, textbook(config, layer, x_BTD, documents), rtol=0, atol=1e-10)
    alone = layer(x_BTD, SequenceLayout.rows(2, length))
    torch.testing.assert_close(alone, textbook(config, layer, x_BTD, [[0] * length] * 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_recurrence_and_its_chunked_form_are_the_definition(length: int, groups: int, documents: bool) -> None:
    s, state = signals(length, groups=groups, documents=documents), normal(2, 4, 5, 3)
    for before in (None, state):
        expected = in_loops(s, before)
        torch.testing.assert_close(recurrence(s, before), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(chunked(s, before, chunk_size=CHUNK), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", [1, CHUNK, CHUNK + 1, 16])
def test_a_scan_goes_on_from_a_state(cut: int) -> None:
    s = signals(17, documents=True)
    first, state = scan(s.part(slice(0, cut)), chunk_size=CHUNK)
    second, last = scan(s.part(slice(cut, 17)), state, chunk_size=CHUNK)
    whole, expected = in_loops(s)
    torch.testing.assert_close((torch.cat([first, second], dim=1), last), (whole, expected), rtol=0, atol=1e-12)


def test_a_key_recalls_what_was_last_written_with_it() -> None:
    """The rule itself, without decay: a value written in full replaces the one before, others at right angles stay."""
    q = k = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 1, 0]][None, :, None]
    v, ones = normal(1, 5, 1, 2), torch.ones(1, 5, 1, dtype=torch.float64)
    y, state = chunked(Signals(q, k, v, 0 * ones, ones), chunk_size=5)
    torch.testing.assert_close(y, v, rtol=0, atol=1e-12)
    expected = torch.stack([v[0, 4, 0], v[0, 3, 0], torch.zeros(2, dtype=torch.float64)])
    torch.testing.assert_close(state[0, 0], expected, rtol=0, atol=1e-12)


def test_keys_that_are_all_alike_stay_exact_in_float32() -> None:
    """The system of a chunk is then as far from the identity as can be: powers of it go beyond 1e15."""
    s = signals(128, groups=1, heads=2)
    alike = s.k_BTGK[:, :1] + 0.01 * s.k_BTGK
    s = Signals(s.q_BTGK, alike / alike.norm(dim=-1, keepdim=True), s.v_BTHV, 0.01 * s.g_BTH, 0 * s.g_BTH + 0.99)
    exact, state = in_loops(s)
    half = Signals(*(x.float() for x in (s.q_BTGK, s.k_BTGK, s.v_BTHV, s.g_BTH, s.beta_BTH)))
    ours, last = chunked(half, chunk_size=64)
    assert ours.dtype == last.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.double(), state, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    s, state = signals(5, heads=2, groups=1, documents=True), normal(2, 2, 5, 3).requires_grad_()

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *parts, before = inputs
        return chunked(Signals(*parts, starts_BT=s.starts_BT), before, chunk_size=2)

    assert torch.autograd.gradcheck(run, (*leaves(s), state), fast_mode=True)


def test_gradients_of_the_chunked_form_are_those_of_the_recurrence() -> None:
    s, found = signals(17, documents=True), []
    for run in (recurrence, lambda x: chunked(x, chunk_size=CHUNK)):
        inputs = leaves(s)
        y, last = run(Signals(*inputs, starts_BT=s.starts_BT))
        (y.square().sum() + last.square().sum()).backward()
        found.append([leaf.grad for leaf in inputs])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


# transformers


def rules() -> dict[str, Callable[..., tuple[Tensor, Tensor]]]:
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    return {"chunks": module.torch_chunk_gated_delta_rule, "recurrence": module.torch_recurrent_gated_delta_rule}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("form", ["chunks", "recurrence"])
def test_equals_the_rule_of_transformers(form: str, length: int) -> None:
    """Theirs computes in float32 always, in chunks of 64, and divides queries by the root of their width."""
    s, state = signals(length), normal(2, 4, 5, 3)
    parts = [x.float() for x in (s.q_BTGK, s.k_BTGK, s.v_BTHV, s.g_BTH, s.beta_BTH)]
    keys = {"initial_state": state.float(), "output_final_state": True}
    expected = rules()[form](5**0.5 * parts[0], *parts[1:], **keys)
    for ours in (recurrence(s, state), chunked(s, state, chunk_size=64)):
        torch.testing.assert_close(tuple(x.float() for x in ours), expected, rtol=0, atol=1e-5)


def settings_of(config: GatedDeltaNetConfig) -> dict[str, Any]:
    return {
        "hidden_size": D, "num_hidden_layers": 1, "layer_types": ["linear_attention"], "rms_norm_eps": config.norm_eps,
        "linear_num_value_heads": config.n_heads, "linear_num_key_heads": config.qk_heads,
        "linear_key_head_dim": config.width(D), "linear_value_head_dim": config.v_width(D),
        "linear_conv_kernel_dim": config.d_conv,
    }  # fmt: skip


def their_35(config: GatedDeltaNetConfig, ours: dict[str, Tensor]) -> torch.nn.Module:
    """Qwen3.5's layer: the same names, the same numbers."""
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    layer: torch.nn.Module = module.Qwen3_5GatedDeltaNet(transformers.Qwen3_5TextConfig(**settings_of(config)), 0)
    layer.load_state_dict(ours)
    return layer.eval()


def their_next(config: GatedDeltaNetConfig, ours: dict[str, Tensor]) -> torch.nn.Module:
    """Qwen3-Next's layer: rows of q, k, v and z, and of b and a, are together for each head of keys."""
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    layer: torch.nn.Module = module.Qwen3NextGatedDeltaNet(transformers.Qwen3NextConfig(**settings_of(config)), 0)
    left, G = dict(ours), config.qk_heads
    wide = config.n_heads * config.v_width(D)
    keys = G * config.width(D)
    parts = [*left.pop("in_proj_qkv.weight").split([keys, keys, wide]), left.pop("in_proj_z.weight")]
    left["in_proj_qkvz.weight"] = torch.cat([p.view(G, -1, D) for p in parts], dim=1).flatten(0, 1)
    parts = [left.pop("in_proj_b.weight"), left.pop("in_proj_a.weight")]
    left["in_proj_ba.weight"] = torch.cat([p.view(G, -1, D) for p in parts], dim=1).flatten(0, 1)
    layer.load_state_dict(left)
    return layer.eval()


@EACH_FORM
@pytest.mark.parametrize("length", [1, 7, 65])
@pytest.mark.parametrize("reference", [their_35, their_next])
@torch.no_grad()
def test_equals_the_layer_of_transformers(
    reference: Callable[[GatedDeltaNetConfig, dict[str, Tensor]], torch.nn.Module],
    config: GatedDeltaNetConfig, length: int,
) -> None:  # fmt: skip
    """In float32, as theirs computes always; with a small eps its rounding is made large, theirs more than ours."""
    x_BTD, layout = normal(2, length, D).float(), SequenceLayout.rows(2, length)
    for eps, atol in ((1e-2, 1e-5), (1e-6, 1e-4)):
        ours = build(config.model_copy(update={"norm_eps": eps})).float()
        theirs = reference(config.model_copy(update={"norm_eps": eps}), ours.state_dict())
        torch.testing.assert_close(ours(x_BTD, layout), theirs(x_BTD), rtol=0, atol=atol)


@EACH_FORM
@torch.no_grad()
def test_bfloat16_is_nearer_the_exact_layer_than_that_of_transformers(config: GatedDeltaNetConfig) -> None:
    """By the median: where a query is nearly at a right angle to all keys, the norm of the output makes noise large."""
    layer, x_BTD, layout = build(config).bfloat16(), normal(16, 19, D).bfloat16(), SequenceLayout.rows(16, 19)
    theirs = their_35(config, layer.state_dict()).bfloat16()(x_BTD)
    ours = layer(x_BTD, layout)
    exact = layer.double()(x_BTD.double(), layout)
    assert float((ours - exact).abs().median()) < float((theirs - exact).abs().median())
    assert float((ours - exact).abs().median()) < 0.005 * float(exact.std())


# The cache


@EACH_FORM
@torch.no_grad()
def test_every_cut_of_a_sequence_gives_the_same(config: GatedDeltaNetConfig) -> None:
    T = 3 * CHUNK + 1
    layer, x_BTD = build(config), normal(2, T, D)
    layout = SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * (T - 5), [-1] * 2 + [0] * (T - 2)]))
    whole = layer(x_BTD, layout)
    for rollback in (0, 3):
        for sizes in ([1] * T, *([cut, T - cut] for cut in range(1, T)), [4, 1, 1, T - 6]):
            cache, out = layer.make_cache(T, rollback), []
            for part in pieces(sizes):
                here = SequenceLayout(layout.positions_BT[:, part], layout.documents_BT[:, part])
                out.append(layer(x_BTD[:, part], here, cache))
            torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_packed_and_padded_documents_are_as_they_are_alone() -> None:
    layer, x_BTD = build(FORMS["plain"]), normal(1, 13, D)
    alone = [layer(x_BTD[:, part], SequenceLayout.rows(1, part.stop - part.start)) for part in pieces([6, 2, 5])]
    packed = layer(x_BTD, SequenceLayout.packed(torch.tensor([[0] * 6 + [1] * 2 + [0] * 5])))
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-10)
    padded = layer(x_BTD, SequenceLayout.packed(torch.tensor([[-1] * 6 + [0] * 2 + [-1] * 5])))
    torch.testing.assert_close(padded[:, 6:8], alone[1], rtol=0, atol=1e-10)


@torch.no_grad()
def test_going_back_restores_the_very_state() -> None:
    layer, x_BTD = build(FORMS["plain"]), normal(2, 12, D)
    cache, states = layer.make_cache(12, rollback=3), {}
    for part in pieces([4, 1, 1, 5, 1]):
        layer(x_BTD[:, part], SequenceLayout.rows(2, part.stop - part.start, start=part.start), cache)
        states[part.stop] = cache.state
    cache.trim(11)
    assert cache.length == 11
    assert all(torch.equal(a, b) for a, b in zip(cache.state or (), states[11] or (), strict=True))
    with pytest.raises(ValueError, match="cannot go back from 11 positions to 8"):
        cache.trim(8)
    cache.trim(9)
    again = layer(x_BTD[:, 9:], SequenceLayout.rows(2, 3, start=9), cache)
    torch.testing.assert_close(again, layer(x_BTD, SequenceLayout.rows(2, 12))[:, 9:], rtol=0, atol=1e-10)


@torch.no_grad()
def test_rows_of_a_cache_can_be_reordered() -> None:
    layer, x_BTD, rows = build(FORMS["plain"]), normal(3, 9, D), torch.tensor([2, 0])
    cache = layer.make_cache(9)
    layer(x_BTD[:, :5], SequenceLayout.rows(3, 5), cache)
    cache.reorder(rows)
    rest = layer(x_BTD[rows, 5:], SequenceLayout.rows(2, 4, start=5), cache)
    torch.testing.assert_close(rest, layer(x_BTD[rows], SequenceLayout.rows(2, 9))[:, 5:], rtol=0, atol=1e-10)


@torch.no_grad()
def test_states_are_kept_in_float32_whatever_the_model_is_in() -> None:
    layer, x_BTD = build(FORMS["plain"]).bfloat16(), normal(2, 6, D).bfloat16()
    cache = layer.make_cache(7)
    for part in pieces([5, 1]):
        layer(x_BTD[:, part], SequenceLayout.rows(2, part.stop - part.start, start=part.start), cache)
        assert cache.state is not None
        assert [s.dtype for s in cache.state] == [torch.bfloat16, torch.float32]


# Counts, configuration, first weights


@EACH_FORM
@torch.no_grad()
def test_memory_is_counted_and_does_not_grow(config: GatedDeltaNetConfig) -> None:
    layer = build(config)
    for length in (1, 2, 19):
        cache = layer.make_cache(19)
        layer(normal(3, length, D), SequenceLayout.rows(3, length), cache)
        assert cache.nbytes == 3 * 8 * config.cache_elements(D, length)


def of_a_system(matrix: tuple[int, ...], sides: tuple[int, ...], *args: Any, **keys: Any) -> int:
    """A triangular system is counted as the product of its inverse with the sides, which torch leaves out."""
    return 2 * math.prod(sides) * matrix[-1]


@EACH_FORM
def test_parameters_and_operations_are_those_torch_counts(config: GatedDeltaNetConfig) -> None:
    whole, T = config_of("M", {"M": config}, n_layers=3), 3 * CHUNK
    model, rows = fresh(whole, seed=0), torch.zeros(2, T, dtype=torch.long)
    assert parameters(whole) == sum(p.numel() for p in model.parameters())
    systems = {torch.ops.aten.linalg_solve_triangular: of_a_system}
    with FlopCounterMode(display=False, custom_mapping=systems) as counter:
        out = model(rows, SequenceLayout.rows(2, T), readout=LastLogits(T))
    assert counter.get_total_flops() == forward_flops_per_token(whole, T) * rows.numel()
    with counter:
        out.sum().backward()
    # No gradient goes to what enters the first chunk (nothing), none comes from what leaves the last (three products).
    missing = 3 * 2 * 3 * (2 * CHUNK * config.n_heads * config.width(D) * config.v_width(D))
    backward = counter.get_total_flops() + missing
    assert backward + forward_flops_per_token(whole, T) * rows.numel() == train_flops_per_token(whole, T) * rows.numel()


@torch.no_grad()
def test_first_weights_forget_after_one_step_to_thousands() -> None:
    config = GatedDeltaNetConfig(n_heads=256, head_dim=1)
    layer = fresh(config_of("M", {"M": config}, n_layers=1), seed=0).model.layers[0].linear_attn
    rates, steps = layer.A_log.exp(), torch.nn.functional.softplus(layer.dt_bias)
    assert 0.01 - 1e-6 <= float(rates.min()) < 0.5
    assert 15 < float(rates.max()) <= 16 + 1e-5
    assert abs(float(rates.mean()) - 8) < 1
    assert float(steps.min()) >= 1e-3 - 1e-6
    assert float(steps.max()) <= 0.1 + 1e-6
    assert abs(float(steps.log().mean()) - math.log(0.01)) < 0.3
    assert torch.equal(layer.norm.weight, torch.ones(1))
    taps = layer.conv1d.weight
    assert 0.45 < float(taps.abs().max()) <= 0.5
    assert abs(float(taps.std()) - 0.5 / math.sqrt(3)) < 0.02
    assert float(layer.out_proj.weight.std()) < 0.02


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValidationError, match="n_heads .4. must be a multiple of n_qk_heads .3."):
        GatedDeltaNetConfig(n_heads=4, n_qk_heads=3)
    assert "whole number" in (GatedDeltaNetConfig(n_heads=5).misfit(D) or "")
    assert GatedDeltaNetConfig(n_heads=5, head_dim=7).misfit(D) is None
