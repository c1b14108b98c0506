"""Every kind of every piece has a test against something that is not ours, and a break that shows that test fail."""

import typing
from typing import Any, get_args

import pytest

from cirilla_cli.model.config import DecoderConfig, LearnedPositionsConfig, MTPSection, Pooling, ShapeSection
from cirilla_cli.model.mixers.config import MixerSection
from cirilla_cli.model.routing import BalanceSection, RouterSection
from cirilla_cli.model.sections import MLPSection, NormSection, RopeSection

from ..breaks.harness import all_breaks, is_a_test
from .test_model_contract import members

ORACLES: dict[str, dict[str, str]] = {
    "mixer": {
        "attention": "attention::test_matches_the_textbook",
        "dilated": "dilated::test_a_row_of_one_document_is_what_the_loops_say",
        "gated_deltanet": "gated_deltanet::test_matches_the_textbook",
        "mamba2": "mamba2::test_matches_the_textbook",
        "mla": "latent::test_is_what_the_paper_says",
    },
    "feed-forward": {
        "swiglu": "mlp_kinds::test_every_feed_forward_is_what_its_formula_says",
        "geglu": "mlp_kinds::test_every_feed_forward_is_what_its_formula_says",
        "gelu": "mlp_kinds::test_every_feed_forward_is_what_its_formula_says",
        "relu2": "mlp_kinds::test_every_feed_forward_is_what_its_formula_says",
        "kan": "kan::test_cubic_splines_are_their_closed_form_inside_and_outside_the_grid",
        "moe": "moe::test_the_layer_is_the_papers_sum_over_chosen_experts",
    },
    "norm": dict.fromkeys(("rms", "layer", "dyt", "derf"), "norms::test_every_norm_is_what_its_formula_says"),
    "placement": dict.fromkeys(("pre", "post", "sandwich"), "norms::test_each_placement_is_its_equation"),
    "rope": {
        "plain": "attention::test_rope_is_multiplication_by_a_complex_number",
        "linear": "rope::test_frequencies_and_attention_factor_are_the_published_ones",
        "ntk": "rope::test_ntk_stretches_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all",
        "llama3": "rope::test_frequencies_and_attention_factor_are_the_published_ones",
        "yarn": "rope::test_frequencies_and_attention_factor_are_the_published_ones",
    },
    "positions": {
        "learned": "norms::test_learned_positions_and_a_norm_after_the_embeddings_come_before_the_first_block",
    },
    "router": dict.fromkeys(
        ("softmax", "sigmoid", "noisy"), "moe::test_the_layer_is_the_papers_sum_over_chosen_experts"
    ),
    "balance": dict.fromkeys(
        ("sequence", "importance", "batch"), "balance::test_losses_are_those_of_the_papers_in_loops"
    ),
    "steps ahead": {
        "chained": "mtp::test_a_step_ahead_is_what_deepseeks_reference_computes",
        "parallel": "mtp::test_the_losses_are_those_of_each_distance_computed_apart",
    },
    "pooling": dict.fromkeys(("mean", "first", "last"), "heads::test_pooling_takes_each_document_by_itself"),
    "model": {
        "decoder": "decoder::test_logits_equal_those_of_transformers_with_the_same_weights",
        "encoder": "encoder::test_equals_the_published_masked_language_model",
        "classifier": "encoder::test_equals_the_published_classifier",
    },
}
"""By place and kind: a file of these tests, and the test in it."""


def kinds(union: Any) -> set[str]:
    return {str(member.model_fields["kind"].default) for member in members(union)}


def test_every_kind_has_its_oracle() -> None:
    placements = typing.get_type_hints(DecoderConfig)["norm_placement"]
    assert {place: set(found) for place, found in ORACLES.items()} == {
        "mixer": kinds(MixerSection), "feed-forward": kinds(MLPSection), "norm": kinds(NormSection),
        "placement": set(get_args(placements)), "rope": kinds(RopeSection), "positions": kinds(LearnedPositionsConfig),
        "router": kinds(RouterSection), "balance": kinds(BalanceSection), "steps ahead": kinds(MTPSection),
        "pooling": set(get_args(Pooling)), "model": kinds(ShapeSection),
    }  # fmt: skip


@pytest.mark.parametrize("oracle", sorted({oracle for found in ORACLES.values() for oracle in found.values()}))
def test_every_oracle_is_shown_to_fail(oracle: str) -> None:
    file, _, name = oracle.partition("::")
    test = f"tests/model/test_model_{file}.py::{name}"
    assert is_a_test(test)
    assert any(broken.test.partition("[")[0] == test for broken in all_breaks()), f"no break names {test}"
