"""Norms against their formulas number by number, and where blocks put them against the residual stream written out."""

# oracle: norm rms layer dyt derf: test_every_norm_is_what_its_formula_says
# oracle: placement pre post sandwich: test_each_placement_is_its_equation
# oracle: positions learned: test_learned_positions_and_a_norm_after_the_embeddings_come_before_the_first_block

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cirilla_cli.model.count import parameters
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import empty, fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import Hidden
from cirilla_cli.model.sections import (
    DerfConfig,
    DynamicTanhConfig,
    LayerNormConfig,
    NormSection,
    RMSNormConfig,
)

from .conftest import VOCAB, config_of, randomise, same_when_compiled
from .test_model_contract import members
from .test_model_mlps import varied

EXACT = 1e-12


def rms(values: list[float], norm: dict[str, list[float]]) -> list[float]:
    root = math.sqrt(sum(v * v for v in values) / len(values) + 0.1)
    return [v / root * w for v, w in zip(values, norm["weight"], strict=True)]


def layer(values: list[float], norm: dict[str, list[float]]) -> list[float]:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) + 0.1)
    shifts = norm.get("bias", [0.0] * len(values))
    return [(v - mean) / deviation * w + b for v, w, b in zip(values, norm["weight"], shifts, strict=True)]


def dyt(values: list[float], norm: dict[str, list[float]]) -> list[float]:
    [alpha] = norm["alpha"]
    return [math.tanh(alpha * v) * w + b for v, w, b in zip(values, norm["weight"], norm["bias"], strict=True)]


def derf(values: list[float], norm: dict[str, list[float]]) -> list[float]:
    [alpha], [shift] = norm["alpha"], norm["shift"]
    return [math.erf(alpha * v + shift) * w + b for v, w, b in zip(values, norm["weight"], norm["bias"], strict=True)]


NORMS: dict[str, tuple[NormSection, Callable[[list[float], dict[str, list[float]]], list[float]]]] = {
    "rms": (RMSNormConfig(eps=0.1), rms),
    "layer": (LayerNormConfig(eps=0.1), layer),
    "layer without bias": (LayerNormConfig(eps=0.1, bias=False), layer),
    "dyt": (DynamicTanhConfig(alpha=0.7), dyt),
    "derf": (DerfConfig(alpha=0.3), derf),
}


@pytest.mark.parametrize(("section", "formula"), NORMS.values(), ids=NORMS)
def test_every_norm_is_what_its_formula_says(
    section: NormSection, formula: Callable[[list[float], dict[str, list[float]]], list[float]]
) -> None:
    norm = section.build(7).double()
    randomise(norm)
    x, weights = torch.randn(2, 3, 7, dtype=torch.float64), {n: p.tolist() for n, p in norm.named_parameters()}
    expected = torch.tensor([[formula(row, weights) for row in rows] for rows in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(norm(x).detach(), expected, rtol=0, atol=EXACT)
    # Without a gradient to come a CPU takes another way.
    torch.testing.assert_close(torch.no_grad()(norm)(x), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("section", "formula"), NORMS.values(), ids=NORMS)
def test_the_numbers_of_a_norm_are_counted(section: NormSection, formula: object) -> None:
    assert section.parameters(7) == sum(p.numel() for p in section.build(7).parameters())


@pytest.mark.parametrize(("section", "formula"), NORMS.values(), ids=NORMS)
def test_gradients_of_every_norm_are_those_of_small_steps(section: NormSection, formula: object) -> None:
    norm = section.build(5).double()
    randomise(norm)
    names, values = zip(*norm.named_parameters(), strict=True)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,))

    leaves = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(call, (torch.randn(2, 5, dtype=torch.float64, requires_grad=True), *leaves))


# What every norm owes: a new kind is found in the union


VARIANTS = {f"{m.model_fields['kind'].default}, {name}": made for m in members(NormSection) for name, made in varied(m)}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def section(request: pytest.FixtureRequest) -> Any:
    return request.param


def built(section: Any, width: int = 24) -> nn.Module:
    norm: nn.Module = section.build(width).double()
    randomise(norm)
    return norm


