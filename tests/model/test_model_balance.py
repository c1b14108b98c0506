"""Balance of experts: losses against the papers in loops, biases by hand, and what neither may count."""

# oracle: balance sequence importance batch: test_losses_are_those_of_the_papers_in_loops

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cirilla_cli.model.balance import Shares, batch_balance, importance, load_figures, sequence_balance
from cirilla_cli.model.config import EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.moe import MoE
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.routers import Routing
from cirilla_cli.model.routing import (
    BatchBalanceConfig,
    ImportanceBalanceConfig,
    SequenceBalanceConfig,
    SigmoidRouterConfig,
    SoftmaxRouterConfig,
)
from cirilla_cli.model.sections import MoEConfig

from .test_model_moe import ROUTERS, B, D, E, K, T, chosen, config, layer, layout_of, states

BALANCES = {"sequence": SequenceBalanceConfig(), "importance": ImportanceBalanceConfig(), "batch": BatchBalanceConfig()}


def routed(experts: Tensor, probabilities: Tensor) -> Routing:
    """A decision in which a token's experts weigh in proportion to their probabilities."""
    weights = probabilities.gather(1, experts)
    return Routing(experts, weights / weights.sum(-1, keepdim=True), probabilities, probabilities.log())


def tallied(section: MoEConfig, moe: MoE, x: Tensor, layout: SequenceLayout | None = None) -> dict[str, Any]:
    tally = Tally()
    moe(x, layout or layout_of(x), tally)
    return tally.sums


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
@torch.no_grad()
def test_losses_are_those_of_the_papers_in_loops(router: Any) -> None:
    documents = torch.tensor([[0] * 7, [0, 0, 0, 1, 1, -1, -1], [-1] * 7])
    layout, x = SequenceLayout.packed(documents), states()
    for name, balance in BALANCES.items():
        section = config(router=router, balance=balance, z_loss=0.5)
        moe = layer(section)
        sums = tallied(section, moe, x, layout)
        assert sums["moe/z"][1:] == ("positions", 0.5)
        sequence = diverged = z = 0.0
        f_all, p_all = [0.0] * E, [0.0] * E
        for row in range(B):
            real = [t for t in range(T) if documents[row, t] != -1]
            f, p = [0.0] * E, [0.0] * E
            for t in real:
                logits = [float(w @ x[row, t]) for w in moe.gate.weight]
                score = [1 / (1 + math.exp(-s)) if "Sigmoid" in type(router).__name__ else math.exp(s) for s in logits]
                z += math.log(sum(math.exp(s) for s in logits)) ** 2
                weights = chosen(section, moe, x[row, t])
                for e in range(E):
                    p[e] += score[e] / sum(score) / len(real)
                    f[e] += (e in weights) / (K * len(real))
                    f_all[e] += e in weights
                    p_all[e] += score[e] / sum(score)
            sequence += E * sum(a * b for a, b in zip(f, p, strict=True))
            diverged += sum(q * math.log(q * E) for q in p if q)
        batch = E * sum(a / (K * 12) * b / 12 for a, b in zip(f_all, p_all, strict=True)) * 12
        key, expected, unit = {
            "sequence": ("moe/balance", sequence, "rows"), "importance": ("moe/importance", diverged, "rows"),
            "batch": ("moe/batch_balance", batch, "positions"),
        }[name]  # fmt: skip
        assert float(sums[key].total) == pytest.approx(expected, rel=1e-9)
        assert sums[key][1:] == (unit, balance.weight)
        assert float(sums["moe/z"].total) == pytest.approx(z, rel=1e-9)


def test_the_batch_loss_of_a_layer_is_transformers_over_k() -> None:
    from transformers.models.mixtral import modeling_mixtral as modelling

    section = config(router=SoftmaxRouterConfig(), balance=BatchBalanceConfig())
    moe, x = layer(section, torch.float32), states(torch.float32)
    expected = modelling.load_balancing_loss_func((moe.gate(x.flatten(0, 1)).logits_ME,), E, K)
    sums = tallied(section, moe, x)
    torch.testing.assert_close(sums["moe/batch_balance"].total / (B * T), expected / K, rtol=1e-5, atol=1e-6)


