"""Starting a run over (`--fresh`): the earlier run goes only once nothing can refuse the new one."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cirilla_cli.compat import pick_device
from cirilla_cli.data.config import folders_of
from cirilla_cli.data.inputs import input_files
from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.engine.build import Inputs, model_of, open_inputs
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.shards import find_shards
from cirilla_cli.engine.sources import cut_of, source_of
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress, Silent

_OWN = (
    "checkpoints",
    "metrics.jsonl",
    "samples.jsonl",
    "lock.json",
    "curves.png",
    "shards",
    "tensorboard",
    "wandb",
    "wandb.json",
    "report.json",
    "report.html",
)
_PICTURES = "report-*.png"
"""What `cirilla report` writes beside the page."""

_BESIDE = ".fresh"
"""Where rows are tokenized while the earlier run still stands."""


def start_over(job: Job, progress: Progress) -> Inputs:
    """Forget the run in the job's `out` and return what the new one reads.

    Everything that can be refused without a training step is tried first; rows are tokenized beside the earlier run,
    and their shards put into its place.

    Raises:
        CirillaError: the new run cannot begin; the earlier one is as it was.
    """
    check_job(job)
    keep_inputs(job)
    beside, place = job.out / _BESIDE / "shards", job.out / "shards"
    shutil.rmtree(beside.parent, ignore_errors=True)
    try:
        inputs = open_inputs(job, None, beside, progress)
        _rehearse(job, inputs)
        forget(job.out)
        if beside.is_dir():
            os.replace(beside, place)
    finally:
        shutil.rmtree(beside.parent, ignore_errors=True)
    return replace(inputs, prepared=inputs.prepared.moved(beside, place))


def _rehearse(job: Job, inputs: Inputs) -> None:
    """Build what may be refused, and let go of it: its shards are about to be renamed."""
    model = model_of(job, inputs, pick_device(job.device), None)
    source_of(job, inputs.prepared, cut_of(job, model.config.context_length, 0), Silent())
    job.optim.build(model)


def forget(out: Path) -> None:
    """Remove what a run wrote into ``out``, and nothing else."""
    for path in (*(out / name for name in _OWN), *out.glob(_PICTURES)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def keep_inputs(job: Job) -> None:
    """Raises: CirillaError: starting over would remove what the new run reads."""
    doomed = [path.resolve() for path in (*(job.out / name for name in _OWN), *job.out.glob(_PICTURES))]
    for read in _read(job):
        if any(read.resolve().is_relative_to(path) for path in doomed):
            raise CirillaError(
                f"{read}: this is read, and starting over in {job.out} would remove it",
                hint="--out names another folder",
            )


def _read(job: Job) -> Iterator[Path]:
    """Every folder of shards and every file of rows that the run reads, and its tokenizer."""
    if job.tokenizer is not None:
        yield from folders_of(job.tokenizer)
    for path in job.paths.values():
        found = find_shards(path, job.kinds) if path.is_dir() else None
        if found is not None:
            yield found
        elif path != STDIO:
            yield from input_files(path)