def vectors() -> Tensor:
    return torch.randn(3, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_union_is_walked_and_each_kind_has_its_formula() -> None:
    assert {"rms, plain", "layer, bias=False", "dyt, alpha=0.75"} <= VARIANTS.keys()
    assert {m.model_fields["kind"].default for m in members(NormSection)} == {norm.kind for norm, _ in NORMS.values()}


@torch.inference_mode()
def test_each_vector_is_normed_by_itself(section: Any) -> None:
    norm, x = built(section), vectors()
    whole = norm(x)
    for row, t in ((0, 0), (1, 3), (2, 6)):
        torch.testing.assert_close(norm(x[row, t]), whole[row, t], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_in_bfloat16_a_norm_stays_near_the_exact_one(section: Any) -> None:
    x, norm = vectors().bfloat16(), built(section).bfloat16()
    error = norm(x).double() - norm.double()(x.double())
    assert float(error.abs().max()) < 0.04
    assert float(error.square().mean().sqrt()) < 0.006


def test_a_model_of_any_norm_is_saved_loaded_and_counted(section: Any) -> None:
    config = config_of(norm=section, norm_placement="sandwich", mixers={"A": AttentionConfig(n_heads=2, qk_norm=True)})
    model = fresh(config, seed=0).eval()
    randomise(model)
    again = empty(config).eval()
    again.load_state_dict(load(save(model.state_dict())))
    tokens, layout = torch.randint(VOCAB, (2, 9)), SequenceLayout.rows(2, 9)
    assert torch.equal(again(tokens, layout, readout=Hidden()), model(tokens, layout, readout=Hidden()))
    assert parameters(config) == sum(p.numel() for p in model.parameters())


def test_compiled_a_norm_is_the_same_function(section: Any) -> None:
    same_when_compiled(built(section), vectors())


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_squashings_begin_as_steep_as_their_section_says(alpha: float) -> None:
    for section in (DynamicTanhConfig(alpha=alpha), DerfConfig(alpha=alpha)):
        model = fresh(config_of(norm=section), seed=0)
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                assert parameter.tolist() == [pytest.approx(alpha)]
            if name.endswith("shift"):
                assert parameter.tolist() == [0.0]


# Placements


def written_out(model: Decoder, x: Tensor, layout: SequenceLayout) -> Tensor:
    """The residual stream by the papers' equations; mixers, feed-forwards and norms are the model's own."""
    config, trunk = model.config, model.model
    layout = layout.prepared(trunk.needs, x.dtype)
    scale = config.residual_scale
    for block in trunk.layers:
        parts: dict[str, nn.Module] = dict(block.named_children())
        mix = lambda h, own=parts["self_attn"]: own(h, layout)  # noqa: E731
        feed = lambda h, own=parts["mlp"]: own(h, layout)  # noqa: E731
        match config.norm_placement:
            case "pre":
                x = x + scale * mix(parts["input_layernorm"](x))
                x = x + scale * feed(parts["post_attention_layernorm"](x))
            case "post":
                x = parts["post_attention_layernorm"](x + scale * mix(x))
                x = parts["post_feedforward_layernorm"](x + scale * feed(x))
            case "sandwich":
                x = x + scale * parts["post_attention_layernorm"](mix(parts["input_layernorm"](x)))
                fed = feed(parts["pre_feedforward_layernorm"](x))
                x = x + scale * parts["post_feedforward_layernorm"](fed)
    return x if config.norm_placement == "post" else trunk.norm(x)


@pytest.mark.parametrize("scale", [1.0, 0.22])
@pytest.mark.parametrize("norm", [RMSNormConfig(eps=1e-5), LayerNormConfig()], ids=lambda n: n.kind)
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@torch.inference_mode()
def test_each_placement_is_its_equation(placement: str, norm: NormSection, scale: float) -> None:
    config = config_of(
        norm_placement=placement, norm=norm, residual_scale=scale, embedding_scale=3.0, logit_scale=0.5,
        mixers={"A": AttentionConfig(n_heads=2)},
    )  # fmt: skip
    model = fresh(config, seed=0).double().eval()
    randomise(model)
    tokens, layout = torch.randint(VOCAB, (2, 9)), SequenceLayout.rows(2, 9)
    expected = written_out(model, 3.0 * model.model.embed_tokens.weight[tokens], layout)
    torch.testing.assert_close(model(tokens, layout, readout=Hidden()), 0.5 * expected, rtol=0, atol=EXACT)


@torch.inference_mode()
def test_learned_positions_and_a_norm_after_the_embeddings_come_before_the_first_block() -> None:
    config = config_of(positions={"kind": "learned"}, embedding_norm=True, norm=LayerNormConfig())
    model = fresh(config, seed=0).double().eval()
    randomise(model)
    trunk, tokens = model.model, torch.randint(VOCAB, (1, 6))
    layout = SequenceLayout.packed(torch.tensor([[0, 0, 0, 0, 1, 1]]))
    assert trunk.embed_positions is not None
    embedded = trunk.embed_tokens.weight[tokens] + trunk.embed_positions.weight[torch.tensor([0, 1, 2, 3, 0, 1])]
    expected = trunk.embedding_norm(embedded)
    torch.testing.assert_close(trunk.embed(tokens, layout), expected, rtol=0, atol=EXACT)
    names = {name for name, _ in model.named_parameters()}
    assert "model.layers.0.input_layernorm.weight" not in names
    assert "model.layers.1.input_layernorm.weight" in names
