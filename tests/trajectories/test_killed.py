"""Whatever ends a run, and wherever: what continues it arrives at the same bits."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.write import write_folder
from cirilla_cli.loading import load_model
from cirilla_cli.progress import Silent

VERBS = ("pretrain", "sft", "dpo")
STEPS = 24


def _await_checkpoint(out: Path, step: int) -> None:
    """Until a manifest of ``step`` or later stands in the run."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(int(path.parent.name[5:]) >= step for path in out.glob("checkpoints/step-*/MANIFEST.json")):
            return
        time.sleep(0.001)
    pytest.fail(f"{out}: no checkpoint of step {step} after a minute")


def _samples(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def _assert_same(tiny: ModuleType, out: Path, straight: Path) -> None:
    assert tiny.curve(out) == tiny.curve(straight)
    assert _samples(out) == _samples(straight)
    assert tiny.final_digests(out) == tiny.final_digests(straight)
    validations = [[line.get("val_loss") for line in tiny.metrics(run)] for run in (out, straight)]
    assert validations[0] == validations[1]
    assert sorted(tiny.saved(out)) == sorted(tiny.saved(straight))
    indexes = [json.loads((run / "checkpoints" / "index.json").read_text()) for run in (out, straight)]
    assert indexes[0] == indexes[1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_killed_twice_ends_in_the_same_bits(
    verb: str, driver: Any, straight: Callable[[str, int], Path], tiny: ModuleType, out: Path
) -> None:
    rng = random.Random(VERBS.index(verb))
    for least in (2, rng.randrange(8, 14)):
        pid = driver.begin(verb, out, steps=STEPS)
        _await_checkpoint(out, least)
        time.sleep(rng.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    assert driver.run(verb, out, steps=STEPS) == 0
    _assert_same(tiny, out, straight(verb, STEPS))


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_killed_between_any_two_file_operations_ends_in_the_same_bits(
    verb: str, driver: Any, straight: Callable[[str, int], Path], tiny: ModuleType, out: Path
) -> None:
    rng = random.Random(verb)
    killed = newest = 0
    for _ in range(7):
        status = driver.run(verb, out, steps=8, kill_at=rng.randrange(3, 70))
        killed += status == -signal.SIGKILL
        before, newest = newest, max((c.step for c in Checkpoint.all_of(out)), default=0)
        assert newest >= before, "a checkpoint was lost"
        assert all(c.verify() == [] for c in Checkpoint.all_of(out))
    assert killed >= 3
    assert driver.run(verb, out, steps=8) == 0
    _assert_same(tiny, out, straight(verb, 8))


@pytest.mark.parametrize("changes", [2, 6, 9])
def test_a_run_killed_after_its_last_checkpoint_is_completed_by_the_same_command(
    changes: int, driver: Any, straight: Callable[[str, int], Path], tiny: ModuleType, out: Path
) -> None:
    """The index may still name the checkpoint before, which is not the one to use, and the report is missing."""
    assert driver.run("pretrain", out, steps=4, kill_at=changes, since="step-000004") == -signal.SIGKILL
    assert 4 in tiny.saved(out)
    assert not (out / "report.json").exists()
    assert driver.run("pretrain", out, steps=4) == 0
    assert json.loads((out / "checkpoints" / "index.json").read_text())["last"] == "step-000004"
    assert (out / "report.json").is_file()
    _assert_same(tiny, out, straight("pretrain", 4))


@pytest.mark.parametrize("verb", VERBS)
def test_a_terminated_run_saves_its_step_and_goes_on(
    verb: str, driver: Any, straight: Callable[[str, int], Path], tiny: ModuleType, out: Path
) -> None:
    pid = driver.begin(verb, out, steps=STEPS)
    _await_checkpoint(out, 4)
    os.kill(pid, signal.SIGTERM)
    assert driver.wait() == 3
    stopped = max(tiny.saved(out))
    assert 4 <= stopped < STEPS
    assert json.loads((tiny.saved(out)[stopped] / "state.json").read_text())["step"] == stopped
    assert tiny.metrics(out)[-1]["step"] == stopped
    assert driver.run(verb, out, steps=STEPS) == 0
    _assert_same(tiny, out, straight(verb, STEPS))


@pytest.fixture
def imported(started: Path, memory: Path) -> Path:
    """A model in Hugging Face's layout whose tokenizer is a `tokenizer.json` that is not ours."""
    folder = memory / "imported"
    write_folder(load_model(started, progress=Silent()), folder, PushConfig(to=f"dir:{folder}", dtype="float32"))
    (folder / "tokenizer.model").unlink()
    return folder


def test_a_run_with_an_imported_tokenizer_outlives_its_base_and_its_first_checkpoint(
    driver: Any, tiny: ModuleType, data: Path, imported: Path, out: Path
) -> None:
    """Rows are encoded by a tokenizer that then lies only in checkpoints, each of which is pruned in its turn."""
    order = {"steps": STEPS, "data": data / "rows.jsonl", "start": imported}
    straight = out.with_name("straight-imported")
    assert driver.run("sft", straight, **order) == 0
    for least in (4, 12):
        pid = driver.begin("sft", out, **order)
        _await_checkpoint(out, least)
        os.kill(pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        assert 2 not in tiny.saved(out), "the first checkpoint was to be pruned by now"
        shutil.rmtree(imported, ignore_errors=True)
    assert driver.run("sft", out, **order) == 0
    _assert_same(tiny, out, straight)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        ours, theirs = (tiny.saved(run)[STEPS] / name for run in (out, straight))
        assert ours.read_bytes() == theirs.read_bytes()
