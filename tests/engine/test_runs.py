"""Whole runs of a few steps: what they write, when they stop, and what they refuse."""

import itertools
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    CosineConfig,
    CrossEntropyConfig,
    EarlyStoppingConfig,
    EvaluationConfig,
    LogConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError
from cirilla_cli.loading import load_model
from cirilla_cli.progress import Silent

BATCH = {"batch_tokens": 256, "micro_batch_tokens": 128}
EVAL = EvaluationConfig(every=2, max_tokens=128, prompts=("silver", "moon"), sample_tokens=3)


def stopped_at(step: int, run: Callable[..., TrainReport], **changes: Any) -> None:
    with pytest.raises(CirillaError, match=f"stopped after step {step} of") as caught:
        run(sys.modules["tiny"].interrupt_after(step), **changes)
    assert caught.value.exit_code == 3


# What is written


@pytest.mark.parametrize(("every", "lines"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (100, [6])])
def test_the_last_line_of_the_metrics_is_the_last_step(
    every: int, lines: list[int], run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    report = run(log=LogConfig(every=every, plot=False))
    written = tiny.metrics(out)
    assert [line["step"] for line in written] == lines
    assert written[-1].keys() >= {"step", "loss", "nll", "tokens", "tokens_per_second", "lr_factor", "grad_norm"}
    assert (report.step, report.loss, report.tokens) == (6, written[-1]["loss"], written[-1]["tokens"])


def test_the_first_loss_is_near_ln_v(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    run()
    assert tiny.metrics(out)[0]["nll"] == pytest.approx(math.log(340), rel=0.05)


def test_tokens_count_what_was_trained_on(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    """In fine-tuning only the assistant's tokens; one pass reads each of them once."""
    whole = TrainConfig(epochs=1, batch_tokens=32, micro_batch_tokens=32)
    sft = tiny.job("sft", tmp_path / "sft", data, train=whole, model=tiny.decoder(context_length=64))
    report = train(replace(sft, train=whole.model_copy(update={"batch_tokens": 64})), Silent())
    index = json.loads((data / "shards" / "chat" / "index.json").read_text())
    assert report.tokens == sum(shard["trained"] for shard in index["splits"]["train"])


def test_an_interrupted_runs_metrics_are_cut_back_and_continued(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    often = CheckpointingConfig(every=2, every_time=None)
    stopped_at(3, run, eval=EVAL, checkpoint=often)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 99.0}\n{"step": 5, "lo')
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"step": 4, "prompt": "silver", "text": "torn"}\n')
    report = run(eval=EVAL, checkpoint=often)
    assert report.continued_from == 3
    assert [line["step"] for line in tiny.metrics(out)] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] < 9 for line in tiny.metrics(out))
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [(s["step"], s["prompt"]) for s in samples] == [(step, p) for step in (2, 4, 6) for p in EVAL.prompts]


def test_validation_leaves_out_smoothing(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path
) -> None:
    """The oracle runs the saved model over the held-out rows and takes torch's plain loss."""
    from cirilla_cli.data.batches import IGNORE
    from cirilla_cli.data.shards import TokenShards
    from cirilla_cli.model.layout import SequenceLayout
    from cirilla_cli.model.readout import LastLogits

    smooth = CrossEntropyConfig(label_smoothing=0.5)
    run(eval=EvaluationConfig(every=1, max_tokens=10_000), objective=smooth)
    line = tiny.metrics(out)[-1]
    assert line["val_loss"] == line["val_nll"]
    held_out = TokenShards.open(data / "shards" / "text", "val")
    model, total, count = load_model(out, progress=Silent()).model, 0.0, 0
    for row in range(held_out.n_tokens // 32):
        ids, documents = (torch.from_numpy(part) for part in held_out.read(row * 32, 33))
        targets = torch.where(documents[1:] == documents[:-1], ids[1:], IGNORE)
        with torch.no_grad():
            layout = SequenceLayout.packed(documents[None, :-1])
            logits = model(ids[None, :-1], layout, readout=LastLogits(32))[0]
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        count += int((targets != IGNORE).sum())
    assert line["val_loss"] == pytest.approx(total / count, rel=1e-4)


def test_the_model_is_measured_before_its_first_step(run: Callable[..., TrainReport]) -> None:
    report = run(eval=EVAL)
    assert report.first_validation is not None
    assert report.first_validation["nll"] == pytest.approx(math.log(340), rel=0.05)


def test_curves_are_a_picture(run: Callable[..., TrainReport], out: Path) -> None:
    run(eval=EVAL, log=LogConfig(every=1, plot=True))
    picture = (out / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 5000


def test_tensorboard_has_the_same_numbers(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    run(log=LogConfig(every=2, plot=False, tensorboard=True))
    events = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    got = [(event.step, event.value) for event in events.Scalars("loss")]
    assert got == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in tiny.curve(out)]


def test_samples_are_written_at_each_evaluation(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    listener = tiny.Listener()
    run(listener, eval=EVAL)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 6, 6]
    assert {row["prompt"] for row in rows} == set(EVAL.prompts)
    assert any("silver ->" in text for text in listener.said)


# What is kept


def index(out: Path) -> dict[str, Any]:
    return json.loads((out / "checkpoints" / "index.json").read_text())


def test_only_the_newest_checkpoints_are_kept(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    run(checkpoint=CheckpointingConfig(every=1, every_time=None, keep=2))
    assert sorted(tiny.saved(out)) == [5, 6]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["index.json", "step-000005", "step-000006"]
    assert index(out) == {"last": "step-000006", "best": None, "default": "last"}


def test_the_best_checkpoint_outlives_the_others(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    """At a rate that soon overshoots, the first evaluation is the best."""
    losing = {"optim": AdamWConfig(lr=0.5), "schedule": CosineConfig(warmup=2, min_frac=1.0)}
    report = run(
        checkpoint=CheckpointingConfig(every=1, every_time=None, keep=1),
        eval=EvaluationConfig(every=1, max_tokens=64), train=TrainConfig(steps=8, **BATCH), **losing,
    )  # fmt: skip
    losses = {line["step"]: line["val_loss"] for line in tiny.metrics(out)}
    best = min(losses, key=losses.__getitem__)
    assert best < 7
    assert report.best_step == best
    assert sorted(tiny.saved(out)) == [best, 8]
    assert index(out) == {"last": "step-000008", "best": f"step-{best:06d}", "default": "last"}


def test_early_stopping_stops_and_the_default_is_the_best(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    losing = {"optim": AdamWConfig(lr=0.5), "schedule": CosineConfig(warmup=2, min_frac=1.0)}
    early = TrainConfig(steps=40, early_stopping=EarlyStoppingConfig(patience=3), **BATCH)
    listener = tiny.Listener()
    report = run(listener, train=early, eval=EvaluationConfig(every=1, max_tokens=64), **losing)
    losses = [line["val_loss"] for line in tiny.metrics(out)]
    best = 1 + losses.index(min(losses))
    assert report.stopped_early
    assert len(losses) == report.step == best + 3
    assert index(out)["default"] == "best"
    assert index(out)["best"] == f"step-{best:06d}"
    assert load_model(out, progress=Silent()).step == best
    assert any("has not improved over 3" in text for text in listener.said)
    again = run(train=early, eval=EvaluationConfig(every=1, max_tokens=64), **losing)
    assert again.already_done


def test_small_improvements_do_not_count_also_after_an_interruption(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    """Each evaluation gains less than asked, but two or three of them together enough, until that ends too."""
    picky = TrainConfig(steps=30, early_stopping=EarlyStoppingConfig(patience=3, min_improvement=0.3), **BATCH)
    changes = {"train": picky, "eval": EvaluationConfig(every=1, max_tokens=64), "optim": AdamWConfig(lr=5e-3)}
    straight = run(**changes)
    losses = [line["val_loss"] for line in tiny.metrics(out)]
    assert straight.stopped_early
    assert all(later < earlier for earlier, later in itertools.pairwise(losses)), "every one was the best so far"
    assert 8 < straight.step < 30
    shutil.rmtree(out)
    for step in (3, straight.step - 1):
        stopped_at(step, run, **changes)
    assert run(**changes).step == straight.step
    assert [line["val_loss"] for line in tiny.metrics(out)] == losses


def test_early_stopping_without_held_out_rows_is_refused(run: Callable[..., TrainReport]) -> None:
    early = TrainConfig(steps=4, early_stopping=EarlyStoppingConfig(), **BATCH)
    with pytest.raises(CirillaError, match="early_stopping"):
        run(train=early, eval=None)


# What stops a run


@pytest.mark.parametrize("lr", [1e18, 1e30])
def test_a_diverging_loss_names_its_step(lr: float, run: Callable[..., TrainReport], out: Path) -> None:
    with pytest.raises(CirillaError, match=r"step \d+: the loss is .*diverged") as caught:
        run(optim=AdamWConfig(lr=lr), objective=CrossEntropyConfig(z_loss=0.1), checkpoint=CheckpointingConfig(every=1))
    assert caught.value.hint is not None
    assert "optim.lr" in caught.value.hint
    for checkpoint in Checkpoint.all_of(out):
        assert f"step {checkpoint.step}:" not in str(caught.value)


def test_weights_that_are_not_numbers_are_noticed_at_the_first_step(
    run: Callable[..., TrainReport], tiny: ModuleType, data: Path, started: Path, tmp_path: Path
) -> None:
    from cirilla_cli.checkpoint import write_checkpoint

    model = load_model(started, progress=Silent())
    with torch.no_grad():
        next(model.model.parameters())[0, 0] = float("nan")
    broken = write_checkpoint(
        tmp_path / "broken", 1, model.model, tokenizer=model.tokenizer, optimizer=torch.optim.SGD([torch.zeros(1)]),
        state={"verb": "pretrain"}, texts={},
    )  # fmt: skip
    with pytest.raises(CirillaError, match="step 1: the loss is nan"):
        train(tiny.job("sft", tmp_path / "run", data, start=broken.path), Silent())


def test_max_epochs_caps_the_steps_and_says_so(run: Callable[..., TrainReport], tiny: ModuleType) -> None:
    """780 tokens are 24 rows of 32: three steps of eight rows are a pass."""
    listener = tiny.Listener()
    report = run(listener, train=TrainConfig(steps=100, max_epochs=2, **BATCH))
    assert report.step == 6
    assert any("more than 2 times" in text for text in listener.said)


@pytest.mark.parametrize(
    ("length", "steps"), [({"tokens": 1000}, 4), ({"tokens": 1024}, 4), ({"epochs": 2}, 6), ({"epochs": 0.1}, 1)]
)
def test_length_in_tokens_and_passes_is_rounded_up_to_steps(
    length: dict[str, Any], steps: int, run: Callable[..., TrainReport]
) -> None:
    assert run(train=TrainConfig(**length, **BATCH)).step == steps


@pytest.mark.parametrize("given", [{}, {"steps": 1, "tokens": 1}, {"steps": 1, "epochs": 1.0}])
def test_exactly_one_length_is_wanted(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of steps, tokens and epochs"):
        TrainConfig(**given)


# What stands there already


def test_a_finished_run_is_done_and_untouched(run: Callable[..., TrainReport], out: Path) -> None:
    run(eval=EVAL, log=LogConfig(every=1, plot=True))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    report = run(eval=EVAL, log=LogConfig(every=1, plot=True))
    assert report.already_done
    assert report.step == 6
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_another_recipe_is_refused_with_each_difference(run: Callable[..., TrainReport], out: Path) -> None:
    stopped_at(2, run)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CirillaError) as caught:
        run(seed=7, optim=AdamWConfig(lr=0.125), objective=CrossEntropyConfig(z_loss=0.5))
    text = str(caught.value)
    for part in (
        "`seed` was 0, is 7",
        "`optim.lr` was 0.01, is 0.125",
        "`objective.z_loss` was 0.0, is 0.5",
        "`optim.kind`",
    ):
        assert part in text
    assert "`log" not in text
    assert len(caught.value.where) == text.count("\n")
    assert "--fresh" in (caught.value.hint or "")
    assert {path: path.read_bytes() for path in kept} == kept


def test_what_only_watches_a_run_may_change(run: Callable[..., TrainReport]) -> None:
    stopped_at(2, run)
    report = run(eval=EVAL, log=LogConfig(every=3, plot=False), checkpoint=CheckpointingConfig(every=3, keep=1))
    assert report.continued_from == 2
    assert report.step == 6


def test_a_run_may_be_prolonged_unless_its_rate_follows_its_length(run: Callable[..., TrainReport], out: Path) -> None:
    assert run().step == 6
    assert run(train=TrainConfig(steps=8, **BATCH)).continued_from == 6
    run(schedule=CosineConfig(), restart=True)
    with pytest.raises(CirillaError, match=r"`train.steps` was 6, is 8"):
        run(schedule=CosineConfig(), train=TrainConfig(steps=8, **BATCH))


def test_changed_data_is_refused(run: Callable[..., TrainReport], tiny: ModuleType, tmp_path: Path) -> None:
    mine = tiny.make_data(tmp_path / "mine")
    stopped_at(2, run, data_from=mine)
    path = mine / "shards" / "text" / "index.json"
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(CirillaError, match="the data of wiki has changed"):
        run(data_from=mine)
    assert run(data_from=mine, restart=True).continued_from == 0


def test_starting_over_forgets_the_run_and_nothing_else(run: Callable[..., TrainReport], out: Path) -> None:
    run()
    (out / "notes.txt").write_text("mine")
    report = run(restart=True, seed=3)
    assert report.continued_from == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "lock.json").read_text())["resolved"]["seed"] == 3


def test_insisting_on_a_checkpoint_that_is_not_there_fails(run: Callable[..., TrainReport], out: Path) -> None:
    with pytest.raises(CirillaError, match="no checkpoint to resume from"):
        run(insist=True)
    assert not out.exists()
    stopped_at(2, run)
    assert run(insist=True).continued_from == 2


def test_a_mended_recipe_need_not_start_over(run: Callable[..., TrainReport], out: Path) -> None:
    """What was refused before the first step has not begun a run."""
    early = TrainConfig(steps=4, early_stopping=EarlyStoppingConfig(), **BATCH)
    with pytest.raises(CirillaError, match="early_stopping"):
        run(train=early, eval=None)
    assert run(train=TrainConfig(steps=4, **BATCH)).step == 4


def test_an_empty_source_is_refused_whatever_the_others_hold(
    run: Callable[..., TrainReport], tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    from cirilla_cli.data.config import PackedTextConfig, TextSourceConfig

    empty = tiny.make_data(tmp_path / "empty")
    path = empty / "shards" / "text" / "index.json"
    listing = json.loads(path.read_text())
    listing["splits"]["train"] = []
    path.write_text(json.dumps(listing))
    sources = {"full": TextSourceConfig(path=data), "empty": TextSourceConfig(path=empty)}
    with pytest.raises(CirillaError, match="empty"):
        run(data=PackedTextConfig(sources=sources))
