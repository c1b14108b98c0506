"""Parts of a model that do not go together, or of which one does nothing, are told before anything is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.load import load_recipe

Write = Callable[..., Path]

ENCODER = """\
recipe: 1
model:
  kind: encoder
  d_model: 64
  n_layers: 2
  context_length: 128
  mixers: {A: {kind: attention, n_heads: 4, causal: false}}
  mlp: {kind: geglu, d_ff: 96}
data: {kind: masked_text, sources: {wiki: {path: runs/wiki}}}
objective: {kind: cross_entropy}
train: {steps: 10}
"""
DIAL = """\
recipe: 1
model: {kind: dial, depth: 4}
data: {kind: packed_text, sources: {wiki: {path: runs/wiki}}}
"""
STEPS = ("model.mtp={kind: chained, depth: 2}", "objective={kind: multi_token, depth: 2}")
LLAMA3 = "model.mixers.A.rope={kind: llama3, low_freq_factor: 4, high_freq_factor: 4}"
YARN = "{kind: yarn, factor: 4, original_context: 64"
MOE = "{kind: moe, n_experts: 4, top_k: 2, d_ff: 32, dense: {kind: swiglu, d_ff: 64}, dense_layers"


def complaints(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(CirillaError) as caught:
        load_recipe(path, "pretrain", overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("model.mtp={kind: chained, depth: 128}", "objective={kind: multi_token, depth: 128}"),
            "`model.mtp.depth` is 128, must be less than context_length (128)",
        ),
        (STEPS[:1], "`model.mtp` predicts further tokens, and nothing trains them: objective={kind: multi_token, "),
        (STEPS[1:], "`objective.depth` is 2, but the model predicts no token beyond the next: model.mtp={kind: "),
        ((*STEPS, "objective.depth=3"), "`objective.depth` is 3, must be 2, the depth of the model's `mtp`"),
        (("model.mixers.A.causal=false",), "`model.mixers.A.causal` is false, must be true in a decoder, or it sees "),
        (("model.mixers.B={kind: mamba2, n_heads: 4}",), "`model.mixers.B` stands in no layer: pattern is 'A'"),
        (("model.mixers.AB={kind: mamba2, n_heads: 4}",), "`model.mixers.AB` stands in no layer: pattern is 'A'"),
        ((f"model.mlp={MOE}: 2}}",), "`model.mlp.dense_layers` is 2, must be less than n_layers (2), or no layer has "),
        (
            ("model.mixers.A.rope={kind: plain, fraction: 0.1}",),
            "`model`: mixers.A: rope.fraction (0.1) turns no pair of a head 16 wide",
        ),
        (
            ("model.mixers.A.rope={kind: plain, fraction: 0.1}", "model.mixers.A.head_dim=12"),
            "`model.mixers.A`: rope.fraction (0.1) turns no pair of a head 12 wide",
        ),
        ((LLAMA3,), "`model.mixers.A.rope.high_freq_factor` is 4, must be more than low_freq_factor (4)"),
        (
            (f"model.mixers.A.rope={YARN}, beta_fast: 1, beta_slow: 32}}",),
            "`model.mixers.A.rope.beta_fast` is 1, must be at least beta_slow (32)",
        ),
        ((f"model.mixers.A.rope={YARN}, theta: 1}}",), "`model.mixers.A.rope.theta` is 1, must be more than 1"),
        (("model.dropout=1",), "`model.dropout` is 1, must be less than 1"),
        (("objective.label_smoothing=100%",), "`objective.label_smoothing` is '100%', must be less than 1"),
        (
            ("model.mixers.A={kind: dilated, n_heads: 4, segments: []}",),
            "`model.mixers.A.segments` is an empty list, must be a list of at least 1, each item a whole number",
        ),
    ],
)
def test_a_part_that_does_nothing_or_does_not_fit_is_refused(
    write: Write, good: str, overrides: tuple[str, ...], said: str
) -> None:
    found = complaints(write(good), *overrides)
    assert len(found) == 1
    assert said in found[0]


def test_the_bounds_themselves_are_taken(write: Write, good: str) -> None:
    """One step below each refusal."""
    for overrides in (
        ("model.mtp={kind: chained, depth: 127}", "objective={kind: multi_token, depth: 127}"),
        (f"model.mlp={MOE}: 1}}",),
        ("model.mixers.A.rope={kind: plain, fraction: 0.125}",),
        (f"model.mixers.A.rope={YARN}, beta_fast: 2, beta_slow: 2}}",),
        ("model.dropout=0.99",),
    ):
        load_recipe(write(good), "pretrain", overrides)
    load_recipe(write(ENCODER), "pretrain", ["data.share=0.99", "data.as_mask=0", "data.as_random=0.01"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.share=1", "`data.share` is 1, must be less than 1"),
        ("data.share=0", "`data.share` is 0, must be more than 0"),
        ("data.as_mask=0", "as_mask and as_random are 0: nothing is hidden or changed"),
    ],
)
def test_masking_hides_some_and_leaves_some(write: Write, override: str, said: str) -> None:
    found = complaints(write(ENCODER), override)
    assert len(found) == 1
    assert said in found[0]


def test_each_of_several_parts_is_told_at_its_own_line(write: Write, good: str) -> None:
    mixers = "".join(f"    {name}: {{kind: attention, n_heads: 4}}\n" for name in "ABC")
    text = good.replace("  mixers: {A: {kind: attention, n_heads: 4, n_kv_heads: 2}}\n", f"  mixers:\n{mixers}")
    assert [line.split(" ")[:2] for line in complaints(write(text))] == [
        ["toy.yaml:10:", "`model.mixers.B`"],
        ["toy.yaml:11:", "`model.mixers.C`"],
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.depth=0", "`model.depth` is 0, must be more than 0"),
        ("model.dropout=1", "`model.dropout` is 1, must be less than 1"),
        ("model.dept=4", "`model.dept` is not a key here; did you mean `depth`?"),
    ],
)
def test_a_mistake_in_a_dial_is_the_only_one_told(write: Write, override: str, said: str) -> None:
    found = complaints(write(DIAL), override)
    assert len(found) == 1, found
    assert said in found[0]


def test_what_trains_no_further_token_is_told_of_a_dial_too(write: Write) -> None:
    found = complaints(write(DIAL), STEPS[1])
    assert len(found) == 1
    assert "`objective.depth` is 2, but the model predicts no token beyond the next" in found[0]
