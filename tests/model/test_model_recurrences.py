"""What Mamba-2 and gated DeltaNet owe alike: scans that are their definition, a cache of fixed size, exact counts."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.count import forward_flops_per_token, parameters, train_flops_per_token
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig
from cirilla_cli.model.ops import delta, ssd
from cirilla_cli.model.ops.conv import causal_conv, tail_of
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.state_cache import StateCache

from .conftest import config_of
from .recurrences import (
    CHUNK,
    DELTA_STATE,
    DELTANET,
    LENGTHS,
    MAMBA2,
    SSD_STATE,
    D,
    built,
    delta_in_loops,
    delta_signals,
    normal,
    pieces,
    ssd_in_loops,
    ssd_signals,
)

FORMS: dict[str, Any] = {
    **{f"mamba2, {name}": config for name, config in MAMBA2.items()},
    **{f"deltanet, {name}": config for name, config in DELTANET.items()},
}
EACH_FORM = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
EACH_PLAIN = pytest.mark.parametrize("config", [MAMBA2["plain"], DELTANET["plain"]], ids=["mamba2", "deltanet"])


class Rule(NamedTuple):
    """One recurrence, and its oracle."""

    ops: Any
    signals: Callable[..., Any]
    in_loops: Callable[..., tuple[Tensor, Tensor]]
    state: tuple[int, ...]


RULES = {
    "ssd": Rule(ssd, ssd_signals, ssd_in_loops, SSD_STATE),
    "delta": Rule(delta, delta_signals, delta_in_loops, DELTA_STATE),
}
EACH_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def leaves(signals: Any) -> dict[str, Tensor]:
    """What gradients go to: all but where documents begin."""
    parts = {f.name: getattr(signals, f.name) for f in dataclasses.fields(signals) if f.name != "starts_BT"}
    return {name: part.detach().clone().requires_grad_() for name, part in parts.items()}


# The definition


@EACH_RULE
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_recurrence_and_its_chunked_form_are_the_definition(
    rule: Rule, length: int, groups: int, documents: bool
) -> None:
    signals, state = rule.signals(length, groups=groups, documents=documents), normal(*rule.state)
    for before in (None, state):
        expected = rule.in_loops(signals, before)
        torch.testing.assert_close(rule.ops.recurrence(signals, before), expected, rtol=0, atol=1e-12)
        ours = rule.ops.chunked(signals, before, chunk_size=CHUNK)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@EACH_RULE
@pytest.mark.parametrize("cut", [1, CHUNK, CHUNK + 1, 16])
def test_a_scan_goes_on_from_a_state(rule: Rule, cut: int) -> None:
    signals = rule.signals(17, documents=True)
    first, state = rule.ops.scan(signals.part(slice(0, cut)), chunk_size=CHUNK)
    second, last = rule.ops.scan(signals.part(slice(cut, 17)), state, chunk_size=CHUNK)
    whole, expected = rule.in_loops(signals)
    torch.testing.assert_close((torch.cat([first, second], dim=1), last), (whole, expected), rtol=0, atol=1e-12)


@EACH_RULE
def test_gradients_are_those_of_finite_differences(rule: Rule) -> None:
    signals = rule.signals(5, heads=2, groups=1, documents=True)
    parts = leaves(signals)
    state = normal(2, 2, *rule.state[2:]).requires_grad_()

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *values, before = inputs
        moved = dataclasses.replace(signals, **dict(zip(parts, values, strict=True)))
        return rule.ops.chunked(moved, before, chunk_size=2)

    assert torch.autograd.gradcheck(run, (*parts.values(), state), fast_mode=True)


@EACH_RULE
def test_gradients_of_the_chunked_form_are_those_of_the_recurrence(rule: Rule) -> None:
    found = []
    for run in (rule.ops.recurrence, lambda signals: rule.ops.chunked(signals, chunk_size=CHUNK)):
        signals = rule.signals(17, documents=True)
        parts = leaves(signals)
        y, last = run(dataclasses.replace(signals, **parts))
        (y.square().sum() + last.square().sum()).backward()
        found.append([part.grad for part in parts.values()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


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


# The cache


@EACH_FORM
@torch.no_grad()
def test_every_cut_of_a_sequence_gives_the_same(config: Any) -> None:
    T = 3 * CHUNK + 1
    layer, x_BTD = built(config), normal(2, T, D)
    layout = SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * (T - 5), [-1] * 2 + [0] * (T - 2)]))
    whole = layer(x_BTD, layout)
    for rollback in (0, 3):
        for sizes in ([1] * T, *([cut, T - cut] for cut in range(1, T)), [4, 1, 1, T - 6]):
            cache, out = layer.make_cache(T, rollback), []
            for part in pieces(sizes):
                here = SequenceLayout(layout.positions_BT[:, part], layout.documents_BT[:, part])
                out.append(layer(x_BTD[:, part], here, cache))
            torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=1e-10)


@EACH_PLAIN
@torch.no_grad()
def test_packed_and_padded_documents_are_as_they_are_alone(config: Any) -> None:
    layer, x_BTD = built(config), normal(1, 13, D)
    alone = [layer(x_BTD[:, part], SequenceLayout.rows(1, part.stop - part.start)) for part in pieces([6, 2, 5])]
    packed = layer(x_BTD, SequenceLayout.packed(torch.tensor([[0] * 6 + [1] * 2 + [0] * 5])))
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-10)
    padded = layer(x_BTD, SequenceLayout.packed(torch.tensor([[-1] * 6 + [0] * 2 + [-1] * 5])))
    torch.testing.assert_close(padded[:, 6:8], alone[1], rtol=0, atol=1e-10)


@EACH_PLAIN
@torch.no_grad()
def test_going_back_restores_the_very_state(config: Any) -> None:
    layer, x_BTD = built(config), normal(2, 12, D)
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


@EACH_PLAIN
@torch.no_grad()
def test_rows_of_a_cache_can_be_reordered(config: Any) -> None:
    layer, x_BTD, rows = built(config), normal(3, 9, D), torch.tensor([2, 0])
    cache = layer.make_cache(9)
    layer(x_BTD[:, :5], SequenceLayout.rows(3, 5), cache)
    cache.reorder(rows)
    rest = layer(x_BTD[rows, 5:], SequenceLayout.rows(2, 4, start=5), cache)
    torch.testing.assert_close(rest, layer(x_BTD[rows], SequenceLayout.rows(2, 9))[:, 5:], rtol=0, atol=1e-10)


@EACH_PLAIN
@torch.no_grad()
def test_states_are_kept_in_float32_whatever_the_model_is_in(config: Any) -> None:
    layer, x_BTD = built(config).bfloat16(), normal(2, 6, D).bfloat16()
    cache = layer.make_cache(7)
    for part in pieces([5, 1]):
        layer(x_BTD[:, part], SequenceLayout.rows(2, part.stop - part.start, start=part.start), cache)
        assert cache.state is not None
        assert [s.dtype for s in cache.state] == [torch.bfloat16, torch.float32]


@EACH_PLAIN
@torch.no_grad()
def test_a_long_memory_in_bfloat16_stays_near_the_exact_one(config: Any) -> None:
    """Three hundred like tokens and hardly any decay: what each adds is less than bfloat16 can add to the state."""
    layer, T = built(config), 300
    layer.A_log.fill_(-7.0)
    x_BTD = 0.3 * normal(2, T, D) + normal(2, 1, D, seed=1)
    cache, out = layer.bfloat16().make_cache(T), []
    for t in range(T):
        out.append(layer(x_BTD[:, t : t + 1].bfloat16(), SequenceLayout.rows(2, 1, start=t), cache))
    exact = layer.double()(x_BTD.bfloat16().double(), SequenceLayout.rows(2, T))[:, -50:]
    error = torch.cat(out, dim=1)[:, -50:] - exact
    assert float(error.square().mean().sqrt()) < 0.008 * float(exact.std())


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


# Counts, first weights


@EACH_FORM
@torch.no_grad()
def test_memory_is_counted_and_does_not_grow(config: Any) -> None:
    layer = built(config)
    for length in (1, 2, 19):
        cache = layer.make_cache(19)
        layer(normal(3, length, D), SequenceLayout.rows(3, length), cache)
        assert cache.nbytes == 3 * 8 * config.cache_elements(D, length)


def of_a_system(matrix: tuple[int, ...], sides: tuple[int, ...], *args: Any, **keys: Any) -> int:
    """A triangular system is counted as the product of its inverse with the sides, which torch leaves out."""
    return 2 * math.prod(sides) * matrix[-1]


def without_gradient(config: Any) -> int:
    """Operations a row that its backward pass leaves out, which the closed form does not look into.

    The delta rule sends no gradient to what enters the first chunk (nothing), and none comes from what leaves the last
    one: three products of a chunk with a state, in each head.
    """
    if not isinstance(config, GatedDeltaNetConfig):
        return 0
    return 3 * 2 * CHUNK * config.n_heads * config.width(D) * config.v_width(D)


@EACH_FORM
def test_parameters_and_operations_are_those_torch_counts(config: Any) -> None:
    whole, B, T, layers = config_of("M", {"M": config}, n_layers=3), 2, 3 * CHUNK, 3
    model, rows = fresh(whole, seed=0), torch.zeros(B, T, dtype=torch.long)
    assert parameters(whole) == sum(p.numel() for p in model.parameters())
    systems = {torch.ops.aten.linalg_solve_triangular: of_a_system}
    with FlopCounterMode(display=False, custom_mapping=systems) as counter:
        out = model(rows, SequenceLayout.rows(B, T), readout=LastLogits(T))
    assert counter.get_total_flops() == forward_flops_per_token(whole, T) * B * T
    with counter:
        out.sum().backward()
    backward = counter.get_total_flops() + layers * B * without_gradient(config)
    assert backward == (train_flops_per_token(whole, T) - forward_flops_per_token(whole, T)) * B * T


@pytest.mark.parametrize(("name", "least"), [("mamba2", 1.0), ("deltanet", 0.01)])
@torch.no_grad()
def test_first_weights_forget_after_one_step_to_hundreds(name: str, least: float) -> None:
    """Rates uniform up to 16, steps log-uniform in 0.001 to 0.1, taps uniform up to a half for four of them."""
    config = {"mamba2": MAMBA2, "deltanet": DELTANET}[name]["plain"].model_copy(update={"n_heads": 256, "head_dim": 1})
    layer = fresh(config_of("M", {"M": config}, n_layers=1), seed=0).model.blocks()[0].mixer
    rates, steps = layer.A_log.exp(), torch.nn.functional.softplus(layer.dt_bias)
    assert least - 1e-5 <= float(rates.min()) < least + 0.5
    assert 15 < float(rates.max()) <= 16 + 1e-5
    assert abs(float(rates.mean()) - (least + 16) / 2) < 1
    assert float(steps.min()) >= 1e-3 - 1e-6
    assert float(steps.max()) <= 0.1 + 1e-6
    assert abs(float(steps.log().mean()) - math.log(0.01)) < 0.3
    taps = layer.conv1d.weight
    assert 0.45 < float(taps.abs().max()) <= 0.5
    assert abs(float(taps.std()) - 0.5 / math.sqrt(3)) < 0.02
    assert float(layer.out_proj.weight.std()) < 0.02
    assert torch.equal(layer.norm.weight, torch.ones_like(layer.norm.weight))
