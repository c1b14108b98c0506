"""Mixture of experts: against the papers in loops and transformers' classes; routers, dense first layers, counts."""

# oracle: feed-forward moe: test_the_layer_is_the_papers_sum_over_chosen_experts
# oracle: router softmax sigmoid noisy: test_the_layer_is_the_papers_sum_over_chosen_experts

import math
import sys
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from cirilla_cli.model.init import empty, fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mlp import Gated
from cirilla_cli.model.moe import MoE
from cirilla_cli.model.routing import (
    NoisyRouterConfig,
    SigmoidRouterConfig,
    SoftmaxRouterConfig,
)
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

from .conftest import config_of, randomise

B, T, D, E, K, FF, SHARED = 3, 7, 16, 6, 2, 12, 20
EXACT = 1e-10

ROUTERS = {
    "softmax": SoftmaxRouterConfig(),
    "softmax, weights as they are": SoftmaxRouterConfig(renormalise=False),
    "sigmoid": SigmoidRouterConfig(),
    "sigmoid in groups": SigmoidRouterConfig(n_groups=3, top_groups=2, scale=2.5),
    "sigmoid, weights as they are": SigmoidRouterConfig(renormalise=False, n_groups=2, top_groups=1),
    "noisy": NoisyRouterConfig(),
}


def config(**keys: Any) -> MoEConfig:
    return MoEConfig.model_validate({"n_experts": E, "top_k": K, "d_ff": FF, **keys})


def layer(section: MoEConfig, dtype: torch.dtype = torch.float64, seed: int = 0) -> MoE:
    """A layer in evaluation whose every weight is random, with a bias that decides where there is one."""
    module = section.build(D).to(dtype).eval()
    randomise(module, seed)
    for bias in module.buffers():
        bias.copy_(torch.linspace(-0.3, 0.3, len(bias)).roll(1))
    return module


