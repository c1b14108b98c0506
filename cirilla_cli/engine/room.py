"""Whether the disk has room for all checkpoints of a run, asked before its first step."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cirilla_cli.engine.divergence import ANCHORS
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.errors import CirillaError
from cirilla_cli.mirror import folder_of
from cirilla_cli.units import show_bytes


def checkpoints_at_once(job: Job) -> int:
    """Most checkpoints that stand on disk at once: those kept, and the one being written."""
    watch, mirrored = job.train.divergence, job.checkpoint.mirror is not None
    anchors = ANCHORS if watch is not None and watch.action == "rollback" else 0
    return job.checkpoint.keep + (job.eval is not None) + anchors + mirrored + 1


def checkpoint_bytes(trainer: Trainer) -> int:
    """Most that a checkpoint takes: weights, their average, and what the optimizer will hold of each."""
    weights = sum(_bytes(tensor) for tensor in trainer.model.state_dict().values())
    moments = sum(
        _moments(group, parameter.numel()) for group in trainer.optimizer.param_groups for parameter in group["params"]
    )
    return weights * (2 if trainer.average is not None else 1) + moments


def _moments(group: Mapping[str, Any], numel: int) -> int:
    """Bytes of what is kept of a parameter of so many numbers: as its group says, else one or two in float32."""
    if "state_bytes" in group:
        return int(group["state_bytes"](numel))
    return 4 * numel * (1 if group.get("muon") else 2)


def check_room(job: Job, trainer: Trainer) -> None:
    """Raises: CirillaError: a disk that checkpoints go to has too little room for them."""
    each, count = checkpoint_bytes(trainer), checkpoints_at_once(job)
    places = [job.out, *([folder] if job.checkpoint.mirror and (folder := folder_of(job.checkpoint.mirror)) else [])]
    wanted: dict[int, int] = {}
    for place in places:
        disk = os.stat(_existing(place)).st_dev
        wanted[disk] = wanted.get(disk, 0) + max(0, each * count - _held(place / "checkpoints"))
    for place in places:
        above = _existing(place)
        free, missing = shutil.disk_usage(above).free, wanted[os.stat(above).st_dev]
        if missing > free:
            raise CirillaError(
                f"{place}: up to {count} checkpoints of {show_bytes(each)} will stand there at once "
                f"(`checkpoint.keep` is {job.checkpoint.keep}), which takes {show_bytes(missing)} more; "
                f"{show_bytes(free)} are free",
                hint="free space, checkpoint.keep=1, or --out on another disk",
            )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _existing(path: Path) -> Path:
    return next(above for above in (path.absolute(), *path.absolute().parents) if above.exists())


def _held(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
