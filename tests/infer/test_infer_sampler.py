"""What is drawn, against arithmetic by hand, and how often."""

import math

import pytest
import torch

from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.sampler import Sampler

LOGITS = torch.tensor([[math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]], dtype=torch.float64)


def kept(**settings: float) -> list[float]:
    config = SamplingConfig.model_validate({"temperature": 1.0, **settings})
    return [round(p, 9) for p in Sampler(config, [0]).distribution(LOGITS)[0].tolist()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 99}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        # Of the three likeliest, renormalised to 4/9, 3/9, 2/9, the first two reach 0.7.
        ({"top_k": 3, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_each_filter_gives_the_distribution_of_its_definition(
    settings: dict[str, float], expected: list[float]
) -> None:
    assert kept(**settings) == pytest.approx(expected, abs=1e-9)


def test_top_k_keeps_exactly_k_of_equals() -> None:
    sampler = Sampler(SamplingConfig(temperature=1.0, top_k=2), [0])
    assert (sampler.distribution(torch.zeros(1, 5)) > 0).sum() == 2


def test_a_temperature_near_zero_neither_overflows_nor_ties() -> None:
    logits = torch.tensor([[30.0, 29.9, -20.0]])
    for temperature in (1e-30, 1e-38, 1e-300):
        sampler = Sampler(SamplingConfig(temperature=temperature), [0])
        assert sampler.distribution(1e10 * logits).tolist() == sampler.distribution(logits).tolist() == [[1, 0, 0]]


def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_what_stands_there() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0, -1.2]])
    sampler = Sampler(SamplingConfig(temperature=0, repetition_penalty=2.0), [0])
    assert sampler(logits, [[]]).tolist() == [0]
    assert sampler(logits, [[0]]).tolist() == [1]
    assert sampler(logits, [[0, 1]]).tolist() == [0]
    drawn_from = Sampler(SamplingConfig(temperature=1.0, repetition_penalty=2.0), [0])._penalised(logits, [[0, 2, 2]])
    assert drawn_from.tolist() == [[1.0, 1.5, -2.0, pytest.approx(-1.2)]]
    assert logits.tolist() == [[2.0, 1.5, -1.0, pytest.approx(-1.2)]], "the caller's logits stay as they are"


def test_frequencies_follow_the_distribution() -> None:
    sampler = Sampler(SamplingConfig(temperature=0.8, top_k=3), [7])
    expected = sampler.distribution(LOGITS)[0]
    n = 4000
    counts = torch.zeros(4, dtype=torch.float64)
    for _ in range(n):
        counts[sampler(LOGITS, [[]])] += 1
    assert counts[3] == 0
    chi2 = ((counts - n * expected)[:3] ** 2 / (n * expected[:3])).sum()
    assert chi2 < 13.8, "chi-square with 2 degrees of freedom, 99.9th percentile"


def test_a_rows_draws_do_not_depend_on_its_neighbours() -> None:
    config = SamplingConfig(temperature=1.0)
    alone, together = Sampler(config, [5]), Sampler(config, [1, 5, 9])
    rows = LOGITS.repeat(3, 1)
    assert [alone(LOGITS, [[]])[0] for _ in range(50)] == [together(rows, [[]] * 3)[1] for _ in range(50)]


def test_rows_that_stay_go_on_with_their_own_draws() -> None:
    config = SamplingConfig(temperature=1.0)
    alone, together = Sampler(config, [9]), Sampler(config, [1, 5, 9])
    first = alone(LOGITS, [[]])
    assert together(LOGITS.repeat(3, 1), [[]] * 3)[2] == first
    together.keep([2, 0])
    rows = LOGITS.repeat(2, 1)
    assert [alone(LOGITS, [[]])[0] for _ in range(30)] == [together(rows, [[]] * 2)[0] for _ in range(30)]
