"""Savers that a plan advises where those that leave a step's numbers as they are do not suffice."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import yaml

from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    AdamWConfig,
    FSDPConfig,
    FullCheckpointingConfig,
    MemoryConfig,
    MuonConfig,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.engine.forecast import Target, forecast
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.lighter import lighter

FUSED, WEIGHTS, AVERAGES = "memory.fused_backward", "precision.weights", "optim"


def job_of(tiny: ModuleType, out: Any, **changes: Any) -> Job:
    """One pass of one short row a step, so that weights are nearly all there is."""
    config = tiny.decoder(vocab_size=512, d_model=128, n_layers=4, context_length=32)
    timing = TrainConfig(steps=2, batch_tokens=32, micro_batch_tokens=32)
    made: dict[str, Any] = {
        "model": config, "train": timing, "optim": AdamWConfig(lr=1e-3), "objective": tiny.CrossEntropyConfig(),
        "precision": PrecisionConfig(compute="float32"),
        "memory": MemoryConfig(checkpointing=FullCheckpointingConfig()),
    }  # fmt: skip
    return tiny.job("pretrain", out, out, **{**made, **changes})  # type: ignore[no-any-return]


def chosen(job: Job) -> list[set[str]]:
    """The savers of each way, without what they want besides."""
    return [set(way.settings) - {"train.max_grad_norm"} for way in lighter(job)]


def test_every_choice_of_savers_is_there_once_and_is_what_a_run_takes(tiny: ModuleType, tmp_path: Any) -> None:
    """Seven ways of three savers, by what they cost at 512 tokens: 0.16, 0.32 and 0.59, and the sums."""
    job = job_of(tiny, tmp_path)
    assert chosen(job) == [
        {FUSED}, {WEIGHTS}, {FUSED, WEIGHTS}, {AVERAGES}, {FUSED, AVERAGES}, {WEIGHTS, AVERAGES},
        {FUSED, WEIGHTS, AVERAGES},
    ]  # fmt: skip
    for way in lighter(job):
        check_job(way.job)
    assert [round(way.slower(1024), 3) for way in lighter(job)] == [1.08, 1.16, 1.24, 1.295, 1.375, 1.455, 1.535]


def test_what_cannot_be_combined_is_not_advised(tiny: ModuleType, tmp_path: Any) -> None:
    """Two passes a step want gradients kept; Muon has no 8-bit averages, and its clip no bfloat16; FSDP has none."""
    two = TrainConfig(steps=2, batch_tokens=64, micro_batch_tokens=32)
    assert chosen(job_of(tiny, tmp_path, train=two)) == [{WEIGHTS}, {AVERAGES}, {WEIGHTS, AVERAGES}]
    assert chosen(job_of(tiny, tmp_path, optim=MuonConfig())) == [{FUSED}, {WEIGHTS}, {FUSED, WEIGHTS}]
    assert chosen(job_of(tiny, tmp_path, optim=MuonConfig(qk_clip=50.0))) == [{FUSED}]
    assert chosen(replace(job_of(tiny, tmp_path), parallel=FSDPConfig())) == []
    has_all = job_of(tiny, tmp_path, optim=AdamW8bitConfig(), memory=MemoryConfig(fused_backward=True),
                     train=TrainConfig(steps=2, batch_tokens=32, max_grad_norm=None),
                     precision=PrecisionConfig(weights="bfloat16"))  # fmt: skip
    assert chosen(has_all) == []


def test_overrides_are_what_the_way_has(tiny: ModuleType, tmp_path: Any) -> None:
    """As a recipe reads them; the rate and decay of AdamW stay."""
    job = job_of(tiny, tmp_path, optim=AdamWConfig(lr=1e-3, weight_decay=0.02))
    way = lighter(job)[-1]
    read = {key: yaml.safe_load(str(value).strip("'")) for key, value in way.settings.items()}
    optim = read.pop("optim")
    assert read == {FUSED: True, "train.max_grad_norm": None, WEIGHTS: "bfloat16"}
    assert (optim["kind"], float(optim["lr"]), optim["weight_decay"]) == ("adamw_8bit", 1e-3, 0.02)
    assert way.job.optim == AdamW8bitConfig(lr=1e-3, weight_decay=0.02)


@pytest.mark.parametrize("saver", [FUSED, WEIGHTS, AVERAGES])
def test_a_plan_advises_a_saver_where_nothing_else_fits(saver: str, tiny: ModuleType, tmp_path: Any) -> None:
    """On a card with room for the lightest of the ways with this saver and no other, that or a cheaper one is found."""
    job = job_of(tiny, tmp_path)

    def peak(job: Job) -> int:
        return int(forecast(job, target=Target("cuda"), rate=1.0)["peak_bytes"])

    peaks = {frozenset(way): peak(found.job) for way, found in zip(chosen(job), lighter(job), strict=True)}
    memory = round(1.15 * peaks[frozenset({saver})]) + 1
    fitting = [
        way for way in lighter(job) if 1.15 * peaks[frozenset(set(way.settings) - {"train.max_grad_norm"})] <= memory
    ]
    assert memory < 1.15 * peak(job)
    change = forecast(job, target=Target("cuda", memory), rate=1.0)["change"]
    assert change["settings"] == fitting[0].settings
    assert change["slower"] == pytest.approx(fitting[0].slower(32))
    assert change["peak_bytes"] <= peaks[frozenset({saver})]
