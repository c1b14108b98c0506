"""What a run may not change under the feet of its checkpoints: recipe, data, machine."""

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from cirilla_cli import __version__
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.fs import read_object, write_json
from cirilla_cli.progress import Progress

FILE = "lock.json"
_FREE = ("log", "eval", "checkpoint", "device", "out", "name", "extends")
_LENGTH = ("train.steps", "train.tokens", "train.epochs")


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What the last bits of a float depend on."""
    return {
        "device": device.type,
        "compute": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def write_lock(
    out: Path, resolved: Mapping[str, Any], data: Mapping[str, str], where: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    """Write `lock.json` at the start of a run."""
    versions = {"cirilla": __version__, "python": platform.python_version(), "numpy": numpy.__version__}
    write_json(
        out / FILE,
        {
            "version": 1, "resolved": dict(resolved), "data": dict(data), "machine": dict(where),
            "versions": versions, "git": _git_commit(), **extra,
        },
    )  # fmt: skip


def check_same_run(out: Path, resolved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The lock of the run in ``out``, None if there is none yet.

    Raises:
        CirillaError: another recipe began it; every difference is named.
    """
    path = out / FILE
    if not path.is_file():
        return None
    lock = read_object(path)
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


def check_data(out: Path, lock: Mapping[str, Any], data: Mapping[str, str]) -> None:
    """Raises: CirillaError: the data is not what the run began with."""
    other = [name for name in data if lock["data"].get(name) != data[name]]
    if other:
        raise CirillaError(
            f"{out}: the data of {', '.join(other)} has changed since this run began",
            hint="--fresh starts it over with the new data",
        )


def say_machine_changes(lock: Mapping[str, Any], now: Mapping[str, Any], progress: Progress) -> None:
    """Say what will keep a resumed run from being bit-for-bit the uninterrupted one."""
    for key, value in now.items():
        before = lock["machine"].get(key)
        if before != value:
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