def states(dtype: torch.dtype = torch.float64, rows: int = B, seed: int = 1) -> Tensor:
    return torch.randn(rows, T, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layout_of(x: Tensor) -> SequenceLayout:
    return SequenceLayout.rows(*x.shape[:2])


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


# The papers, token by token


@torch.no_grad()
def chosen(section: MoEConfig, moe: MoE, x: Tensor) -> dict[int, float]:
    """Expert and weight of one token, with Python's own sorting."""
    scores = [float(row @ x) for row in moe.gate.weight]
    best = lambda values: sorted(range(len(values)), key=lambda e: -values[e])  # noqa: E731
    match section.router:
        case SoftmaxRouterConfig(renormalise=renormalise):
            every = [math.exp(s) for s in scores]
            kept = best(scores)[:K]
            total = sum(every[e] for e in kept) if renormalise else sum(every)
            return {e: every[e] / total for e in kept}
        case SigmoidRouterConfig() as router:
            scores = [1 / (1 + math.exp(-s)) for s in scores]
            biased = [s + float(b) for s, b in zip(scores, moe.gate.e_score_correction_bias, strict=True)]
            size = E // router.n_groups
            groups = [biased[i : i + size] for i in range(0, E, size)]
            strength = [sum(sorted(group)[-2:]) for group in groups]
            allowed = {g * size + i for g in best(strength)[: router.top_groups] for i in range(size)}
            kept = [e for e in best(biased) if e in allowed][:K]
            total = sum(scores[e] for e in kept) if router.renormalise else 1.0
            return {e: router.scale * scores[e] / total for e in kept}
        case NoisyRouterConfig():
            kept = best(scores)[:K]
            return {e: math.exp(scores[e]) / sum(math.exp(scores[o]) for o in kept) for e in kept}


@torch.no_grad()
def by_hand(section: MoEConfig, moe: MoE, x_BTD: Tensor) -> Tensor:
    out = torch.zeros_like(x_BTD)
    for b in range(x_BTD.shape[0]):
        for t in range(x_BTD.shape[1]):
            x = x_BTD[b, t]
            for e, weight in chosen(section, moe, x).items():
                both = moe.experts.gate_up_proj[e]
                inner = silu(both[:FF] @ x) * (both[FF:] @ x)
                out[b, t] += weight * (moe.experts.down_proj[e] @ inner)
            if isinstance(moe.shared_experts, Gated):
                gate, up, down = (p.weight for p in moe.shared_experts.children())
                out[b, t] += down @ (silu(gate @ x) * (up @ x))
    return out


@pytest.mark.parametrize("shared", [None, SHARED], ids=["routed alone", "shared expert"])
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_the_layer_is_the_papers_sum_over_chosen_experts(router: Any, shared: int | None) -> None:
    section = config(router=router, shared_d_ff=shared)
    moe, x = layer(section), states()
    expected = by_hand(section, moe, x)
    with torch.inference_mode():
        torch.testing.assert_close(moe(x, layout_of(x)), expected, rtol=0, atol=EXACT)
    assert float(expected.abs().mean()) > 0.05


# transformers, which routes in float32


def theirs(name: str, **keys: Any) -> nn.Module:
    """A class of transformers of the sizes above, its experts as a plain loop."""
    import transformers

    family = {"Mixtral": "mixtral", "Qwen3Moe": "qwen3_moe", "DeepseekV3": "deepseek_v3"}.get(name, "granitemoehybrid")
    modelling = f"transformers.models.{family}.modeling_{family}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        __import__(modelling)
        mamba = {"mamba_n_heads": 4, "mamba_d_head": 8} if name == "GraniteMoeHybrid" else {}
        settings_of = getattr(transformers, f"{name}Config")(
            hidden_size=D, num_experts_per_tok=K, num_attention_heads=4, num_key_value_heads=4, **mamba, **keys
        )
    settings_of._experts_implementation = "eager"
    block = {"DeepseekV3": "DeepseekV3MoE", "GraniteMoeHybrid": "GraniteMoeHybridMoE"}.get(
        name, f"{name}SparseMoeBlock"
    )
    made: nn.Module = getattr(sys.modules[modelling], block)(settings_of)
    return made.eval()


PEERS: dict[str, tuple[MoEConfig, str, dict[str, Any]]] = {
    "Mixtral": (config(router=ROUTERS["softmax"]), "Mixtral", {"intermediate_size": FF, "num_local_experts": E}),
    "Qwen3": (
        config(router=ROUTERS["softmax"]),
        "Qwen3Moe",
        {"moe_intermediate_size": FF, "num_experts": E, "norm_topk_prob": True},
    ),
    "Qwen3, weights as they are": (
        config(router=ROUTERS["softmax, weights as they are"]),
        "Qwen3Moe",
        {"moe_intermediate_size": FF, "num_experts": E, "norm_topk_prob": False},
    ),
    "DeepSeek-V3": (
        config(router=ROUTERS["sigmoid in groups"], shared_d_ff=2 * FF),
        "DeepseekV3",
        {
            "moe_intermediate_size": FF, "n_routed_experts": E, "n_shared_experts": 2, "n_group": 3, "topk_group": 2,
            "routed_scaling_factor": 2.5, "norm_topk_prob": True,
        },
    ),
    "Kimi K2, one group": (
        config(router=SigmoidRouterConfig(scale=2.827), shared_d_ff=FF),
        "DeepseekV3",
        {
            "moe_intermediate_size": FF, "n_routed_experts": E, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
            "routed_scaling_factor": 2.827, "norm_topk_prob": True,
        },
    ),
    "Granite": (
        config(router=ROUTERS["softmax"]), "GraniteMoeHybrid", {"intermediate_size": FF, "num_local_experts": E}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_outputs_and_gradients_equal_those_of_transformers(name: str) -> None:
    """The same names in memory; Granite alone calls the router `router`. float32, 1e-5."""
    section, family, keys = PEERS[name]
    ours, other = layer(section, torch.float32), theirs(family, **keys)
    renamed = {n: n.replace("gate.", "router.") if name == "Granite" else n for n in ours.state_dict()}
    other.load_state_dict({renamed[n]: p for n, p in ours.state_dict().items()})
    x, y = (states(torch.float32).requires_grad_() for _ in range(2))
    out, expected = ours(x, layout_of(x)), other(y)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for result in (out, expected):
        result.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    assert {renamed[n] for n, _ in ours.named_parameters()} == {n for n, _ in other.named_parameters()}
    for n, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, other.get_parameter(renamed[n]).grad, rtol=1e-4, atol=1e-4)


# Routers


def test_noise_is_drawn_in_training_only_and_from_torchs_generator() -> None:
    section = config(router=NoisyRouterConfig())
    moe, x = layer(section), states().flatten(0, 1)
    assert torch.equal(moe.gate(x).logits_ME, moe.gate(x).logits_ME)
    torch.testing.assert_close(moe.gate(x).logits_ME, x @ moe.gate.weight.T)
    moe.train()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(moe.gate(x).logits_ME)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    torch.manual_seed(0)
    spread = (1 + (x @ moe.gate.noise_weight.T).exp()).log()
    torch.testing.assert_close(drawn[0], x @ moe.gate.weight.T + torch.randn_like(spread) * spread)


def test_the_bias_selects_but_does_not_weigh() -> None:
    moe, x = layer(config(router=SigmoidRouterConfig(renormalise=False))), states().flatten(0, 1)
    moe.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 0, 0, 9.0, 0, 0]))
    routing = moe.gate(x)
    assert {tuple(sorted(row)) for row in routing.experts_MK.tolist()} == {(0, 3)}
    scores = (x @ moe.gate.weight.T).sigmoid()
    torch.testing.assert_close(routing.weights_MK, scores.gather(1, routing.experts_MK))


