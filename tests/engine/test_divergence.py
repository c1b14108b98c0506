"""A loss that shoots up: noticed, explained, and gone around, however often the run is interrupted."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.data.config import SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.run import tokenize
from cirilla_cli.engine.config import (
    AdamWConfig,
    AverageConfig,
    CheckpointingConfig,
    CrossEntropyConfig,
    DivergenceConfig,
    TrainConfig,
)
from cirilla_cli.engine.divergence import Diverged, Watch, Watched, way_back
from cirilla_cli.engine.run import train
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.progress import Silent

STEPS, WINDOW, SPIKE = 60, 8, 1.5


# What is left out


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=5))
def test_what_is_left_out_is_cut_out_of_the_row_of_batches(cuts: list[tuple[int, int]]) -> None:
    """The oracle holds all batches in a list and cuts what each return left out."""
    batches, seen = list(range(200)), Watched()
    for first, count in cuts:
        del batches[first : first + count]
        seen.skips.append([first, count])
    assert [seen.batch(step) for step in range(60)] == batches[:60]
    gaps = [b - a - 1 for a, b in zip([-1, *batches], batches, strict=False)]
    assert [seen.left_out(step) for step in range(60)] == gaps[:60]


# What counts


def _judged(losses: list[float], **config: Any) -> tuple[Watched, Diverged | None]:
    seen, watch = Watched(), Watch(DivergenceConfig(**config))
    for i, loss in enumerate(losses):
        try:
            watch.judge(seen, i + 1, loss, 1.0)
        except Diverged as trouble:
            return seen, trouble
    return seen, None


def test_mean_and_deviation_are_those_of_exponential_weights() -> None:
    losses = np.random.default_rng(0).normal(3.0, 0.2, 200)
    seen, trouble = _judged(list(losses), window=20)
    assert trouble is None
    weights = np.ones(1)
    for n in range(2, 201):
        rate = 2 / (min(20, n) + 1)
        weights = np.append(weights * (1 - rate), rate)
    mean = float((weights * losses).sum())
    assert seen.mean == pytest.approx(mean, rel=1e-12)
    assert seen.variance == pytest.approx(float((weights * (losses - mean) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize("patience", [1, 3])
def test_a_spike_counts_once_it_has_lasted_and_a_shorter_one_never(patience: int) -> None:
    quiet = [3.0 + 0.1 * (-1) ** i for i in range(40)]
    high = [4.0] * (patience - 1)
    seen, trouble = _judged([*quiet, *high, *quiet, *high, 3.1], window=20, patience=patience)
    assert trouble is None
    assert seen.judged == 81, "a loss that was too high is no part of the mean"
    _, trouble = _judged([*quiet, *high, 4.0, 9.0], window=20, patience=patience)
    assert trouble is not None
    assert f"step {40 + patience}: the loss is 4; since step 41" in str(trouble)
    # The update of step 40 may have caused it: counted from 0 that is batch 39.
    assert trouble.skips == [[39, patience + 1]]


def test_nothing_is_judged_before_a_window_has_passed() -> None:
    assert _judged([3.0] * 10 + [50.0] * 5, window=20)[1] is None
    assert _judged([3.0, 3.1] * 10 + [50.0] * 5, window=20)[1] is not None
    assert _judged([3.0, 3.1] * 10 + [50.0] * 5, window=20, spike=None)[1] is None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_no_number_counts_at_once(loss: float, norm: float) -> None:
    for watch in (Watch(), Watch(DivergenceConfig(window=50))):
        with pytest.raises(Diverged, match="step 1: the loss is .* training diverged"):
            watch.judge(Watched(), 1, loss, norm)


def test_only_checkpoints_from_before_the_suspected_update_are_gone_back_to() -> None:
    seen = Watched(anchors=[8, 9], since=10)
    assert Diverged("", seen=seen, last=12).anchors == [8]
    assert Diverged("", seen=Watched(anchors=[4, 8]), last=10).anchors == [4, 8]
    marked = Watched()
    for step in (2, 4, 6, 8):
        marked.mark(step)
    marked.since = 9
    marked.mark(10)
    assert marked.anchors == [4, 6, 8]


# Going back


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of four words, and three documents of something else."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("poisoned")
    texts = [" ".join(rng.choice(("moon", "griffin", "sword", "river")) for _ in range(30)) for _ in range(120)]
    for i in (40, 41, 80):
        texts[i] = "".join(rng.choice("qxzjkvb") for _ in range(120))
    rows = [json.dumps({"id": f"d{i}", "title": "d", "text": text}) + "\n" for i, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    config = TokenizeConfig(inputs=(folder / "rows.jsonl",), tokenizer=SentencePieceConfig(vocab_size=340), val=0.05)
    tokenize(config, folder, Silent())
    return folder


def _job(tiny: ModuleType, out: Path, data: Path, **watch: Any) -> Any:
    usual = {"spike": SPIKE, "window": WINDOW, "patience": 1, "action": "rollback", "most": 20}
    divergence = DivergenceConfig(**{**usual, **watch})
    lasting = TrainConfig(
        steps=STEPS, batch_tokens=64, micro_batch_tokens=32, divergence=divergence, ema=AverageConfig(decay=0.9)
    )
    often = CheckpointingConfig(every=4, every_time=None, keep=1)
    changes = {"train": lasting, "checkpoint": often, "objective": CrossEntropyConfig(), "optim": AdamWConfig(lr=3e-3)}
    return tiny.job("pretrain", out, data, **changes)


@pytest.fixture(scope="module")
def straight(tiny: ModuleType, poisoned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, listener = tmp_path_factory.mktemp("straight") / "run", tiny.Listener()
    train(_job(tiny, out, poisoned), listener)
    return out, listener.said


def test_a_run_that_goes_back_says_why_and_records_what_it_left_out(
    straight: tuple[Path, list[str]], tiny: ModuleType
) -> None:
    out, said = straight
    returns = [text for text in said if "training diverged; back to step" in text]
    assert len(returns) >= 2
    state = json.loads((tiny.saved(out)[STEPS] / "state.json").read_text())
    assert len(state["watched"]["skips"]) == len(returns)
    lines = tiny.metrics(out)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert sum(line.get("skipped_batches", 0) for line in lines) == sum(n for _, n in state["watched"]["skips"])
    assert max(line["loss"] for line in lines[40:]) < 3.0, "the bad batches are still there"


def test_what_it_arrives_at_is_a_run_over_the_other_batches(
    straight: tuple[Path, list[str]], tiny: ModuleType, poisoned: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle reads the batches that are left in their order, and watches nothing."""
    from cirilla_cli.engine import build

    out, _ = straight
    skips = json.loads((tiny.saved(out)[STEPS] / "state.json").read_text())["watched"]["skips"]
    left = list(range(200))
    for first, count in skips:
        del left[first : first + count]
    real = build.source_of

    def reordered(*given: Any) -> Any:
        steps, source = real(*given)
        step = source.step
        source.step = lambda index: step(left[index])
        return steps, source

    monkeypatch.setattr(build, "source_of", reordered)
    train(_job(tiny, memory / "plain", poisoned, spike=None), Silent())
    assert tiny.curve(memory / "plain") == tiny.curve(out)
    assert tiny.final_digests(memory / "plain") == tiny.final_digests(out)


