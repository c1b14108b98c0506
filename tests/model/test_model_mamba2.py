"""Mamba-2 against its definition in loops and against transformers; its cache; its counts; the optional kernel."""

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.count import forward_flops_per_token, parameters, train_flops_per_token
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import Mamba2Config
from cirilla_cli.model.mixers.mamba2 import Mamba2
from cirilla_cli.model.ops import ssd_kernels
from cirilla_cli.model.ops.conv import causal_conv, tail_of
from cirilla_cli.model.ops.ssd import Signals, chunked, recurrence, scan
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import RMSNormConfig
from cirilla_cli.model.state_cache import StateCache

from .conftest import config_of, randomise

D, CHUNK = 24, 4
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
FORMS = {
    "plain": Mamba2Config(n_heads=4, d_state=5, chunk_size=CHUNK),
    "narrow heads, in groups": Mamba2Config(n_heads=6, head_dim=4, n_groups=3, d_state=3, chunk_size=CHUNK),
    "biases moved, steps bounded": Mamba2Config(
        n_heads=2, expand=3.0, d_state=4, d_conv=3, conv_bias=False, proj_bias=True, dt_min=0.5, dt_max=1.5,
        chunk_size=CHUNK,
    ),
}  # fmt: skip
EACH_FORM = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def build(config: Mamba2Config) -> Mamba2:
    mamba = config.build(D, RMSNormConfig()).double()
    randomise(mamba)
    return mamba


def signals(length: int, *, heads: int = 4, groups: int = 2, documents: bool = False) -> Signals:
    """Random ones with heads 3 wide and states 5 wide; each position begins a document with a chance of 1 in 5."""
    uniform = torch.rand(2, length, heads, dtype=torch.float64, generator=generator(1))
    starts = torch.rand(2, length, generator=generator(2)) < 0.2 if documents else None
    return Signals(
        normal(2, length, heads, 3, seed=3), uniform, -3 * uniform[0, 0] - 0.1, normal(2, length, groups, 5, seed=4),
        normal(2, length, groups, 5, seed=5), normal(heads, seed=6), starts,
    )  # fmt: skip


# The definition