@given(skew=st.floats(0.1, 8.0), n_experts=st.integers(4, 9), top_k=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_collapsed_routing_costs_more_than_uniform(skew: float, n_experts: int, top_k: int, seed: int) -> None:
    """Uniform: every expert equally often and equally likely, which costs 1, 1 and 0; collapsed: always the first."""
    length = n_experts * 4
    turns = (torch.arange(length)[:, None] + torch.arange(top_k)) % n_experts
    even = routed(turns, torch.full((length, n_experts), 1 / n_experts))
    logits = torch.rand(length, n_experts, generator=torch.Generator().manual_seed(seed)) * 0.01
    logits[:, :top_k] += skew
    same = routed(torch.arange(top_k).expand(length, -1), logits.softmax(-1))
    rows = torch.ones(1, length, dtype=torch.bool)
    uniform, collapsed = Shares.of(even, rows), Shares.of(same, rows)
    assert float(sequence_balance(uniform, top_k)) == pytest.approx(1.0, rel=1e-5)
    assert float(batch_balance(uniform, top_k)) == pytest.approx(float(length), rel=1e-5)
    assert float(importance(uniform)) == pytest.approx(0.0, abs=1e-5)
    assert float(sequence_balance(collapsed, top_k)) > 1.0 + 0.01 * skew
    assert float(batch_balance(collapsed, top_k)) > length * (1.0 + 0.01 * skew)
    assert float(importance(collapsed)) > 1e-4


@pytest.mark.parametrize("balance", BALANCES.values(), ids=BALANCES)
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_following_a_loss_undoes_a_collapse(router: Any, balance: Any) -> None:
    """The router alone is trained, on its loss alone, from logits that favour two experts for every token."""
    section = config(router=router, balance=balance)
    moe = layer(section, torch.float32).train()
    for bias in moe.buffers():
        bias.zero_()
    x = states(torch.float32, rows=8)
    x[..., 0] = 1.0
    with torch.no_grad():
        moe.gate.weight.mul_(0.3)
        moe.gate.weight[:, 0] = torch.tensor([2.0, 2.0, 0, 0, 0, 0])
    optimizer, costs = torch.optim.Adam(moe.gate.parameters(), lr=0.02), []
    for step in range(120):
        torch.manual_seed(step)
        (part,) = tallied(section, moe, x).values()
        figures = moe.after_step(lambda total: total)
        costs.append((float(part.total.detach()), float(figures["moe/load_max"])))
        optimizer.zero_grad()
        part.total.backward()
        optimizer.step()
    assert costs[0][0] > costs[-1][0]
    assert costs[0][1] > 2.0
    assert costs[-1][1] < 0.75 * costs[0][1]


@pytest.mark.parametrize("balance", BALANCES.values(), ids=BALANCES)
def test_padding_is_counted_nowhere(balance: Any) -> None:
    section = config(balance=balance, z_loss=0.1)
    moe = layer(section).train()
    x, documents = states(rows=2), torch.tensor([[0] * 5 + [-1] * 2, [0] * 7])
    layout = SequenceLayout.packed(documents)
    before, loads = tallied(section, moe, x, layout), moe._chosen_E
    moe._chosen_E = None
    x[0, 5:] = 77.0
    more = torch.cat([x, torch.full((1, T, D), -5.0, dtype=x.dtype)])
    padded = SequenceLayout.packed(torch.cat([documents, torch.full((1, T), PADDING)]))
    after = tallied(section, moe, more, padded)
    assert torch.equal(moe._chosen_E, loads)
    assert float(loads.sum()) == 12 * K
    for name, part in before.items():
        torch.testing.assert_close(after[name].total, part.total, rtol=1e-12, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("balance", ["sequence", "importance", "batch"])
def test_registers_of_an_encoder_are_counted_nowhere(balance: str) -> None:
    """By hand: a router of zeros makes all alike, so that a layer's sums are numbers of tokens, 5 + 3 and 4."""
    mlp = {"kind": "moe", "n_experts": 4, "top_k": 2, "d_ff": 8, "router": {"kind": "softmax"}, "z_loss": 0.5}
    keys = {
        "vocab_size": 20, "d_model": 16, "n_layers": 1, "context_length": 8, "registers": 3,
        "mixers": {"A": {"kind": "attention", "n_heads": 2, "causal": False}},
        "mlp": {**mlp, "balance": {"kind": balance}},
    }  # fmt: skip
    encoder = fresh(EncoderConfig.model_validate(keys), seed=0).double().train()
    moe = next(module for module in encoder.modules() if isinstance(module, MoE))
    moe.gate.weight.zero_()
    layout = SequenceLayout.packed(torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, -1, -1, -1, -1]]))
    tally = Tally()
    with torch.enable_grad():
        encoder.states(torch.randint(20, (2, 8)), layout, tally)
    expected = {
        "sequence": ("moe/balance", 2.0),
        "importance": ("moe/importance", 0.0),
        "batch": ("moe/batch_balance", 12),
    }
    name, total = expected[balance]
    assert float(tally.sums[name].total) == pytest.approx(total, abs=1e-12)
    assert float(tally.sums["moe/z"].total) == pytest.approx(12 * math.log(4) ** 2, rel=1e-12)
    assert moe._chosen_E is not None
    assert float(moe._chosen_E.sum()) == 12 * 2


