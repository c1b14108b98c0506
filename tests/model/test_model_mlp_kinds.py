"""Feed-forwards against their formulas in loops, number by number."""

# oracle: feed-forward swiglu geglu gelu relu2: test_every_feed_forward_is_what_its_formula_says

import math
from collections.abc import Callable

import pytest
import torch

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.sections import GeGLUConfig, GELUConfig, ReLU2Config, SwiGLUConfig

from .conftest import randomise

D, F = 5, 7


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x: float) -> float:
    return max(0.0, x) ** 2


Activation = Callable[[float], float]
GATED: dict[str, tuple[SwiGLUConfig | GeGLUConfig, Activation]] = {
    "swiglu": (SwiGLUConfig(d_ff=F), silu),
    "swiglu, bias": (SwiGLUConfig(d_ff=F, bias=True), silu),
    "geglu": (GeGLUConfig(d_ff=F), gelu),
    "geglu, tanh": (GeGLUConfig(d_ff=F, tanh=True), gelu_tanh),
    "geglu, bias": (GeGLUConfig(d_ff=F, bias=True), gelu),
}
PLAIN: dict[str, tuple[GELUConfig | ReLU2Config, Activation]] = {
    "gelu": (GELUConfig(d_ff=F), gelu),
    "gelu, tanh, bias": (GELUConfig(d_ff=F, tanh=True, bias=True), gelu_tanh),
    "relu2": (ReLU2Config(d_ff=F), relu2),
    "relu2, bias": (ReLU2Config(d_ff=F, bias=True), relu2),
}


def affine(weights: dict[str, list], name: str, x: list[float]) -> list[float]:
    rows = weights[f"{name}.weight"]
    shifts = weights.get(f"{name}.bias", [0.0] * len(rows))
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(rows, shifts, strict=True)]


@pytest.mark.parametrize(("config", "act"), [*GATED.values(), *PLAIN.values()], ids=[*GATED, *PLAIN])
def test_every_feed_forward_is_what_its_formula_says(
    config: SwiGLUConfig | GeGLUConfig | GELUConfig | ReLU2Config, act: Activation
) -> None:
    mlp = config.build(D).double()
    randomise(mlp)
    x, weights = torch.randn(1, 3, D, dtype=torch.float64), {n: p.tolist() for n, p in mlp.named_parameters()}
    # Without a gradient to come a CPU takes another way.
    ours, quick = (call(x, SequenceLayout.rows(1, 3)).detach() for call in (mlp, torch.no_grad()(mlp)))
    for values, got, alike in zip(x[0].tolist(), ours[0], quick[0], strict=True):
        up = affine(weights, "up_proj", values)
        gated = "gate_proj.weight" in weights
        inner = (
            [act(g) * u for g, u in zip(affine(weights, "gate_proj", values), up, strict=True)]
            if gated
            else [act(u) for u in up]
        )
        expected = torch.tensor(affine(weights, "down_proj", inner), dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(alike, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [c for c, _ in [*GATED.values(), *PLAIN.values()]], ids=[*GATED, *PLAIN])
def test_the_numbers_of_a_feed_forward_are_counted(
    config: SwiGLUConfig | GeGLUConfig | GELUConfig | ReLU2Config,
) -> None:
    held = dict(config.build(D).named_parameters())
    count = config.count(D)
    assert count.parameters == count.active == sum(p.numel() for p in held.values())
    assert count.products == sum(p.numel() for p in held.values() if p.ndim == 2)
