"""One dial for a whole model: what follows from it, who wins over it, and what is said of it."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import DecoderConfig, DialConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.model.dial import decoder_of
from cirilla_cli.recipe.load import Resolved, load_recipe


@pytest.fixture
def recipe(from_pages: Callable[[str], Path]) -> Path:
    return from_pages("model: {kind: dial, depth: 4, context_length: 256}\n")


def resolve(path: Path, *overrides: str) -> Resolved:
    return load_recipe(path, "pretrain", overrides)


def test_the_recipe_holds_a_whole_decoder_and_loads_again(recipe: Path) -> None:
    data = resolve(recipe).data
    assert data["model"]["kind"] == "decoder"
    assert (data["model"]["d_model"], data["model"]["n_layers"], data["model"]["context_length"]) == (256, 4, 256)
    assert DecoderConfig.model_validate(data["model"]).kind == "decoder"


def test_length_batch_and_rate_follow_from_the_weights(recipe: Path) -> None:
    """Four blocks 256 wide with 4 heads over 1: q 256x256, k and v 256x64, o 256x256, three of 256 x 704."""
    weights = 4 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 704)
    compute = 6 * weights * 20 * weights
    data = resolve(recipe).data
    assert data["train"]["tokens"] == 20 * weights
    assert abs(data["train"]["batch_tokens"] - 0.292 * compute**0.3271) <= 128
    assert data["train"]["batch_tokens"] % 256 == 0
    assert math.isclose(data["optim"]["lr"], 0.3118 * compute**-0.125, rel_tol=5e-3)


def test_what_the_recipe_says_wins_over_what_is_derived(recipe: Path) -> None:
    resolved = resolve(recipe, "optim.lr=1e-3", "train.steps=10", "optim.kind=muon")
    assert (resolved.data["optim"]["kind"], resolved.data["optim"]["lr"]) == ("muon", 1e-3)
    assert (resolved.data["train"]["steps"], resolved.data["train"]["tokens"]) == (10, None)
    assert "override" in str(resolved.origins["optim.lr"])


def test_every_derived_value_says_why(recipe: Path) -> None:
    origins = resolve(recipe).origins
    assert "2203.15556" in str(origins["train.tokens"])
    assert "2401.02954" in str(origins["train.batch_tokens"])
    assert "64 x depth" in str(origins["model.d_model"])
    assert "a quarter of the heads" in str(origins["model.mixers.A.n_kv_heads"])
    assert "do not part" in str(resolve(recipe, "model.depth=6").origins["model.mixers.A.n_kv_heads"])


def test_mistakes_in_the_dial_are_told_as_everywhere(recipe: Path) -> None:
    with pytest.raises(CirillaError, match="did you mean `depth`"):
        resolve(recipe, "model.depht=8")
    with pytest.raises(CirillaError, match="`model.depth` is 0, must be"):
        resolve(recipe, "model.depth=0")


@pytest.mark.parametrize("depth", [1, 4, 12, 30])
def test_every_depth_makes_a_model(depth: int) -> None:
    model = decoder_of(DialConfig(depth=depth, vocab_size=1000))
    assert model.d_model == 64 * depth
    assert parameters(model) > 12 * depth * (64 * depth) ** 2 / 2