def in_loops(s: Signals, state_BHPN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h = exp(dt a) h + dt x b^T, y = h c + d x: number by number, for each row, head and position."""
    B, T, H, P = s.x_BTHP.shape
    y, last = torch.zeros(B, T, H, P, dtype=torch.float64), []
    for row in range(B):
        for head in range(H):
            group = head // (H // s.b_BTGN.shape[2])
            h = torch.zeros(P, s.b_BTGN.shape[-1], dtype=torch.float64)
            if state_BHPN is not None:
                h = state_BHPN[row, head]
            for t in range(T):
                if s.starts_BT is not None and bool(s.starts_BT[row, t]):
                    h = torch.zeros_like(h)
                dt, x = s.dt_BTH[row, t, head], s.x_BTHP[row, t, head]
                h = math.exp(float(dt * s.a_H[head])) * h + dt * torch.outer(x, s.b_BTGN[row, t, group])
                y[row, t, head] = h @ s.c_BTGN[row, t, group] + s.d_H[head] * x
            last.append(h)
    return y, torch.stack(last).view(B, H, P, -1)


def textbook(config: Mamba2Config, mamba: Mamba2, x_BTD: Tensor, documents: list[list[int]]) -> Tensor:
    """The layer by the paper's section 7; shares no code with ours."""
    w, inner = dict(mamba.named_parameters()), config.n_heads * config.width(D)
    shared, taps = config.n_groups * config.d_state, config.d_conv
    out_BTD = []
    for x_TD, docs in zip(x_BTD, documents, strict=True):
        T = len(docs)
        projected = x_TD @ w["in_proj.weight"].T + w.get("in_proj.bias", 0.0)
        gate, raw = projected[:, :inner], projected[:, -config.n_heads :]
        inputs = projected[:, inner : -config.n_heads]
        mixed = torch.zeros_like(inputs)
        for t in range(T):
            for back in range(taps):
                if t - back >= 0 and docs[t - back] == docs[t]:
                    mixed[t] += w["conv1d.weight"][:, 0, taps - 1 - back] * inputs[t - back]
        mixed = mixed + w.get("conv1d.bias", 0.0)
        mixed = mixed / (1 + torch.exp(-mixed))
        dt = torch.log(1 + torch.exp(raw + w["dt_bias"])).clamp(config.dt_min, config.dt_max or math.inf)
        x, b, c = mixed[:, :inner], mixed[:, inner : inner + shared], mixed[:, inner + shared :]
        starts = torch.tensor([t == 0 or docs[t] != docs[t - 1] for t in range(T)])
        y, _ = in_loops(Signals(
            x.view(1, T, config.n_heads, -1), dt[None], -torch.exp(w["A_log"]), b.view(1, T, config.n_groups, -1),
            c.view(1, T, config.n_groups, -1), w["D"], starts[None],
        ))  # fmt: skip
        gated = (y.view(T, inner) * gate / (1 + torch.exp(-gate))).view(T, config.n_groups, -1)
        normed = gated / ((gated**2).mean(-1, keepdim=True) + config.norm_eps).sqrt()
        out_BTD.append(normed.view(T, inner) * w["norm.weight"] @ w["out_proj.weight"].T + w.get("out_proj.bias", 0.0))
    return torch.stack(out_BTD)


@EACH_FORM
@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_matches_the_textbook(config: Mamba2Config, length: int) -> None:
    mamba, x_BTD = build(config), normal(2, length, D)
    documents = [[0] * (length // 3) + [1] * (length - length // 3), [0] * (length - 1) + [1]]
    ours = mamba(x_BTD, SequenceLayout.packed(torch.tensor(documents)))
    torch.testing.assert_close(ours, textbook(config, mamba, x_BTD, documents), rtol=0, atol=1e-10)
    alone = mamba(x_BTD, SequenceLayout.rows(2, length))
    torch.testing.assert_close(alone, textbook(config, mamba, x_BTD, [[0] * length] * 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_recurrence_and_its_chunked_form_are_the_definition(length: int, groups: int, documents: bool) -> None:
    s, state = signals(length, groups=groups, documents=documents), normal(2, 4, 3, 5)
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


def test_small_decays_behind_a_large_one_keep_their_precision() -> None:
    """In float32 the sum up to the large one has steps of 4e-3, which the small ones must not be rounded to."""
    s = signals(64)
    dt = s.dt_BTH * 0.01
    dt[:, 1] = 1e5
    s = Signals(s.x_BTHP, dt, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H)
    exact, _ = in_loops(s)
    ours, _ = chunked(s.to(torch.float32), chunk_size=64)
    torch.testing.assert_close(ours[:, 2:].double(), exact[:, 2:], rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_gradients_are_those_of_finite_differences() -> None:
    s = signals(5, heads=2, documents=True)
    leaves = [x.clone().requires_grad_() for x in (s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H)]
    state = normal(2, 2, 3, 5).requires_grad_()

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *parts, before = inputs
        return chunked(Signals(*parts, starts_BT=s.starts_BT), before, chunk_size=2)

    assert torch.autograd.gradcheck(run, (*leaves, state), fast_mode=True)


def test_gradients_of_the_chunked_form_are_those_of_the_recurrence() -> None:
    found = []
    for run in (recurrence, lambda x: chunked(x, chunk_size=CHUNK)):
        s = signals(17, documents=True)
        leaves = [x.requires_grad_() for x in (s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H)]
        y, last = run(s)
        (y.square().sum() + last.square().sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_bfloat16_stays_near_the_exact_layer() -> None:
    mamba, x_BTD, layout = build(FORMS["plain"]), normal(2, 19, D), SequenceLayout.rows(2, 19)
    exact = mamba(x_BTD, layout)
    mamba.bfloat16()
    assert float((mamba(x_BTD.bfloat16(), layout) - exact).square().mean().sqrt()) < 0.02 * float(exact.std())


# The convolution


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_convolution_goes_on_and_stays_in_its_document(taps: int, length: int) -> None:
    x, weight, bias = normal(2, 9 + length, 3), normal(3, 1, taps, seed=1), normal(3, seed=2)
    positions = torch.tensor([[*range(7), *range(2 + length)], [*range(10), *range(length - 1)]])
    tail = tail_of(tail_of(None, x[:, :2], taps), x[:, 2:9], taps)
    first = causal_conv(x[:, :9], weight, bias, positions_BT=positions[:, :9])
    second = causal_conv(x[:, 9:], weight, bias, tail_BRE=tail, positions_BT=positions[:, 9:])
    expected = torch.zeros_like(x)
    for row in range(2):
        for t in range(9 + length):
            for back in range(min(taps, int(positions[row, t]) + 1)):
                expected[row, t] += weight[:, 0, taps - 1 - back] * x[row, t - back]
    torch.testing.assert_close(torch.cat([first, second], dim=1), expected + bias, rtol=0, atol=1e-12)
    last = causal_conv(x[:, 9:10], weight, bias, tail_BRE=tail)
    plain = torch.nn.functional.conv1d(x[:, :10].transpose(1, 2), weight, bias, padding=taps - 1, groups=3)
    torch.testing.assert_close(last[:, 0], plain[:, :, 9], rtol=0, atol=1e-12)


# transformers


def their_mamba2(config: Mamba2Config) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    settings = transformers.Mamba2Config(
        hidden_size=D, num_heads=config.n_heads, head_dim=config.width(D), state_size=config.d_state,
        n_groups=config.n_groups, expand=config.n_heads * config.width(D) // D, conv_kernel=config.d_conv,
        use_conv_bias=config.conv_bias, use_bias=config.proj_bias, chunk_size=8, num_hidden_layers=1,
        time_step_limit=(config.dt_min, config.dt_max or math.inf), layer_norm_epsilon=config.norm_eps,
    )  # fmt: skip
    layer: torch.nn.Module = module.Mamba2Mixer(settings, layer_idx=0)
    return layer


def their_granite(config: Mamba2Config) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.granitemoehybrid.modeling_granitemoehybrid")
    settings = transformers.GraniteMoeHybridConfig(
        hidden_size=D, mamba_n_heads=config.n_heads, mamba_d_head=config.width(D), mamba_d_state=config.d_state,
        mamba_n_groups=config.n_groups, mamba_expand=config.n_heads * config.width(D) // D,
        mamba_d_conv=config.d_conv, mamba_conv_bias=config.conv_bias, mamba_proj_bias=config.proj_bias,
        mamba_chunk_size=8, num_hidden_layers=1, layer_types=["mamba"], rms_norm_eps=config.norm_eps,
    )  # fmt: skip
    layer: torch.nn.Module = module.GraniteMoeHybridMambaLayer(settings, layer_idx=0)
    return layer


@pytest.mark.parametrize("length", [1, 7, 8, 9, 29])
@pytest.mark.parametrize(
    ("reference", "form"),
    [(their_mamba2, "plain"), (their_mamba2, "biases moved, steps bounded"), (their_mamba2, "narrow heads, in groups"),
     (their_granite, "plain"), (their_granite, "narrow heads, in groups")],
)  # fmt: skip
@torch.no_grad()
def test_equals_the_layer_of_transformers(
    reference: Callable[[Mamba2Config], torch.nn.Module], form: str, length: int
) -> None:
    """Theirs scans in float32 always, so ours does too."""
    ours, theirs, x_BTD = build(FORMS[form]).float(), reference(FORMS[form]), normal(2, length, D).float()
    theirs.load_state_dict(ours.state_dict())
    out = ours(x_BTD, SequenceLayout.rows(2, length))
    torch.testing.assert_close(out, theirs.eval()(x_BTD), rtol=0, atol=1e-5)


# The cache


@EACH_FORM
@torch.no_grad()
def test_every_cut_of_a_sequence_gives_the_same(config: Mamba2Config) -> None:
    T = 3 * CHUNK + 1
    mamba, x_BTD = build(config), normal(2, T, D)
    layout = SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * (T - 5), [-1] * 2 + [0] * (T - 2)]))
    whole = mamba(x_BTD, layout)
    for rollback in (0, 3):
        for sizes in ([1] * T, *([cut, T - cut] for cut in range(1, T)), [4, 1, 1, T - 6]):
            cache, out = mamba.make_cache(T, rollback), []
            for part in pieces(sizes):
                here = SequenceLayout(layout.positions_BT[:, part], layout.documents_BT[:, part])
                out.append(mamba(x_BTD[:, part], here, cache))
            torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=1e-10)


def pieces(sizes: list[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


@torch.no_grad()
def test_going_back_restores_the_very_state() -> None:
    mamba, x_BTD = build(FORMS["plain"]), normal(2, 12, D)
    cache, states = mamba.make_cache(12, rollback=3), {}
    for part in pieces([4, 1, 1, 5, 1]):
        mamba(x_BTD[:, part], SequenceLayout.rows(2, part.stop - part.start, start=part.start), cache)
        states[part.stop] = cache.state
    cache.trim(11)
    assert cache.length == 11
    assert all(torch.equal(a, b) for a, b in zip(cache.state or (), states[11] or (), strict=True))
    with pytest.raises(ValueError, match="cannot go back from 11 positions to 8"):
        cache.trim(8)
    cache.trim(9)
    again = mamba(x_BTD[:, 9:], SequenceLayout.rows(2, 3, start=9), cache)
    torch.testing.assert_close(again, mamba(x_BTD, SequenceLayout.rows(2, 12))[:, 9:], rtol=0, atol=1e-10)


def test_a_state_cache_keeps_what_it_may_go_back_to_and_no_more() -> None:
    cache = StateCache(rollback=2)
    assert cache.state is None
    assert cache.spans(5) == [slice(0, 3), slice(3, 4), slice(4, 5)]
    assert cache.spans(1) == [slice(0, 1)]
    assert StateCache().spans(5) == [slice(0, 5)]
    for t in range(6):
        cache.keep(1, torch.full((3, 2), float(t)))
    assert cache.nbytes == 3 * 3 * 2 * 4
    cache.reorder(torch.tensor([2, 0]))
    cache.trim(4)
    assert cache.nbytes == 2 * 2 * 4
    assert cache.state is not None
    assert cache.state[0].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    with pytest.raises(ValueError, match="from 4 positions to 3"):
        cache.trim(3)
    with pytest.raises(ValueError, match="from 4 positions to 5"):
        cache.trim(5)


def test_a_fresh_cache_goes_back_to_nothing() -> None:
    cache = StateCache(rollback=2)
    cache.keep(1, torch.zeros(1))
    cache.trim(0)
    assert (cache.length, cache.state, cache.nbytes) == (0, None, 0)


@torch.no_grad()
def test_rows_of_a_cache_can_be_reordered() -> None:
    mamba, x_BTD, rows = build(FORMS["plain"]), normal(3, 9, D), torch.tensor([2, 0])
    cache = mamba.make_cache(9)
    mamba(x_BTD[:, :5], SequenceLayout.rows(3, 5), cache)
    cache.reorder(rows)
    rest = mamba(x_BTD[rows, 5:], SequenceLayout.rows(2, 4, start=5), cache)
    torch.testing.assert_close(rest, mamba(x_BTD[rows], SequenceLayout.rows(2, 9))[:, 5:], rtol=0, atol=1e-10)


# Counts, configuration, first weights


@EACH_FORM
@torch.no_grad()
def test_memory_is_counted_and_does_not_grow(config: Mamba2Config) -> None:
    mamba = build(config)
    for length in (1, 2, 19):
        cache = mamba.make_cache(19)
        mamba(normal(3, length, D), SequenceLayout.rows(3, length), cache)
        assert cache.nbytes == 3 * 8 * config.cache_elements(D, length)


@EACH_FORM
def test_parameters_and_operations_are_those_torch_counts(config: Mamba2Config) -> None:
    whole, T = config_of("M", {"M": config}, n_layers=3), 3 * CHUNK
    model, rows = fresh(whole, seed=0), torch.zeros(2, T, dtype=torch.long)
    assert parameters(whole) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        out = model(rows, SequenceLayout.rows(2, T), readout=LastLogits(T))
    assert counter.get_total_flops() == forward_flops_per_token(whole, T) * rows.numel()
    with counter:
        out.sum().backward()
    backward = counter.get_total_flops()
    assert backward + forward_flops_per_token(whole, T) * rows.numel() == train_flops_per_token(whole, T) * rows.numel()


@torch.no_grad()
def test_first_weights_are_drawn_as_the_paper_draws_them() -> None:
    config = Mamba2Config(n_heads=256, head_dim=1, d_state=4)
    mamba = fresh(config_of("M", {"M": config}, n_layers=1), seed=0).model.layers[0].mamba
    rates, steps = mamba.A_log.exp(), torch.nn.functional.softplus(mamba.dt_bias)
    assert float(rates.min()) >= 1 - 1e-5
    assert float(rates.max()) <= 16 + 1e-5
    assert abs(float(rates.mean()) - 8.5) < 1
    assert float(steps.min()) >= 1e-3 - 1e-6
    assert float(steps.max()) <= 0.1 + 1e-6
    assert abs(float(steps.log().mean()) - math.log(0.01)) < 0.3
    assert torch.equal(mamba.D, torch.ones(256))
    assert not bool(mamba.conv1d.bias.any())
    taps = mamba.conv1d.weight
    assert 0.45 < float(taps.abs().max()) <= 0.5
    assert abs(float(taps.std()) - 0.5 / math.sqrt(3)) < 0.02
    assert float(mamba.out_proj.weight.std()) < 0.02


@pytest.mark.parametrize(
    ("keys", "match"),
    [({"n_groups": 3}, "multiple of n_groups"), ({"head_dim": 8, "expand": 3.0}, "set one of them"),
     ({"dt_min": 0.5, "dt_max": 0.1}, "must not be less")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Mamba2Config(n_heads=4, **keys)


def test_heads_must_divide_the_inner_width() -> None:
    assert "whole number" in (Mamba2Config(n_heads=5).misfit(D) or "")
    assert Mamba2Config(n_heads=5, head_dim=7).misfit(D) is None


# The optional kernel


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf), return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The package's signature; the initial state goes to document 0, and a new number begins with nothing."""
    assert chunk_size & (chunk_size - 1) == 0
    assert D is not None
    assert return_final_states
    assert not dt_softplus
    starts = None
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        starts = torch.diff(seq_idx, dim=1, prepend=torch.zeros_like(seq_idx[:, :1])) != 0
    return in_loops(Signals(x, dt, A, B, C, D, starts), initial_states)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A `mamba_ssm` in which only the scan is."""
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["mamba_ssm.ops.triton.ssd_combined"])["mamba_chunk_scan_combined"] = mamba_chunk_scan_combined
    ssd_kernels.installed.cache_clear()
    yield
    ssd_kernels.installed.cache_clear()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
def test_the_kernel_gets_our_arguments_as_its_own(documents: bool) -> None:
    kernel, s, state = ssd_kernels.installed(), signals(9, documents=documents), normal(2, 4, 3, 5)
    assert kernel is not None
    parts = (s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H, s.starts_BT)
    for before in (None, state):
        found = kernel(*parts, before, chunk_size=12)
        torch.testing.assert_close(found, tuple(x.float() for x in in_loops(s, before)), rtol=0, atol=1e-6)


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    ssd_kernels.installed.cache_clear()
    assert ssd_kernels.installed() is None
    ssd_kernels.installed.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_kernel_is_for_half_precision_on_cuda_alone() -> None:
    class Elsewhere:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    assert inspect.unwrap(ssd_kernels.kernel_for)(Elsewhere()) is not None  # type: ignore[arg-type]
    Elsewhere.dtype = torch.float32
    assert ssd_kernels.kernel_for(Elsewhere()) is None  # type: ignore[arg-type]
    assert ssd_kernels.kernel_for(torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)) is None


def test_a_section_that_was_written_in_full_is_read_again() -> None:
    """As `model.json` has it: every field, those left at their defaults too."""
    section = Mamba2Config(n_heads=3, head_dim=12)
    assert Mamba2Config.model_validate(section.model_dump(mode="json")) == section
