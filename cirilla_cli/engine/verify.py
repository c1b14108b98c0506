"""Proves that a run can be continued exactly: from its checkpoint before the newest, to the newest again."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirilla_cli.checkpoint import Checkpoint, read_tensors, snapshot
from cirilla_cli.compat import compiling, reproducible
from cirilla_cli.engine import auto
from cirilla_cli.engine.build import build, lock_of, open_inputs
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.engine.saving import Sitting
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress

_STATE = ("step", "tokens", "scaling")
_SHOWN = 8


@dataclass(frozen=True)
class ResumeProof:
    """What was proved; `--json` prints it."""

    out: str
    begun: int
    """Step of the checkpoint that was continued from; 0 for the beginning of the run."""
    step: int
    tensors: int
    """Tensors of weights, their average and the optimizer, each equal in every bit."""
    seconds: float
    damaged: list[str] = field(default_factory=list)
    """Names of checkpoints that were passed over, because bytes of theirs are not those that were written."""


def verify_resume(job: Job, progress: Progress) -> ResumeProof:
    """Replay the run from its checkpoint before the newest, or from its beginning where there is one, and compare.

    Nothing in the run is changed.

    Raises:
        CirillaError: there is no checkpoint, or the replay arrives elsewhere; the tensors that differ are named.
    """
    check_job(job)
    with reproducible(job.deterministic), compiling(job.compile):
        return _verify(job, progress)


def _verify(job: Job, progress: Progress) -> ResumeProof:
    started = time.perf_counter()
    if job.place.size > 1:
        raise CirillaError("--verify-resume replays in one process", hint="leave --nproc out")
    lock = lock_of(job)
    sound, damaged = _judged(job.out)
    for path, what in damaged.items():
        progress.say(f"{path}: {what}; passed over")
    if damaged and not sound:
        lines = "\n".join(f"{path}: {what}" for path, what in damaged.items())
        raise CirillaError(
            f"{job.out}: every checkpoint is damaged, so that none can be verified:\n{lines}",
            hint="leave --verify-resume out: training fetches a sound one from checkpoint.mirror, or begins again",
        )
    if lock is None or not sound:
        raise CirillaError(f"{job.out}: no checkpoint to verify", hint="leave --verify-resume out to train")
    newest, before = sound[-1], sound[-2] if len(sound) > 1 else None
    inputs = open_inputs(job, before, job.out / "shards", progress)
    job = auto.from_lock(job, lock)
    trainer = build(job, lock, before, inputs, Sitting(), ALONE, progress)
    begun = trainer.state.step
    progress.say(f"{job.out}: replaying steps {begun + 1} to {newest.step}")
    _replay(trainer, newest)
    count, wrong = _compare(trainer, newest)
    if wrong:
        more = f"\n... and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise CirillaError(
            f"{newest.path}: replayed from step {begun}, {len(wrong)} of {count} tensors and figures differ:\n"
            + "\n".join(wrong[:_SHOWN]) + more,
            hint="another machine, number of threads or version is said above; on a GPU, deterministic=true",
        )  # fmt: skip
    seconds, names = round(time.perf_counter() - started, 2), [path.name for path in damaged]
    return ResumeProof(str(job.out), begun, newest.step, count - len(_STATE), seconds, names)


def _judged(out: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """The sound checkpoints of a run, oldest first, and what is wrong with the others, by their folders."""
    whole = Checkpoint.all_of(out)
    wrong = {checkpoint: checkpoint.verify() for checkpoint in whole}
    damaged = {c.path: f"{', '.join(names)} is damaged" for c, names in wrong.items() if names}
    for path in sorted((out / "checkpoints").glob("step-*")):
        if path not in {checkpoint.path for checkpoint in whole}:
            damaged[path] = "files are missing or cut short"
    return [checkpoint for checkpoint in whole if not wrong[checkpoint]], damaged


def _replay(trainer: Trainer, newest: Checkpoint) -> None:
    """The steps alone: nothing is evaluated, logged or saved."""
    trainer.hooks, trainer.steps = (), newest.step
    # Batches that a divergence left out on the way are left out again.
    trainer.state.watched.skips = newest.state().get("watched", {}).get("skips", [])
    trainer.fit()


def _compare(trainer: Trainer, saved: Checkpoint) -> tuple[int, list[str]]:
    """How many tensors and figures there are, and a line for each that is not the same."""
    average = None if trainer.average is None else trainer.average.state()
    now = snapshot(
        saved.step, trainer.model, trainer.optimizer, state={}, tokenizer=None, texts={}, average=average
    ).copied()
    count, wrong = 0, []
    for file, tensors in now.tensors.items():
        then = read_tensors([saved.path / file])
        count += len(then.keys() | tensors.keys())
        names = sorted(then.keys() | tensors.keys())
        wrong += [f"{file}: {text}" for name in names if (text := _difference(name, then.get(name), tensors.get(name)))]
    state, before = trainer.state.to_json(), saved.state()
    wrong += [f"state.json: `{k}` was {before.get(k)}, is {state[k]}" for k in _STATE if state[k] != before.get(k)]
    return count + len(_STATE), wrong


def _difference(name: str, then: Tensor | None, now: Tensor | None) -> str:
    """What differs between two tensors of one name; empty if no bit does."""
    if then is None or now is None:
        return f"`{name}` is only {'in the replay' if then is None else 'saved'}"
    if _bits(then) == _bits(now):
        return ""
    apart: Any = (then.double() - now.double()).abs()
    return (
        f"`{name}` differs in {int((apart > 0).sum())} of {then.numel()} numbers, by {float(apart.max()):.3g} at most"
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