def test_a_sum_has_one_unit_and_one_weight() -> None:
    tally = Tally()
    tally.add("moe/z", torch.tensor(1.0), unit="positions", scale=0.1)
    tally.add("moe/z", torch.tensor(2.0), unit="positions", scale=0.1)
    assert float(tally.sums["moe/z"].total) == 3.0
    with pytest.raises(ValueError, match=r"moe/z is summed over positions by 0\.1, not over positions by 0\.2"):
        tally.add("moe/z", torch.tensor(1.0), unit="positions", scale=0.2)


# Balancing by bias


def test_biases_move_by_the_rate_against_the_steps_loads_of_all_ranks() -> None:
    section = config(router=SigmoidRouterConfig(bias_rate=0.25))
    moe = layer(section).train()
    moe.gate.e_score_correction_bias.zero_()
    counts = [0.0] * E
    for seed in (1, 2):  # two micro-batches of one step
        x = states(seed=seed)
        for row in moe.gate(x.flatten(0, 1)).experts_MK.tolist():
            for e in row:
                counts[e] += 1
        moe(x, layout_of(x))
    other = torch.tensor([0.0, 40, 0, 0, 1, 7], dtype=torch.float64)
    seen = []

    def reduce(total: Tensor) -> Tensor:
        seen.append(total.tolist())
        return total + other

    figures = moe.after_step(reduce)
    assert seen == [counts]
    totals = [a + b for a, b in zip(counts, other.tolist(), strict=True)]
    mean = sum(totals) / E
    assert moe.gate.e_score_correction_bias.tolist() == [0.25 * ((c < mean) - (c > mean)) for c in totals]
    assert float(figures["moe/load_max"]) == pytest.approx(max(totals) / mean)
    assert moe.after_step(reduce) == {}


def test_loads_are_kept_in_training_only() -> None:
    moe, x = layer(config()), states()
    moe(x, layout_of(x), Tally())
    with torch.no_grad():
        moe.train()(x, layout_of(x))
    assert moe.after_step(lambda total: total) == {}
    moe(x, layout_of(x))
    assert moe.after_step(lambda total: total)


def test_a_collapsed_router_becomes_balanced_by_its_biases_alone() -> None:
    moe = layer(config(router=SigmoidRouterConfig(bias_rate=0.02), balance=None)).train()
    moe.gate.e_score_correction_bias.zero_()
    x = states(rows=16)
    x[..., 0] = 1.0
    with torch.no_grad():
        moe.gate.weight.mul_(0.5)
        moe.gate.weight[:, 0] = torch.tensor([4.0, 4.0, 0, 0, 0, 0])
    figures = []
    for _ in range(80):
        moe(x, layout_of(x))
        figures.append({name: float(value) for name, value in moe.after_step(lambda total: total).items()})
    assert figures[0]["moe/load_max"] > 2.9
    assert figures[0]["moe/dead"] >= 1
    assert figures[-1]["moe/load_max"] < 1.3
    assert figures[-1]["moe/load_entropy"] > 0.99
    assert figures[-1]["moe/dead"] == 0


def test_figures_of_loads_by_hand() -> None:
    even = load_figures(torch.full((4,), 5.0))
    assert {name: float(value) for name, value in even.items()} == {
        "moe/load_max": 1.0, "moe/load_entropy": pytest.approx(1.0), "moe/dead": 0.0
    }  # fmt: skip
    two = load_figures(torch.tensor([6.0, 6.0, 0.0, 0.0]))
    assert float(two["moe/load_max"]) == 2.0
    assert float(two["moe/load_entropy"]) == pytest.approx(0.5)
    assert float(two["moe/dead"]) == 2.0
