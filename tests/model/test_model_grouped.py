"""Grouped products of experts: against a plain loop, finite differences and a stand-in for megablocks."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cirilla_cli.model.ops.grouped import (
    ExpertsProduct,
    experts_grouped,
    experts_loop,
    experts_sorted,
    grouped_product,
    slices_product,
)  # fmt: skip
from cirilla_cli.model.ops.megablocks import arguments, installed, megablocks_product, weights_of
from cirilla_cli.model.ops.padded import experts_padded
from cirilla_cli.model.routing import (
    SoftmaxRouterConfig,
)

from .test_model_moe import config, layer, layout_of, states

EXACT = 1e-10
EACH_PRODUCT = pytest.mark.parametrize("product", [experts_sorted, experts_padded])


def problem(tokens: int, n_experts: int, dtype: torch.dtype, *, widths: tuple[int, int] = (16, 24)) -> list[Tensor]:
    """Tokens, experts, weights and matrices; the last expert is never chosen."""
    g, (width, inner) = torch.Generator().manual_seed(tokens), widths
    sizes = ((tokens, width), (n_experts, 2 * inner, width), (n_experts, width, inner))
    x, gate_up, down = (torch.randn(*s, generator=g, dtype=torch.float64).to(dtype) / 4 for s in sizes)
    weights, experts = torch.rand(tokens, max(1, n_experts - 1), generator=g).topk(min(2, max(1, n_experts - 1)))
    return [x, experts, weights, gate_up, down]


def derived(product: ExpertsProduct, x: Tensor, experts: Tensor, *rest: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of tokens, weights and matrices."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *rest)]
    out = product(leaves[0], experts, *leaves[1:])
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


@EACH_PRODUCT
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("widths", [(16, 24), (5, 7)], ids=["wide", "odd"])
@pytest.mark.parametrize(("tokens", "n_experts"), [(1, 3), (40, 4), (9, 16), (30, 1)])
def test_grouped_equals_the_loop_over_experts(
    tokens: int, n_experts: int, widths: tuple[int, int], dtype: torch.dtype, product: ExpertsProduct
) -> None:
    inputs = problem(tokens, n_experts, dtype, widths=widths)
    for grouped, loop in zip(derived(product, *inputs), derived(experts_loop, *inputs), strict=True):
        torch.testing.assert_close(grouped, loop, rtol=1e-5, atol=EXACT if dtype == torch.float64 else 2e-6)


@EACH_PRODUCT
def test_all_tokens_at_one_expert_are_no_special_case(product: ExpertsProduct) -> None:
    x, _, weights, gate_up, down = problem(20, 4, torch.float64)
    everywhere = torch.full_like(weights, 2, dtype=torch.long)
    found, loop = (derived(p, x, everywhere, weights, gate_up, down) for p in (product, experts_loop))
    torch.testing.assert_close(found, loop, rtol=0, atol=EXACT)


@EACH_PRODUCT
def test_experts_of_most_unequal_load_are_no_special_case(product: ExpertsProduct) -> None:
    """Some of no token, alike ones beside each other, one of most."""
    _, _, _, gate_up, down = problem(1, 8, torch.float64)
    g = torch.Generator().manual_seed(0)
    x, weights = torch.randn(60, 16, generator=g, dtype=torch.float64), torch.rand(60, 1, generator=g)
    experts = torch.tensor([1] * 4 + [2] * 5 + [3] * 5 + [4] + [6] * 45)[torch.randperm(60, generator=g), None]
    found, loop = (derived(p, x, experts, weights.double(), gate_up, down) for p in (product, experts_loop))
    torch.testing.assert_close(found, loop, rtol=0, atol=EXACT)


def test_what_only_fills_up_adds_nothing_where_an_expert_overflows() -> None:
    """Experts 0 and 1 share a tile; what a token of the one would be at the other is not a number."""
    x, gate_up, down = torch.ones(9, 8), torch.ones(2, 16, 8), torch.ones(2, 8, 8)
    x[0], gate_up[1] = 1e30, 1e30
    experts = torch.tensor([0] * 5 + [1] * 4)[:, None]
    x[5:] = 1e-30
    found = derived(experts_padded, x, experts, torch.ones(9, 1), gate_up, down)
    assert torch.isfinite(found[0][5:]).all()
    assert torch.isfinite(found[3][1]).all()


@pytest.mark.parametrize("product", [experts_grouped, experts_sorted, experts_padded])
@torch.no_grad()
def test_without_gradients_it_is_the_same_sum(product: ExpertsProduct) -> None:
    x, experts, weights, gate_up, down = problem(40, 4, torch.float64)
    expected = experts_loop(x, experts, weights, gate_up, down)
    torch.testing.assert_close(product(x, experts, weights, gate_up, down), expected, rtol=0, atol=EXACT)


def test_the_gradient_of_the_filled_up_product_is_that_of_finite_differences() -> None:
    x, experts, weights, gate_up, down = problem(5, 3, torch.float64, widths=(3, 2))
    leaves = [t.double().requires_grad_() for t in (x, weights, gate_up, down)]
    assert torch.autograd.gradcheck(lambda x, *rest: experts_padded(x, experts, *rest), leaves)


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_grouped_product_is_one_product_a_slice(sizes: list[int]) -> None:
    g, ends = torch.Generator().manual_seed(0), torch.tensor(sizes).cumsum(0)
    x, weights = torch.randn(sum(sizes), 8, generator=g), torch.randn(len(sizes), 4, 8, generator=g)
    start, parts = 0, []
    for size, weight in zip(sizes, weights, strict=True):
        parts.append(torch.einsum("si,oi->so", x[start : start + size], weight))
        start += size
    for product in (grouped_product, slices_product):
        torch.testing.assert_close(product(x, weights, ends), torch.cat(parts), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_grouped_product_is_that_of_finite_differences_twice() -> None:
    x, experts, weights, gate_up, down = problem(5, 3, torch.float64, widths=(3, 2))
    leaves = [t.double().requires_grad_() for t in (x, weights, gate_up, down)]

    def product(x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return experts_sorted(x, experts, weights, gate_up, down)

    assert torch.autograd.gradcheck(product, leaves)
    assert torch.autograd.gradgradcheck(product, leaves)


@EACH_PRODUCT
def test_bfloat16_is_as_near_as_the_loop(product: ExpertsProduct) -> None:
    x, experts, weights, gate_up, down = problem(64, 5, torch.bfloat16)
    exact = experts_loop(x.double(), experts, weights.double(), gate_up.double(), down.double())
    errors = [
        float((each(x, experts, weights, gate_up, down).double() - exact).square().mean().sqrt())
        for each in (product, experts_loop)
    ]
    assert errors[0] < 0.02 * float(exact.std())
    assert errors[0] < 1.5 * errors[1]


# megablocks


class _Arguments(SimpleNamespace):
    """What the package's own keeps: exactly what it is told."""


