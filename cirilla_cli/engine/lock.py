"""What may not change under the feet of a run: its recipe, its data, the model it is measured against, its machine."""

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy
import torch

from cirilla_cli import __version__
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.fs import hash_file, hash_json, read_object, write_json
from cirilla_cli.progress import Progress

FILE = "lock.json"
VERSION = 2
_OVER = "--fresh starts the run over, --out names another folder"
_FREE = ("log", "eval", "checkpoint", "train.divergence", "device", "out", "name", "extends")
_LENGTH = ("train.steps", "train.tokens", "train.epochs")


def machine(device: torch.device, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """What the last bits of a float depend on."""
    return {
        "device": device.type,
        "compute": str(dtype).removeprefix("torch."),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def weights_hash(folder: Path) -> str:
    """SHA-256 of a model's weights: all of its safetensors files, in the order of their names."""
    files = (file for file in folder.glob("*.safetensors") if file.name != "optimizer.safetensors")
    return hash_json([[file.name, hash_file(file)] for file in sorted(files)])


@dataclass(frozen=True)
class Began:
    """What a run begins with, besides its recipe."""

    data: Mapping[str, str]
    """What each source's shards hold."""
    files: Mapping[str, Mapping[str, Any]]
    """Size and time of change of the shards' files, so that they need not be read again while these stay."""
    base: str | None
    """`weights_hash` of the model it starts from; None for fresh weights."""
    machine: Mapping[str, Any]


def write_lock(out: Path, resolved: Mapping[str, Any], began: Began, settled: Mapping[str, Any]) -> None:
    """Write `lock.json` at the start of a run.

    Args:
        settled: what the recipe left to the run, by key.
    """
    versions = {"cirilla": __version__, "python": platform.python_version(), "numpy": numpy.__version__}
    write_json(
        out / FILE,
        {
            "version": VERSION,
            # Two runs of one recipe are two runs.
            "run": uuid4().hex,
            "resolved": dict(resolved),
            "settled": dict(settled),
            **asdict(began),
            "versions": versions,
            "git": _git_commit(),
        },
    )


def read_lock(path: Path) -> dict[str, Any]:
    """The lock of a run.

    Raises:
        CirillaError: it is damaged, or another version wrote it.
    """
    lock = read_object(path)
    if lock.get("version") != VERSION:
        raise CirillaError(
            f"{path}: lock format version {lock.get('version')}, this program reads {VERSION}", hint=_OVER
        )
    wrong = [f"`{key}`" for key in ("resolved", "data", "files", "machine") if not isinstance(lock.get(key), dict)]
    wrong += [] if isinstance(lock.get("base", 0), str | None) else ["`base`"]
    if wrong:
        raise CirillaError(f"{path}: {', '.join(wrong)} missing or of the wrong type: the file is damaged", hint=_OVER)
    return lock


def check_same_run(out: Path, resolved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The lock of the run in ``out``, None if there is none yet.

    Raises:
        CirillaError: it is damaged, or another recipe began the run; every difference is named.
    """
    path = out / FILE
    if not path.is_file():
        return None
    lock = read_lock(path)
    before, now = dict(_flat(lock["resolved"])), dict(_flat(resolved))
    free = _FREE if now.get("schedule.kind") == "cosine" else (*_FREE, *_LENGTH)
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == f or key.startswith(f + ".") for f in free)
    ]
    if changed:
        lines = [f"{out}: `{key}` was {before.get(key)!r}, is {now.get(key)!r}" for key in changed]
        raise CirillaError(
            "this run was begun with another recipe:\n" + "\n".join(lines),
            hint="--fresh starts it over, --out names another folder",
            where=[Where(str(path), None, key, now.get(key), f"{before.get(key)!r}") for key in changed],
        )
    return lock


def check_data(out: Path, lock: Mapping[str, Any], data: Mapping[str, str], altered: Sequence[Path]) -> None:
    """Raises: CirillaError: the data is not what the run began with, or files of it were ``altered``."""
    other = [name for name in data if lock["data"].get(name) != data[name]]
    if other:
        raise CirillaError(
            f"{out}: the data of {', '.join(other)} has changed since this run began",
            hint="put back what it began with and it goes on; --fresh starts it over with the new data",
        )
    if altered:
        raise CirillaError(
            "\n".join(f"{path}: its bytes are no longer those that were tokenized" for path in altered),
            hint="put the file back, or remove its folder and tokenize the same rows again; then the run goes on",
        )


def check_base(out: Path, lock: Mapping[str, Any], base: str | None, path: Path) -> None:
    """Raises: CirillaError: the model in ``path`` has other weights than the one the run began from."""
    if lock["base"] != base:
        raise CirillaError(
            f"{out}: the weights in {path} are not those that this run began from",
            hint="put the model that it began from back, or start over from this one with --fresh",
        )


def say_machine_changes(lock: Mapping[str, Any], now: Mapping[str, Any], progress: Progress) -> None:
    """Say what will keep a resumed run from being bit-for-bit the uninterrupted one."""
    for key, value in now.items():
        before = lock["machine"].get(key)
        if before is not None and before != value:
            progress.say(
                f"note: {key} was {before}, is {value}; the run continues, but not bit-for-bit as it would have"
            )


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from _flat(child, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


def _git_commit() -> str | None:
    """The commit of the working directory, where there is one: the recipes usually stand in it."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=5)
    return done.stdout.strip() or None
