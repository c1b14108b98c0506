"""A second place for checkpoints: it holds what the run holds, and a run whose folder is gone continues from it."""

import json
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine import run as engine_run
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    CosineConfig,
    DivergenceConfig,
    EvaluationConfig,
    TrainConfig,
)
from cirilla_cli.engine.mirroring import Mirroring
from cirilla_cli.engine.run import TrainReport, plan, train
from cirilla_cli.errors import CirillaError, InterruptedRun, ServiceError
from cirilla_cli.loading import load_model
from cirilla_cli.mirror import FolderStore, check_mirror, put
from cirilla_cli.progress import Silent

LASTING = TrainConfig(steps=8, batch_tokens=256, micro_batch_tokens=128)
WATCHED = EvaluationConfig(every=3, max_tokens=128)


def _checkpoint(mirror: Path | None, *, asynchronous: bool = False) -> CheckpointingConfig:
    place = None if mirror is None else f"dir:{mirror}"
    return CheckpointingConfig(every=2, every_time=None, keep=2, mirror=place, asynchronous=asynchronous)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "mirror"


@pytest.fixture
def go(tiny: ModuleType, data: Path, mirror: Path) -> Callable[..., TrainReport]:
    """Trains the mirrored job in a folder."""

    def train_in(out: Path, progress: Any = None, *, restart: bool = False, **changes: Any) -> TrainReport:
        usual = {"train": LASTING, "checkpoint": _checkpoint(mirror), "eval": WATCHED}
        return train(tiny.job("pretrain", out, data, **{**usual, **changes}), progress or Silent(), restart=restart)

    return train_in