@pytest.mark.parametrize("seed", [*range(3), None], ids=str)
def test_interrupting_a_run_that_goes_back_changes_none_of_its_bits(
    seed: int | None, straight: tuple[Path, list[str]], tiny: ModuleType, poisoned: Path, memory: Path
) -> None:
    """An interruption saves a step that is not on schedule: the way back does not lead there. At six steps, or all."""
    rng, out = random.Random(seed), memory / "run"
    for step in range(2, STEPS) if seed is None else sorted(rng.sample(range(2, STEPS), 6)):
        listener = tiny.interrupt_after(step)
        with pytest.raises(InterruptedRun):
            train(_job(tiny, out, poisoned), listener)
    train(_job(tiny, out, poisoned), Silent())
    assert tiny.final_digests(out) == tiny.final_digests(straight[0])
    last = [run / "checkpoints" / f"step-{STEPS:06d}" for run in (out, straight[0])]
    assert (last[0] / "ema.safetensors").read_bytes() == (last[1] / "ema.safetensors").read_bytes()
    assert tiny.curve(out) == tiny.curve(straight[0])
    watched = [json.loads((run / "state.json").read_text())["watched"] for run in last]
    assert watched[0] == watched[1], "what it may go back to, in a divergence to come, is the same too"


def test_a_run_that_is_to_stop_stops_with_the_reason_and_may_go_back_later(
    straight: tuple[Path, list[str]], tiny: ModuleType, poisoned: Path, memory: Path
) -> None:
    out = memory / "run"
    with pytest.raises(Diverged, match=r"step \d+: the loss is .* standard deviations .* training diverged"):
        train(_job(tiny, out, poisoned, action="stop"), Silent())
    assert Checkpoint.newest(out) is not None
    train(_job(tiny, out, poisoned), Silent())
    assert tiny.final_digests(out) == tiny.final_digests(straight[0])


def test_a_run_that_diverges_at_once_after_a_return_goes_back_further(
    tiny: ModuleType, data: Path, memory: Path, run: Callable[..., Any]
) -> None:
    """Twice: the checkpoints before the last stay on disk, though `keep` is 1; what the watch knew lies in each."""
    config = DivergenceConfig(spike=None, action="rollback", most=5)
    often = CheckpointingConfig(every=2, every_time=None, keep=1)
    lasting = TrainConfig(steps=12, batch_tokens=64, divergence=config)
    run(train=lasting, checkpoint=often)
    out, seen, returns = memory / "run", Watched(), []
    seen.anchors = json.loads((tiny.saved(out)[12] / "state.json").read_text())["watched"]["anchors"]
    last = 13
    for _ in range(2):
        found = way_back(out, Diverged("", seen=seen, last=last), config, Silent())
        seen.anchors = found.state()["watched"]["anchors"]
        returns.append(found.step)
        last = found.step + 1
    assert returns == [10, 8]


def test_returns_are_counted_and_need_somewhere_to_go(
    tiny: ModuleType, poisoned: Path, memory: Path, run: Callable[..., Any]
) -> None:
    with pytest.raises(CirillaError, match="training diverged, after 1 returns to a checkpoint"):
        train(_job(tiny, memory / "once", poisoned, most=1), Silent())
    rarely = CheckpointingConfig(every=1000, every_time=None)
    job = _job(tiny, memory / "rarely", poisoned)
    late = tiny.job("pretrain", memory / "rarely", poisoned, train=job.train, checkpoint=rarely, optim=job.optim)
    with pytest.raises(CirillaError, match="no checkpoint from before step") as caught:
        train(late, Silent())
    assert "checkpoint.every" in str(caught.value.hint)
