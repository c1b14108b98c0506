"""Rotary kinds against transformers' own frequencies, or their formula; partial rotation against complex numbers."""

# oracle: rope linear llama3 yarn: test_frequencies_and_attention_factor_are_the_published_ones
# oracle: rope ntk: test_ntk_stretches_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from cirilla_cli.model.rope import Rotation, angles_of, apply_rope, frequencies
from cirilla_cli.model.sections import (
    LinearRopeConfig,
    Llama3RopeConfig,
    NTKRopeConfig,
    RopeConfig,
    RopeSection,
    YarnRopeConfig,
)

FLOAT32 = 3e-6
"""Relative: both sides compute in float32, in another order."""

CASES: dict[str, tuple[RopeSection, dict[str, object]]] = {
    "linear": (LinearRopeConfig(factor=4.0, theta=500.0), {"factor": 4.0, "rope_theta": 500.0}),
    "llama3": (
        Llama3RopeConfig(factor=8.0, original_context=64, theta=1000.0),
        {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 1000.0,
        },
    ),
    "llama3, other bounds": (
        Llama3RopeConfig(factor=3.0, low_freq_factor=2.0, high_freq_factor=9.0, original_context=400),
        {
            "factor": 3.0, "low_freq_factor": 2.0, "high_freq_factor": 9.0,
            "original_max_position_embeddings": 400, "rope_theta": 10_000.0,
        },
    ),
    "yarn": (
        YarnRopeConfig(factor=4.0, original_context=64),
        {"factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0},
    ),
    "yarn, ramp not rounded": (
        YarnRopeConfig(factor=4.0, original_context=200, beta_fast=8.0, beta_slow=2.0, truncate=False, theta=500.0),
        {
            "factor": 4.0, "original_max_position_embeddings": 200, "beta_fast": 8.0, "beta_slow": 2.0,
            "truncate": False, "rope_theta": 500.0,
        },
    ),
    "yarn, attention factor given": (
        YarnRopeConfig(factor=2.0, original_context=100, attention_factor=1.5),
        {"factor": 2.0, "original_max_position_embeddings": 100, "attention_factor": 1.5, "rope_theta": 10_000.0},
    ),
}  # fmt: skip
"""Our section, and what transformers calls the same."""


def published(kind: str, head_dim: int, keys: dict[str, object]) -> tuple[Tensor, float]:
    """Frequencies and attention factor as transformers computes them."""
    original = keys.get("original_max_position_embeddings", 128)
    assert isinstance(original, int)
    longest = int(original * float(str(keys["factor"])))
    rope = {"rope_type": kind, **keys}
    config = LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
        max_position_embeddings=longest, rope_parameters=rope,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu")


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize(("rope", "keys"), CASES.values(), ids=CASES)
def test_frequencies_and_attention_factor_are_the_published_ones(
    rope: RopeSection, keys: dict[str, object], head_dim: int
) -> None:
    expected, factor = published(rope.kind, head_dim, keys)
    torch.testing.assert_close(frequencies(rope, head_dim), expected, rtol=FLOAT32, atol=0)
    cos, sin = angles_of(Rotation(rope, head_dim), torch.tensor([[0, 9]]), torch.float64)
    assert float(cos[0, 0, 0, 0]) == pytest.approx(factor, rel=1e-6)
    turned = (factor * torch.sin(9 * expected.double())).repeat(2)
    torch.testing.assert_close(sin[0, 1, 0], turned, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("head_dim", "fraction"), [(16, 0.5), (16, 0.25)])
def test_a_share_of_the_head_has_the_frequencies_of_a_head_that_narrow(head_dim: int, fraction: float) -> None:
    """transformers, too, spreads the frequencies over what turns, not over the whole head."""
    keys = {"factor": 4.0, "rope_theta": 500.0, "partial_rotary_factor": fraction}
    expected, _ = published("linear", head_dim, keys)
    rope = LinearRopeConfig(factor=4.0, theta=500.0, fraction=fraction)
    assert rope.turned(head_dim) == 2 * len(expected)
    torch.testing.assert_close(frequencies(rope, rope.turned(head_dim)), expected, rtol=FLOAT32, atol=0)


def test_plain_frequencies_are_powers_of_theta() -> None:
    for i, frequency in enumerate(frequencies(RopeConfig(theta=300.0), 12).tolist()):
        assert frequency == pytest.approx(300.0 ** (-2 * i / 12), rel=FLOAT32)


@pytest.mark.parametrize("theta", [5000.0, 10_000.0, 500_000.0])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_plain_frequencies_are_those_of_transformers_bit_for_bit(head_dim: int, theta: float) -> None:
    """What the last bit of a frequency is wrong by, position 100,000 turns by a hundredth."""
    keys = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim, rope_parameters=keys)
    expected, _ = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    assert torch.equal(frequencies(RopeConfig(theta=theta), head_dim), expected)


def test_ntk_stretches_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all() -> None:
    factor, theta, width = 4.0, 1000.0, 16
    base = theta * factor ** (width / (width - 2))
    ours, plain = (
        frequencies(NTKRopeConfig(factor=factor, theta=theta), width),
        frequencies(RopeConfig(theta=theta), 16),
    )
    for i, frequency in enumerate(ours.tolist()):
        assert frequency == pytest.approx(base ** (-2 * i / width), rel=FLOAT32)
    assert float(ours[0]) == float(plain[0]) == 1.0
    assert float(plain[-1] / ours[-1]) == pytest.approx(factor, rel=FLOAT32)


@pytest.mark.parametrize("turned", [2, 6, 8])
def test_the_front_of_a_head_turns_and_the_rest_stays(turned: int) -> None:
    """Pair (x[i], x[i + R/2]) of the first R numbers is a complex number times a power of e."""
    x, positions = torch.randn(1, 5, 2, 8, dtype=torch.float64), [0, 1, 2, 30, 31]
    ours = apply_rope(x, *angles_of(Rotation(RopeConfig(theta=50.0), turned), torch.tensor([positions]), torch.float64))
    for t, position in enumerate(positions):
        for n in range(2):
            expected = x[0, t, n].tolist()
            for i in range(turned // 2):
                angle = position * 50.0 ** (-2 * i / turned)
                pair = complex(expected[i], expected[i + turned // 2]) * complex(math.cos(angle), math.sin(angle))
                expected[i], expected[i + turned // 2] = pair.real, pair.imag
            torch.testing.assert_close(ours[0, t, n], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.equal(ours[..., turned:], x[..., turned:])


def test_scores_depend_on_the_distance_alone() -> None:
    for rope, _ in CASES.values():
        q, k = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
        positions = torch.tensor([[3, 10, 50, 57]])
        angles = angles_of(Rotation(rope, 16), positions, torch.float64)
        at = [apply_rope(x.expand(1, 4, 1, 16), *angles)[0, :, 0] for x in (q, k)]
        torch.testing.assert_close(at[0][1] @ at[1][0], at[0][3] @ at[1][2], rtol=0, atol=1e-4)


def test_yarn_stretches_every_pair_where_none_turns_once_over_the_trained_context() -> None:
    stretched = frequencies(YarnRopeConfig(factor=2.0, original_context=4), 16)
    torch.testing.assert_close(2 * stretched[1:], frequencies(RopeConfig(), 16)[1:])


def test_rotated_numbers_are_an_even_count() -> None:
    assert RopeConfig(fraction=0.3).turned(16) == 4
    assert RopeConfig().turned(10) == 10
