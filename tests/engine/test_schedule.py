"""Learning rates, worked out by hand."""

import math

import pytest
import torch

from cirilla_cli.engine.config import ConstantConfig, CosineConfig, ScheduleSection, WSDConfig
from cirilla_cli.engine.schedule import Schedule


def factors(config: ScheduleSection, steps: int) -> list[float]:
    schedule = Schedule(config, steps)
    return [schedule.factor(step) for step in range(steps)]


def test_warm_up_rises_in_equal_parts_and_the_first_step_learns() -> None:
    assert factors(ConstantConfig(warmup=4), 7) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_a_share_of_the_run_is_a_warm_up_too() -> None:
    assert factors(ConstantConfig(warmup=0.25), 8) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])


def test_cosine_is_half_a_period_between_peak_and_floor() -> None:
    got = factors(CosineConfig(warmup=2, min_frac=0.2), 10)
    assert got[2] == 1.0
    assert got[6] == pytest.approx(0.6)
    assert got[4] == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert Schedule(CosineConfig(warmup=2, min_frac=0.2), 10).factor(10) == pytest.approx(0.2)
    assert got[2:] == sorted(got[2:], reverse=True)


@pytest.mark.parametrize(
    ("shape", "falling"),
    [("linear", [1.0, 0.75, 0.5, 0.25]), ("sqrt", [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)])],
)
def test_wsd_holds_and_falls(shape: str, falling: list[float]) -> None:
    config = WSDConfig(warmup=1, decay=4, shape=shape)  # type: ignore[arg-type]
    assert factors(config, 8) == pytest.approx([0.5, 1, 1, 1, *falling])
    assert Schedule(config, 8).decay_start == 4


def test_wsd_falls_to_its_floor() -> None:
    assert factors(WSDConfig(warmup=0, decay=2, min_frac=0.5), 4) == pytest.approx([1, 1, 1, 0.75])


def test_only_wsd_has_a_decay_before_the_end() -> None:
    assert Schedule(WSDConfig(decay=0.25), 100).decay_start == 75
    assert Schedule(CosineConfig(), 100).decay_start == 100
    assert Schedule(WSDConfig(decay=500), 100).decay_start == 0


@pytest.mark.parametrize("config", [CosineConfig(min_frac=0.0), WSDConfig(), ConstantConfig()])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_step_of_every_schedule_learns(config: ScheduleSection, steps: int) -> None:
    assert all(0 < factor <= 1 for factor in factors(config, steps))


def test_one_factor_multiplies_every_groups_own_peak() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": lr, "peak_lr": lr} for w, lr in zip(weights, (0.1, 0.004), strict=True)]
    optimizer = torch.optim.SGD(groups)
    assert Schedule(ConstantConfig(warmup=3), 9).apply(optimizer, 1) == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.002])
    Schedule(ConstantConfig(warmup=3), 9).apply(optimizer, 8)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.004])
