"""A run's state on disk: safetensors and JSON in a folder that counts only once its manifest stands in it."""

import copy
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cirilla_cli import __version__
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import NO_ROOM, hash_file, named, read_json, read_object, sync_folder, write_json
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig, ShapeSection
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import Shape, empty
from cirilla_cli.progress import Progress

VERSION = 1
WEIGHTS, AVERAGE = "model.safetensors", "ema.safetensors"
_NAME = re.compile(r"^step-(\d+)$")
_SYSTEM_ERROR = re.compile(r"os error (\d+)")

Config = DecoderConfig | EncoderConfig | ClassifierConfig
M = TypeVar("M", bound=Model)
AnyM = TypeVar("AnyM", bound=Model, covariant=True)
AnyC = TypeVar("AnyC", bound=Config, covariant=True)


@dataclass(frozen=True)
class Found(Generic[AnyM, AnyC]):
    """A model ready to use, wherever it came from."""

    model: AnyM
    config: AnyC
    tokenizer: Tokenizer | None
    path: Path
    """The folder its weights were read from."""
    run: Path | None = None
    """The run directory it belongs to, where there is one."""
    step: int | None = None
    verb: str | None = None
    """What trained it last: pretrain, sft or dpo; None for imported models."""


AnyFound = Found[Model, Config]
"""A model of any kind."""
Loaded = Found[Decoder, DecoderConfig]
"""A language model, which continues text."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One complete checkpoint folder."""

    step: int
    path: Path

    @classmethod
    def all_of(cls, run: Path) -> list[Self]:
        """The complete checkpoints of a run, oldest first; folders without a fitting manifest are passed over."""
        folder = run / "checkpoints"
        found = (cls.at(path) for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
        return sorted(checkpoint for checkpoint in found if checkpoint is not None)

    @classmethod
    def newest(cls, run: Path) -> Self | None:
        """The complete checkpoint with the most steps."""
        return max(cls.all_of(run), default=None)

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The checkpoint in a folder, or None where its manifest is missing, unreadable, or sizes differ from it."""
        match, manifest = _NAME.match(path.name), path / "MANIFEST.json"
        if match is None or not manifest.is_file():
            return None
        try:
            files = read_json(manifest)["files"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            return None
        whole = all((path / n).is_file() and (path / n).stat().st_size == f["bytes"] for n, f in files.items())
        return cls(int(match[1]), path) if whole else None

    def state(self) -> dict[str, Any]:
        """The trainer's state as it was saved."""
        return read_object(self.path / "state.json")

    def model_config(self) -> Config:
        """The model's shape."""
        return read_model_config(self.path)

    def load_model(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Model:
        """The model with the weights that training goes on from."""
        return load_weights(self.model_config(), [self.path / WEIGHTS], device=device, dtype=dtype)

    @property
    def best_weights(self) -> Path:
        """The weights to use and to publish: their moving average where the run kept one."""
        average = self.path / AVERAGE
        return average if average.is_file() else self.path / WEIGHTS

    def load_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        placed: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Put the saved state back into ``optimizer``.

        Args:
            placed: a saved tensor as it is to lie beside its parameter; None for all of it on the same device.
        """
        placed = placed or on_its_device
        tensors = read_tensors([self.path / "optimizer.safetensors"])
        fused = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
        for name, parameter in model.named_parameters():
            own = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
            # Moments live with the parameter; AdamW keeps its step count on the CPU, unless one kernel does it all.
            optimizer.state[parameter] = {
                key: placed(value, parameter) if value.ndim or id(parameter) in fused else value
                for key, value in own.items()
            }

    def verify(self, but: Collection[str] = ()) -> list[str]:
        """Names of files whose bytes are not those the manifest recorded; those in ``but`` are not read."""
        files = read_json(self.path / "MANIFEST.json")["files"]
        return [n for n, info in files.items() if n not in but and hash_file(self.path / n) != info["sha256"]]


def on_its_device(value: Tensor, parameter: Tensor) -> Tensor:
    """A saved tensor beside the parameter that it belongs to."""
    return value.to(parameter.device)


def read_model_config(folder: Path) -> Config:
    """`model.json` of a checkpoint.

    Raises:
        CirillaError: it is missing, of another version, or not a model.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise CirillaError(f"{folder}: no model.json, so not a checkpoint")
    data = read_object(path)
    if data.get("version") != VERSION:
        raise CirillaError(f"{path}: checkpoint format version {data.get('version')}, this program reads {VERSION}")
    try:
        shape: Config = TypeAdapter(ShapeSection).validate_python(data["model"])
        return shape
    except ValidationError as error:
        first = error.errors()[0]
        # The first part is the kind, which the file says itself.
        key = ".".join(map(str, first["loc"][1:])) or "model"
        raise CirillaError(f"{path}: `{key}`: {first.get('ctx', {}).get('error', first['msg'])}") from None


def load_weights(
    config: Shape[M], files: list[Path], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> M:
    """A model of ``config`` with the tensors of ``files``, which must be exactly its own.

    Raises:
        CirillaError: tensors are missing, left over or of another shape, or a file is damaged.
    """
    return build_model(config, read_tensors(files, device), files[0], device=device, dtype=dtype)


def read_tensors(files: list[Path], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of safetensors files, by name.

    Raises:
        CirillaError: a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file, device=str(device)))
        except (SafetensorError, OSError) as error:
            raise CirillaError(f"{file}: cannot be read: {error}", hint="the file is damaged or half-written") from None
    return tensors


def build_model(
    config: Shape[M],
    tensors: Mapping[str, Tensor],
    source: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> M:
    """A model of ``config``, in float32 unless ``dtype`` says otherwise, with exactly the weights in ``tensors``.

    Raises:
        CirillaError: tensors are missing, left over or of another shape; ``source`` is named as where they come from.
    """
    model = empty(config, device)
    refuse_misfit(model.state_dict(), tensors, source)
    model.load_state_dict(tensors)
    if dtype is not None:
        model.to(dtype)
    return model


def refuse_misfit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Insist on tensors of exactly the names and shapes of ``own``.

    Raises:
        CirillaError: what is missing, left over or of another shape, the first few by name; ``file`` is named.
    """
    wrong = [f"`{name}` is missing" for name in own if name not in tensors]
    wrong += [f"`{name}` is not a weight of this model" for name in tensors if name not in own]
    wrong += [
        f"`{name}` has shape {list(tensors[name].shape)}, the model wants {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        more = f"\n... and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CirillaError(f"{file}: weights of another model:\n" + "\n".join(wrong[:5]) + more)


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds, as it was at one moment."""

    step: int
    config: Config
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By the name of the file they go into."""
    state: Mapping[str, Any]
    tokenizer: Tokenizer | None
    texts: Mapping[str, str]
    """Small files that travel with the weights, such as the resolved recipe, by name."""

    def copied(self) -> Self:
        """The same in memory of its own, so that training may go on while it is written."""
        tensors = {
            file: {name: tensor.to("cpu", copy=True) for name, tensor in part.items()}
            for file, part in self.tensors.items()
        }
        return replace(self, tensors=tensors, state=copy.deepcopy(dict(self.state)))

    def write(self, run: Path) -> Checkpoint:
        """Write ``run/checkpoints/step-NNNNNN`` in full or not at all.

        Raises:
            CirillaError: the disk is full; what was saved before stays.
        """
        path = run / "checkpoints" / f"step-{self.step:06d}"
        building = path.with_name(f".{path.name}.tmp")
        try:
            _fill(building, self)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            if error.errno not in NO_ROOM:
                raise
            raise no_room(run, path) from None
        if path.exists():
            shutil.rmtree(path)
        os.replace(building, path)
        sync_folder(path.parent)
        return Checkpoint(self.step, path)


def snapshot(
    step: int,
    model: Model,
    optimizer: torch.optim.Optimizer,
    *,
    state: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    texts: Mapping[str, str],
    average: Mapping[str, Tensor] | None = None,
) -> Snapshot:
    """What a checkpoint of ``model`` after ``step`` holds; its tensors are those of the model, not copies.

    Args:
        average: the moving average of the weights, under their names.
    """
    tensors = {WEIGHTS: model.state_dict(), "optimizer.safetensors": _optimizer_tensors(optimizer, model)}
    if average is not None:
        tensors[AVERAGE] = dict(average)
    return Snapshot(step, model.config, tensors, state, tokenizer, texts)


def write_checkpoint(
    run: Path,
    step: int,
    model: Model,
    *,
    tokenizer: Tokenizer | None,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    texts: Mapping[str, str],
) -> Checkpoint:
    """Write a `snapshot` of now."""
    return snapshot(step, model, optimizer, state=state, tokenizer=tokenizer, texts=texts).write(run)


def no_room(run: Path, path: Path) -> CirillaError:
    """The error for a run that could not write ``path`` for want of space."""
    last = Checkpoint.newest(run)
    kept = f"the last checkpoint is {last.path}" if last else "there is no earlier checkpoint"
    return CirillaError(f"{path}: the disk is full; {kept}", hint="free space, then run the same command again")


def _fill(folder: Path, held: Snapshot) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, tensors in held.tensors.items():
        save_tensors(tensors, folder / name)
    write_json(folder / "model.json", {"version": VERSION, "model": held.config.model_dump(mode="json")})
    write_json(folder / "state.json", dict(held.state))
    for name, text in held.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if held.tokenizer is not None:
        held.tokenizer.save(folder)
    files = {file.name: {"bytes": file.stat().st_size, "sha256": hash_file(file)} for file in sorted(folder.iterdir())}
    for name in files:
        # Windows syncs only what is open for writing.
        with (folder / name).open("r+b") as handle:
            os.fsync(handle.fileno())
    manifest = {"version": VERSION, "cirilla": __version__, "torch": torch.__version__, "files": files}
    write_json(folder / "MANIFEST.json", manifest)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; its errors are the system's."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise named(system_error(error), path) from error


def system_error(error: SafetensorError) -> OSError:
    """The system's error that safetensors hides in its text."""
    number = _SYSTEM_ERROR.search(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def kept_steps(run: Path, keep: int, needed: Collection[int | None]) -> list[int]:
    """Steps of the newest ``keep`` checkpoints and of those ``needed``, first to last."""
    steps = [checkpoint.step for checkpoint in Checkpoint.all_of(run)]
    return [step for step in steps if step in steps[-keep:] or step in needed]


def prune(run: Path, keep: int, needed: Collection[int | None]) -> None:
    """Remove checkpoints but the newest ``keep`` and those ``needed``, and what crashed writes and removals left."""
    kept = kept_steps(run, keep, needed)
    for checkpoint in Checkpoint.all_of(run):
        if checkpoint.step not in kept:
            _hide(checkpoint)
    for left in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def drop_after(run: Path, step: int) -> None:
    """Remove the checkpoints of later steps than ``step``."""
    for checkpoint in reversed(Checkpoint.all_of(run)):
        if checkpoint.step > step:
            _hide(checkpoint)


def _hide(checkpoint: Checkpoint) -> None:
    """Out of sight at once, so that a crash leaves no half of a checkpoint; `prune` removes what is hidden."""
    hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.old.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(checkpoint.path, hidden)


def newest_sound(run: Path, progress: Progress) -> Checkpoint | None:
    """The newest checkpoint whose every byte is the one that was written; damaged ones are named and passed over."""
    for checkpoint in reversed(Checkpoint.all_of(run)):
        damaged = checkpoint.verify()
        if not damaged:
            return checkpoint
        progress.say(f"{checkpoint.path}: {', '.join(damaged)} is damaged; looking for an earlier checkpoint")
    return None


def set_aside_after(run: Path, step: int) -> None:
    """Rename checkpoints of later steps, which are damaged where the run goes on from ``step``, so that none counts."""
    for checkpoint in Checkpoint.all_of(run):
        if checkpoint.step > step:
            aside = checkpoint.path.with_name(f"damaged-{checkpoint.path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(checkpoint.path, aside)


def load_checkpoint(
    checkpoint: Checkpoint, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Found[Model, Config]:
    """A checkpoint's tokenizer and model, with the moving average of its weights where there is one.

    Raises:
        CirillaError: a file that is read is not as it was written: its size may be right and one of its bits wrong.
    """
    path = checkpoint.path
    has_tokenizer = any((path / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
    found = Found(
        model=load_weights(checkpoint.model_config(), [checkpoint.best_weights], device=device, dtype=dtype),
        config=checkpoint.model_config(),
        tokenizer=load_tokenizer(path) if has_tokenizer else None,
        path=path,
        run=path.parent.parent,
        step=checkpoint.step,
        verb=checkpoint.state().get("verb"),
    )
    # Last: what cannot be read at all has said more of it.
    _refuse_damaged(checkpoint)
    return found


def _refuse_damaged(checkpoint: Checkpoint) -> None:
    unread = {WEIGHTS, AVERAGE, "optimizer.safetensors"} - {checkpoint.best_weights.name}
    if damaged := checkpoint.verify(but=unread):
        raise CirillaError(
            f"{checkpoint.path}: {', '.join(damaged)}: damaged, the bytes are not those that were written",
            hint="name another checkpoint of the run; continuing the run passes over damaged ones",
        )
