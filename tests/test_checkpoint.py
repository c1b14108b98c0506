"""Checkpoints are whole or not there, and nothing that happens to a write costs the last good one."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cirilla_cli.checkpoint import Checkpoint, load_weights, newest_sound, prune, set_aside_after, write_checkpoint
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig

Save = Callable[..., Checkpoint]


def shape(d_model: int = 16) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=32, d_model=d_model, n_layers=1, context_length=16, mixers={"A": AttentionConfig(n_heads=2)},
        mlp=SwiGLUConfig(d_ff=24),
    )  # fmt: skip


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None: ...


def save(run: Path, step: int, d_model: int = 16) -> Checkpoint:
    """A checkpoint of a model that has taken one step, whose seed is ``step``."""
    model = fresh(shape(d_model), seed=step)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return write_checkpoint(
        run, step, model, tokenizer=None, optimizer=optimizer, state={"step": step, "verb": "pretrain"},
        texts={"recipe.yaml": "recipe: 1\n"},
    )  # fmt: skip


def alike(model: Decoder, path: Path) -> bool:
    return all(
        torch.equal(model.state_dict()[name], value) for name, value in load_file(path / "model.safetensors").items()
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path, 7)
    assert saved == Checkpoint.newest(tmp_path)
    assert saved.path.name == "step-000007"
    assert saved.verify() == []
    assert alike(saved.load_model(), saved.path)
    assert saved.state() == {"step": 7, "verb": "pretrain"}
    assert saved.model_config() == shape()
    files = {path.name for path in saved.path.iterdir()}
    assert files == {
        "model.safetensors",
        "optimizer.safetensors",
        "model.json",
        "state.json",
        "recipe.yaml",
        "MANIFEST.json",
    }


def test_a_fused_optimizers_step_count_lives_with_its_parameter(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    model = saved.load_model().to("meta")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.param_groups[0]["fused"] = True
    saved.load_optimizer(optimizer, model)
    assert {value.device.type for state in optimizer.state.values() for value in state.values()} == {"meta"}
    optimizer.param_groups[0]["fused"] = False
    saved.load_optimizer(optimizer, model)
    assert {state["step"].device.type for state in optimizer.state.values()} == {"cpu"}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half-written weights": lambda p: _cut(p / "model.safetensors"),
    "missing weights": lambda p: (p / "model.safetensors").unlink(),
    "half-written optimizer": lambda p: _cut(p / "optimizer.safetensors"),
    "missing manifest": lambda p: (p / "MANIFEST.json").unlink(),
    "half-written manifest": lambda p: _cut(p / "MANIFEST.json"),
    "empty manifest": lambda p: (p / "MANIFEST.json").write_bytes(b""),
    "garbled manifest": lambda p: (p / "MANIFEST.json").write_bytes(b"\xff\xfe\x00"),
    "manifest of something else": lambda p: (p / "MANIFEST.json").write_text("[]"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_incomplete_checkpoint_is_passed_over(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 2)
    DAMAGE[damage](save(tmp_path, 4).path)
    newest = Checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.step == 2
    assert alike(newest.load_model(), newest.path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_with_a_flipped_bit_is_passed_over_on_resume(name: str, tmp_path: Path) -> None:
    """Its size is right, only its bytes are not those that were written."""
    save(tmp_path, 2)
    broken = save(tmp_path, 4)
    _flip(broken.path / name)
    listener = Listener()
    sound = newest_sound(tmp_path, listener)
    assert sound is not None
    assert sound.step == 2
    assert [name in text and str(broken.path) in text for text in listener.said] == [True]
    set_aside_after(tmp_path, 2)
    assert Checkpoint.newest(tmp_path) == sound
    assert (tmp_path / "checkpoints" / "damaged-step-000004" / name).is_file()


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    left = tmp_path / "checkpoints" / ".step-000006.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    prune(tmp_path, 2, (2, None))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000004",
        "step-000005",
    ]


def test_every_file_is_synced_by_a_handle_that_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to sync what is open for reading alone."""
    fcntl = pytest.importorskip("fcntl")
    synced, sync = {}, os.fsync

    def note(handle: int) -> None:
        sync(handle)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            synced[os.fstat(handle).st_ino] = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE

    monkeypatch.setattr(os, "fsync", note)
    saved = save(tmp_path, 1)
    assert {path.stat().st_ino for path in saved.path.iterdir()} <= synced.keys()
    assert os.O_RDONLY not in synced.values()


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    newest = Checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.step == 1_000_000