@given(groups=st.sampled_from([(2, 1), (3, 1), (3, 2), (4, 2)]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_experts_come_from_as_many_groups_as_are_allowed(groups: tuple[int, int], seed: int) -> None:
    n_groups, top_groups = groups
    router = SigmoidRouterConfig(n_groups=n_groups, top_groups=top_groups)
    gate = router.build(D, 12, 3)
    randomise(gate, seed)
    experts = gate(torch.randn(20, D, generator=torch.Generator().manual_seed(seed))).experts_MK
    for row in (experts // (12 // n_groups)).tolist():
        assert len(set(row)) <= top_groups
    assert all(len(set(row)) == 3 for row in experts.tolist())


def test_routing_is_in_float32_whatever_the_format_of_the_rest() -> None:
    for router in ROUTERS.values():
        moe = layer(config(router=router)).bfloat16()
        routing = moe.gate(states(torch.bfloat16).flatten(0, 1))
        assert routing.weights_MK.dtype == routing.logits_ME.dtype == torch.float32


def test_a_bias_is_zero_to_begin_with_saved_and_never_rounded() -> None:
    """In bfloat16 a bias of 0.501 would be 0.5: a step of 0.001 lost."""
    model = fresh(config_of(mlp=config()), seed=0)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(model.state_dict()[name], torch.zeros(E))
    assert name not in dict(model.named_parameters())
    model.get_buffer(name).fill_(0.501)
    loaded = empty(config_of(mlp=config()))
    loaded.load_state_dict(model.state_dict())
    assert SigmoidRouterConfig().build(D, 4, 2).double().float().e_score_correction_bias.dtype == torch.float32
    rough = loaded.to(torch.bfloat16)
    assert torch.equal(rough.get_buffer(name), torch.full((E,), 0.501))
    assert rough.get_parameter("model.layers.1.mlp.gate.weight").dtype == torch.bfloat16
    assert rough.double().get_buffer(name).dtype == torch.float64


# Whole models


def test_the_first_layers_may_be_dense() -> None:
    section = config(dense_layers=1, dense=SwiGLUConfig(d_ff=30))
    model = fresh(config_of(mlp=section, n_layers=3), seed=0)
    names = set(dict(model.named_parameters()))
    assert "model.layers.0.mlp.gate_proj.weight" in names
    for i in (1, 2):
        assert f"model.layers.{i}.mlp.experts.gate_up_proj" in names
        assert f"model.layers.{i}.mlp.gate.weight" in names
    assert [type(mlp) for mlp in config_of(mlp=section, n_layers=2).layer_mlps()] == [SwiGLUConfig, MoEConfig]
    with pytest.raises(ValidationError, match=r"dense_layers is 1, must be less than n_layers \(1\)"):
        config_of(mlp=section, n_layers=1)


def test_active_parameters_are_those_of_the_chosen_and_shared_experts() -> None:
    count = config(shared_d_ff=SHARED).count(D)
    assert count.parameters - count.active == (E - K) * 3 * D * FF
    assert count.active == 3 * D * (K * FF + SHARED) + D * E


MISTAKES = {
    "top_k (7) must be at most n_experts (6)": {"top_k": 7},
    "n_experts (6) must be a multiple of router.n_groups (4)": {"router": SigmoidRouterConfig(n_groups=4)},
    "router.n_groups (6) leaves 1 expert a group, must leave 2 at least": {"router": SigmoidRouterConfig(n_groups=6)},
    "router.top_groups (3) must be at most router.n_groups (2)": {
        "router": SigmoidRouterConfig(n_groups=2, top_groups=3)
    },
    "top_k (4) must be at most the 3 experts of router.top_groups groups": {
        "top_k": 4,
        "router": SigmoidRouterConfig(n_groups=2),
    },
    "dense_layers is 2; set it and `dense` together, or neither": {"dense_layers": 2},
    "dense_layers is 0; set it and `dense` together, or neither": {"dense": SwiGLUConfig(d_ff=8)},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_cannot_be_is_refused(message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**MISTAKES[message])
    assert message in str(caught.value)