def _files(folder: Path) -> dict[str, bytes]:
    """Those of a run that a mirror holds."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name.startswith("checkpoints/step-") or name == "lock.json"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_mirror_holds_the_checkpoints_of_the_run_and_is_a_run(
    asynchronous: bool, go: Callable[..., TrainReport], out: Path, mirror: Path
) -> None:
    go(out, checkpoint=_checkpoint(mirror, asynchronous=asynchronous))
    assert _files(mirror) == _files(out)
    assert {c.step for c in Checkpoint.all_of(mirror)} >= {6, 8}
    assert load_model(mirror).step == 8
    assert (mirror / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()


def test_a_run_whose_folder_is_gone_continues_from_its_mirror_bit_for_bit(
    go: Callable[..., TrainReport], out: Path, memory: Path, mirror: Path, tiny: ModuleType
) -> None:
    straight = memory / "straight"
    go(straight, checkpoint=_checkpoint(None))
    for step in (3, 5):
        with pytest.raises(InterruptedRun):
            go(out, tiny.interrupt_after(step))
        shutil.rmtree(out)
    listener = tiny.Listener()
    report = go(out, listener)
    assert report.continued_from == 5
    assert any("step 5 fetched" in text for text in listener.said)
    assert tiny.final_digests(out) == tiny.final_digests(straight)
    assert tiny.curve(out) == tiny.curve(straight)


def test_a_run_that_comes_back_from_its_mirror_has_what_it_may_go_back_to(
    go: Callable[..., TrainReport], out: Path, memory: Path, mirror: Path, tiny: ModuleType
) -> None:
    """The best checkpoint, and those before a divergence, stay in the run and in its mirror. The first is the best at a
    rate that soon overshoots."""
    watched = TrainConfig(**{**LASTING.model_dump(), "divergence": DivergenceConfig(action="rollback", spike=1e9)})
    changes: dict[str, Any] = {"optim": AdamWConfig(lr=2.0), "schedule": CosineConfig(warmup=2, min_frac=1.0)}
    changes |= {"eval": EvaluationConfig(every=1, max_tokens=64), "train": watched}
    straight = memory / "straight"
    go(straight, checkpoint=_checkpoint(None), **changes)
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(7), **changes)
    shutil.rmtree(out)
    assert go(out, **changes).continued_from == 7
    index, best = (straight / "checkpoints" / "index.json").read_bytes(), min(tiny.saved(straight))
    assert json.loads(index)["best"] == f"step-{best:06d}"
    assert best < 4
    assert (out / "checkpoints" / "index.json").read_bytes() == index
    assert {best, 4, 6, 8} <= tiny.saved(straight).keys() <= tiny.saved(out).keys()
    assert _files(mirror) == _files(out)


def test_a_first_copy_that_was_cut_short_is_no_other_run(
    go: Callable[..., TrainReport], out: Path, mirror: Path, tiny: ModuleType
) -> None:
    """The machine was lost with it, and the command begun anew elsewhere: there is nothing to mistake for that run."""
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(3))
    shutil.rmtree(mirror / "checkpoints")
    shutil.rmtree(out)
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(3), checkpoint=_checkpoint(None))
    assert (mirror / "lock.json").read_bytes() != (out / "lock.json").read_bytes()
    assert go(out).continued_from == 3
    assert _files(mirror) == _files(out)


def test_a_damaged_copy_is_passed_over_for_the_one_before(
    go: Callable[..., TrainReport], out: Path, mirror: Path, tiny: ModuleType
) -> None:
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(5))
    final = mirror / "checkpoints" / "step-000005" / "optimizer.safetensors"
    final.write_bytes(final.read_bytes()[:-3] + b"xyz")
    shutil.rmtree(out)
    assert go(out).continued_from == 4


def test_a_mirror_of_another_recipe_is_refused_before_anything_is_written(
    go: Callable[..., TrainReport], out: Path, memory: Path, mirror: Path
) -> None:
    go(out)
    other = memory / "other"
    with pytest.raises(CirillaError, match=r"(?s)`checkpoint.mirror` holds another run.*optim.*lr") as caught:
        go(other, optim=AdamWConfig(lr=1e-4))
    assert "--fresh" in str(caught.value.hint)
    assert not (other / "lock.json").exists()
    assert _files(mirror) == _files(out)
    go(other, optim=AdamWConfig(lr=1e-4), restart=True)
    assert _files(mirror) == _files(other)


def test_what_a_mirror_holds_is_looked_at_before_a_run_and_nothing_is_made(
    tiny: ModuleType, data: Path, go: Callable[..., TrainReport], out: Path, memory: Path, mirror: Path
) -> None:
    """`--dry-run` refuses what the run would, and changes nothing: not even what was half written."""

    def planned(at: Path, *, restart: bool = False, **changes: Any) -> None:
        usual = {"train": LASTING, "checkpoint": _checkpoint(mirror), "eval": WATCHED}
        plan(tiny.job("pretrain", at, data, **{**usual, **changes}), Silent(), restart=restart)

    planned(out)
    assert not mirror.exists()
    go(out)
    (mirror / ".metrics.jsonl.abcdefgh").write_text("left")
    before = _all(mirror)
    planned(out)
    other = {"optim": AdamWConfig(lr=1e-4)}
    with pytest.raises(CirillaError, match=r"(?s)`checkpoint.mirror` holds another run.*optim.*lr"):
        planned(memory / "other", **other)
    planned(memory / "other", **other, restart=True)
    (mirror / "mirror.json").unlink()
    (mirror / "lock.json").unlink()
    with pytest.raises(CirillaError, match="has no lock.json"):
        planned(memory / "other", **other, restart=True)
    assert _all(mirror) == {name: data for name, data in before.items() if name not in ("mirror.json", "lock.json")}


def test_the_mirror_of_another_run_is_refused_wherever_the_run_stands(
    go: Callable[..., TrainReport], out: Path, memory: Path, mirror: Path, tiny: ModuleType
) -> None:
    """Of another recipe, or of the same one: an unfinished run with a checkpoint of its own asks no mirror for one."""
    other, before = memory / "other", {}
    go(out)
    before = _all(mirror)
    with pytest.raises(InterruptedRun):
        go(other, tiny.interrupt_after(5), checkpoint=_checkpoint(None))
    kept = _all(other)
    with pytest.raises(CirillaError, match="`checkpoint.mirror` holds another run of the same recipe"):
        go(other)
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror` holds another run"):
        go(memory / "third", optim=AdamWConfig(lr=1e-4))
    assert _all(mirror) == before
    assert _all(other) == kept


def _all(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FOREIGN = {
    "a project": {"recipe.yaml": "precious", "metrics.jsonl": "precious", "checkpoints/step-000900/a": "precious"},
    "a tokenizer": {"tokenizer.model": "precious", "shards/text/index.json": "precious"},
    "another's lock": {"lock.json": "{}", "checkpoints/step-000900/MANIFEST.json": "{}"},
    "a run that has no checkpoint yet": {"lock.json": "{}", "metrics.jsonl": "precious"},
    "a mark without a lock": {"mirror.json": "{}", "recipe.yaml": "precious"},
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_that_is_no_mirror_is_refused_and_stays_as_it_is(
    name: str, restart: bool, go: Callable[..., TrainReport], out: Path, mirror: Path
) -> None:
    for file, text in FOREIGN[name].items():
        (mirror / file).parent.mkdir(parents=True, exist_ok=True)
        (mirror / file).write_text(text)
    before = _all(mirror)
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror`"):
        go(out, restart=restart)
    assert _all(mirror) == before
    assert not (out / "lock.json").exists()


def test_a_run_is_not_taken_for_a_mirror(go: Callable[..., TrainReport], out: Path, started: Path) -> None:
    before = _all(started)
    for restart in (False, True):
        with pytest.raises(CirillaError, match=r"is a run's own folder, not a mirror"):
            go(out, restart=restart, checkpoint=_checkpoint(started))
    assert _all(started) == before


def test_a_mirror_from_before_mirrors_said_so_is_one_and_strangers_in_one_stay(
    go: Callable[..., TrainReport], out: Path, mirror: Path, tiny: ModuleType
) -> None:
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(5))
    (mirror / "mirror.json").unlink()
    shutil.rmtree(out)
    with pytest.raises(InterruptedRun):
        go(out, tiny.interrupt_after(7))
    assert (mirror / "mirror.json").is_file()
    (mirror / "notes.txt").write_text("mine")
    go(out, restart=True)
    assert (mirror / "notes.txt").read_text() == "mine"
    assert _files(mirror) == _files(out)


def test_what_a_killed_copy_left_is_removed(go: Callable[..., TrainReport], out: Path, mirror: Path) -> None:
    """`atomic_write` grows a file under a name that begins with a dot; a killed one leaves it."""
    go(out)
    left = [
        mirror / ".lock.json.x1y_2z3a",
        mirror / "checkpoints" / "step-000001" / ".model.safetensors.abcdefgh",
        mirror / "checkpoints" / "step-000008" / ".optimizer.safetensors.12345678",
    ]
    mine = [mirror / ".notes.txt.abcdefgh", mirror / "checkpoints" / "step-000008" / ".keep"]
    for path in (*left, *mine):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    assert go(out).already_done
    assert not any(path.exists() for path in left)
    assert not left[1].parent.exists()
    assert all(path.exists() for path in mine)


def test_a_first_copy_that_ends_at_any_file_leaves_a_mirror(
    go: Callable[..., TrainReport], out: Path, memory: Path, tiny: ModuleType
) -> None:
    """Or the run that was killed then could not go on."""
    go(out, checkpoint=_checkpoint(None))
    last = Checkpoint(8, tiny.saved(out)[8])
    count = len(list(last.path.iterdir())) + 4  # lock, recipe, metrics, and what says that it is a mirror

    class Cut(FolderStore):
        def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
            files = sorted(add.items(), key=lambda item: item[0].endswith("MANIFEST.json"))
            super().change(dict(files[: int(self.folder.name)]), (), message)

    for n in range(count + 1):
        store = FolderStore(memory / str(n))
        store.prepare()
        put(Cut(store.folder), out, last, {8})
        assert len(store.names()) == n
        check_mirror(store, store.names())
        put(store, out, last, {8})
        assert len(store.names()) == count


def test_a_mirror_that_is_a_file_is_called_one(go: Callable[..., TrainReport], out: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("recipe: 1")
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror` is 'dir:.*tiny.yaml', which is a file"):
        go(out, checkpoint=_checkpoint(tmp_path / "tiny.yaml"))


@pytest.mark.parametrize("inside", ["{out}", "{out}/mirror", "{out}/.."])
def test_a_mirror_must_lie_apart(inside: str, go: Callable[..., TrainReport], out: Path) -> None:
    place = f"dir:{inside.format(out=out)}"
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror` is .* not apart from the run"):
        go(out, checkpoint=CheckpointingConfig(mirror=place))


def test_a_mirror_that_cannot_be_made_ends_the_command_before_the_first_step(
    go: Callable[..., TrainReport], out: Path, mirror: Path
) -> None:
    mirror.parent.parent.mkdir(exist_ok=True)
    mirror.parent.write_text("a file")
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror`: .*elsewhere"):
        go(out)
    assert not (out / "metrics.jsonl").exists()


class Flaky(FolderStore):
    """Fails while ``broken`` is set."""

    broken = True

    def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
        if self.broken:
            raise ServiceError("the line is down")
        super().change(add, remove, message)


def test_a_mirror_that_fails_never_ends_the_training_and_is_made_up_for(
    go: Callable[..., TrainReport], out: Path, mirror: Path, tiny: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listener = Flaky(mirror), tiny.Listener()
    monkeypatch.setattr(engine_run, "open_store", lambda _: store)
    with pytest.raises(ServiceError, match="does not have its newest checkpoint: the line is down") as caught:
        go(out, listener)
    assert caught.value.exit_code == 4
    assert json.loads((out / "report.json").read_text())["step"] == 8
    assert any("was not copied: the line is down" in text for text in listener.said)
    store.broken = False
    assert go(out).already_done
    assert load_model(mirror).step == 8


def test_a_newer_checkpoint_takes_the_place_of_one_that_waits_and_what_is_copied_stays(
    go: Callable[..., TrainReport], out: Path, mirror: Path, tiny: ModuleType
) -> None:
    """The first copy hangs until the end of training."""
    go(out, checkpoint=CheckpointingConfig(every=1, every_time=None, keep=20))
    gate, copied = threading.Event(), []

    class Slow(FolderStore):
        def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
            gate.wait(30)
            copied.append(message)
            super().change(add, remove, message)

    mirroring = Mirroring(Slow(mirror), out, Silent())
    for step in (1, 2, 3, 4):
        mirroring.offer(Checkpoint(step, tiny.saved(out)[step]), {step})
        assert 1 in mirroring.held or step == 1
    assert mirroring.held == {1, 4}
    gate.set()
    mirroring.settle()
    mirroring.check()
    assert copied == ["step 1", "step 4"]
    assert mirroring.held == set()
    assert [c.step for c in Checkpoint.all_of(mirror)] == [4]


def test_a_checkpoint_that_is_being_copied_is_not_pruned(
    go: Callable[..., TrainReport], out: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, tiny: ModuleType
) -> None:
    """Every copy outlasts the next two saves, and what is pruned with them: without the hold, files would vanish."""
    listener = tiny.Listener()

    class Slow(FolderStore):
        def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
            until = min(int(message.removeprefix("step ")) + 2, 8)
            for _ in range(3000):
                newest = Checkpoint.newest(out)
                if newest is not None and newest.step >= until:
                    break
                threading.Event().wait(0.01)
            super().change(add, remove, message)

    monkeypatch.setattr(engine_run, "open_store", lambda _: Slow(mirror))
    every = CheckpointingConfig(every=1, every_time=None, keep=1, mirror=f"dir:{mirror}")
    go(out, listener, checkpoint=every, eval=None)
    assert not [text for text in listener.said if "was not copied" in text]
    assert [c.step for c in Checkpoint.all_of(out)] == [c.step for c in Checkpoint.all_of(mirror)] == [8]