class _Dropless(nn.Module):
    """The package's layer by what is known of it: its parameters' names and shapes, the order of its arguments."""

    def __init__(self, args: _Arguments) -> None:
        super().__init__()
        assert (args.mlp_type, args.bias, args.return_bias, args.bf16, args.fp16) == ("glu", False, False, True, False)
        assert args.moe_loss_weight == 0.0
        self.args, shape = args, (args.moe_num_experts * args.ffn_hidden_size, args.hidden_size)
        self.mlp = nn.Module()
        for name in ("w1", "v1", "w2"):
            self.mlp.register_parameter(name, nn.Parameter(torch.empty(shape, device=args.device)))

    def forward(self, x: Tensor, scores: Tensor, expert_weights: Tensor, top_experts: Tensor) -> Tensor:
        sequence, batch, hidden = x.shape
        assert scores.shape == (sequence * batch, self.args.moe_num_experts)
        flat, out = x.view(-1, hidden), torch.zeros(sequence * batch, hidden, dtype=x.dtype)
        size = self.args.ffn_hidden_size
        for m in range(len(flat)):
            for k in range(self.args.moe_top_k):
                rows = slice(int(top_experts[m, k]) * size, (int(top_experts[m, k]) + 1) * size)
                inner = self.args.activation_fn(self.mlp.w1[rows] @ flat[m]) * (self.mlp.v1[rows] @ flat[m])
                out[m] = out[m] + expert_weights[m, k] * (inner @ self.mlp.w2[rows])
        return out.view_as(x)


STUB = SimpleNamespace(Arguments=_Arguments, ParallelDroplessMLP=_Dropless)


def test_megablocks_is_given_our_weights_and_gives_our_sum_and_gradients() -> None:
    x, experts, *rest = problem(6, 4, torch.float64)
    results = []
    for product in (megablocks_product(STUB), experts_loop):
        leaves = [t.clone().requires_grad_() for t in (x, *rest)]
        out = product(leaves[0], experts, *leaves[1:])
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for its, ours in zip(*results, strict=True):
        torch.testing.assert_close(its, ours, rtol=1e-6, atol=1e-7)


def test_a_layer_may_be_told_to_use_megablocks() -> None:
    moe, x = layer(config(router=SoftmaxRouterConfig())), states()
    expected = moe(x, layout_of(x))
    moe.experts.product = megablocks_product(STUB)
    torch.testing.assert_close(moe(x, layout_of(x)), expected, rtol=1e-6, atol=1e-7)


def test_megablocks_is_told_what_it_defaults_otherwise() -> None:
    """Its own defaults: fp16, the current CUDA device, tanh-GELU, biases, a balance loss in a global."""
    told = arguments(8, 64, 128, 2, implementation="grouped")
    assert told["device"] == torch.device("meta")
    assert told["activation_fn"] is torch.nn.functional.silu
    shapes = {name: tuple(w.shape) for name, w in weights_of(torch.zeros(8, 256, 64), torch.zeros(8, 64, 128)).items()}
    assert shapes == dict.fromkeys(("mlp.w1", "mlp.v1", "mlp.w2"), (8 * 128, 64))


def test_megablocks_is_looked_for_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [name for name in sys.modules if name.split(".")[0] == "megablocks"]
    monkeypatch.setitem(sys.modules, "megablocks", None)
    assert installed() is None
    package = ModuleType("megablocks")
    found = {"megablocks": package, "megablocks.layers": ModuleType("megablocks.layers")}
    for name, member in (("arguments", "Arguments"), ("dmoe", "ParallelDroplessMLP")):
        module = ModuleType(f"megablocks.layers.{name}")
        setattr(module, member, getattr(STUB, member))
        found[module.__name__] = module
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert installed() == STUB