def test_weights_of_another_model_are_refused_in_one_message(tmp_path: Path) -> None:
    small, large = save(tmp_path / "small", 1), save(tmp_path / "large", 1, d_model=32)
    with pytest.raises(CirillaError) as caught:
        load_weights(small.model_config(), [large.path / "model.safetensors"])
    text = str(caught.value)
    assert text.startswith(f"{large.path / 'model.safetensors'}: weights of another model")
    assert "`model.embed_tokens.weight` has shape [32, 32], the model wants [32, 16]" in text
    assert text.count("\n") <= 6


@pytest.mark.parametrize("change", ["left out", "added"])
def test_missing_and_left_over_weights_are_named(change: str, tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    tensors = load_file(saved.path / "model.safetensors")
    if change == "added":
        tensors["model.extra.weight"] = torch.zeros(1)
    else:
        del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "other.safetensors")
    expected = "`model.extra.weight` is not a weight" if change == "added" else "`model.norm.weight` is missing"
    with pytest.raises(CirillaError, match=expected):
        load_weights(saved.model_config(), [tmp_path / "other.safetensors"])


def test_a_damaged_file_is_one_message(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    for name in ("model.safetensors", "optimizer.safetensors"):
        (saved.path / name).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not safetensors")
    model = fresh(shape(), seed=0)
    with pytest.raises(CirillaError, match=r"model\.safetensors: cannot be read"):
        saved.load_model()
    with pytest.raises(CirillaError, match=r"optimizer\.safetensors: cannot be read"):
        saved.load_optimizer(torch.optim.AdamW(model.parameters()), model)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    path = saved.path / "model.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(CirillaError, match="format version 9, this program reads 1"):
        saved.model_config()


def test_a_shape_that_cannot_be_is_refused_in_plain_words(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    path = saved.path / "model.json"
    path.write_text(path.read_text().replace('"pattern": "A"', '"pattern": "B"'))
    with pytest.raises(CirillaError, match=r"model\.json: `model`: pattern names 'B', but mixers has A$"):
        saved.model_config()


# A full disk


def save_until_refused(run: Path) -> str:
    """Checkpoints of ever more steps until one cannot be written; returns the message."""
    for step in range(4, 400, 2):
        try:
            save(run, step)
        except CirillaError as error:
            return str(error)
    pytest.fail("nothing was refused")


def assert_last_is_loadable(message: str, run: Path) -> None:
    newest = Checkpoint.newest(run)
    assert newest is not None
    assert message.endswith(f"the disk is full; the last checkpoint is {newest.path}")
    assert "\n" not in message
    assert newest.verify() == []
    assert alike(newest.load_model(), newest.path)
    assert not list((run / "checkpoints").glob(".step-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs Linux and privileges")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint_loadable(small_disk: Path) -> None:
    assert_last_is_loadable(save_until_refused(small_disk / "run"), small_disk / "run")


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Sets the system's limit on the size of a file, which is lifted again after the test."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 1000, 20_000])
def test_a_limit_on_a_files_size_leaves_the_last_checkpoint_loadable(
    size: int, tmp_path: Path, limit_file_size: Callable[[int], None]
) -> None:
    """The smaller ones stop JSON files and weights, the largest the optimizer's state."""
    save(tmp_path, 2)
    limit_file_size(size)
    message = save_until_refused(tmp_path)
    limit_file_size(1 << 30)
    assert_last_is_loadable(message, tmp_path)
