"""A budget in place of a model's depth, its length, batch and learning rate."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.load import Resolved, load_recipe


@pytest.fixture
def recipe(from_pages: Callable[[str], Path]) -> Path:
    return from_pages("budget: {tokens: 100M}\nmodel: {kind: dial, context_length: 256}\n")


def resolve(path: Path, *overrides: str) -> Resolved:
    return load_recipe(path, "pretrain", overrides)


def weights(depth: int) -> int:
    """By hand: q and o are square, k and v as wide as the key heads, three matrices of the feed-forward."""
    width = 64 * depth
    key_heads = depth // 4 if depth % 4 == 0 else depth
    inner = 64 * math.ceil(8 * width / 3 / 64)
    return depth * (2 * width * width + 2 * width * 64 * key_heads + 3 * width * inner)


def test_a_corpus_is_read_four_times_at_most() -> None:
    """Depth 7 wants 20 tokens for each of its weights, and that is within 400M; depth 8 is beyond."""
    assert 20 * weights(7) <= 400_000_000 < 20 * weights(8)


def test_the_deepest_setting_that_the_corpus_feeds_is_taken(recipe: Path) -> None:
    found = resolve(recipe)
    assert found.data["model"]["n_layers"] == 7
    assert found.data["train"]["tokens"] == 20 * weights(7)
    assert "2305.16264" in str(found.origins["model.n_layers"])
    assert "2203.15556" in str(found.origins["train.tokens"])


def test_all_the_time_is_used_within_the_corpus(recipe: Path) -> None:
    """An hour at 1e13 FLOP/s, spent at 6 a weight and token; the corpus bounds it at 400M tokens."""
    found = resolve(recipe, "budget.tokens=null", "budget.time=1h", "budget.rate=1e13")
    depth = found.data["model"]["n_layers"]
    assert 6 * weights(depth) * 20 * weights(depth) <= 3.6e16 < 6 * weights(depth + 1) * 20 * weights(depth + 1)
    assert found.data["train"]["tokens"] == math.floor(3.6e16 / (6 * weights(depth)))
    bounded = resolve(recipe, "budget.time=1h", "budget.rate=1e13", "budget.memory=100MB")
    assert bounded.data["train"]["tokens"] == 400_000_000
    assert "4 passes" in str(bounded.origins["train.tokens"])


def test_half_of_the_memory_is_for_what_is_kept_of_each_parameter(recipe: Path) -> None:
    """18 bytes each of the blocks' weights, the tied table and the norms; the norms are what the slack is for."""
    depth = resolve(recipe, "budget={memory: 1GB, tokens: null}", "model.vocab_size=1024").data["model"]["n_layers"]
    held = [18 * (weights(d) + 1024 * 64 * d) for d in (depth, depth + 1)]
    assert held[0] < 500_000_000 < held[1] * 1.01


def test_batch_and_rate_follow_from_all_of_the_compute(recipe: Path) -> None:
    found = resolve(recipe, "budget={time: 1h, rate: 1e13, tokens: null}").data
    compute = 6 * weights(found["model"]["n_layers"]) * found["train"]["tokens"]
    assert math.isclose(found["optim"]["lr"], 0.3118 * compute**-0.125, rel_tol=5e-3)
    assert abs(found["train"]["batch_tokens"] - 0.292 * compute**0.3271) <= 128


def test_what_was_resolved_loads_again_as_it_is(recipe: Path, tmp_path: Path) -> None:
    found = resolve(recipe)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(found.data))
    assert load_recipe(again, "pretrain").data == found.data
    assert found.data["budget"] is None


@pytest.mark.parametrize("verb", ["sft", "dpo"])
def test_a_model_that_is_there_already_takes_no_budget_and_that_is_all_that_is_said(verb: str, tmp_path: Path) -> None:
    """Without it the recipe is right, though it gives what a budget derives."""
    kind, objective = {"sft": ("conversations", "cross_entropy"), "dpo": ("preferences", "dpo")}[verb]
    path = tmp_path / "mine.yaml"
    text = f"recipe: 1\nmodel: {{kind: checkpoint, path: runs/mine}}\ndata: {{kind: {kind}, path: rows.jsonl}}\n"
    text += f"objective: {{kind: {objective}}}\ntrain: {{epochs: 2}}\noptim: {{lr: 1e-4}}\n"
    path.write_text(text + "budget: {tokens: 100M}\n")
    with pytest.raises(CirillaError) as refused:
        load_recipe(path, verb, ())
    assert str(refused.value).endswith("`budget` is for a model that is born in this run: leave `budget` out")
    assert len(str(refused.value).splitlines()) == 1
    path.write_text(text)
    assert load_recipe(path, verb, ()).data["train"]["epochs"] == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.tokens=1M", "`train.tokens` is '1M', and `budget` derives it"),
        ("train.steps=5", "`train.steps` is 5, and `budget` derives it"),
        ("optim.lr=1e-3", "`optim.lr` is 0.001, and `budget` derives it"),
        ("model.depth=3", "`model.depth` is 3, and `budget` derives it"),
        ("model.kind=decoder", "`model.kind` is 'decoder', and `budget` picks"),
        ("budget.tokens=1000", "too small for even the smallest model"),
        ("budget={time: 1h}", "time and rate go together"),
        ("budget={tokens: null}", "give at least one of memory, time and tokens"),
        ("budget.tokns=1", "did you mean `tokens`"),
    ],
)
def test_a_budget_that_contradicts_the_recipe_or_itself_is_refused_alone(
    recipe: Path, override: str, says: str
) -> None:
    with pytest.raises(CirillaError) as refused:
        resolve(recipe, override)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_budget_beyond_all_numbers_is_refused() -> None:
    from pydantic import ValidationError

    from cirilla_cli.model.config import BudgetConfig

    with pytest.raises(ValidationError, match="must be at most 1e30"):
        BudgetConfig(time=3e103, rate=1e300)
