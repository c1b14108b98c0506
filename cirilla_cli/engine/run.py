"""What the command line asks of the engine: train a job, say what training it would do, forget a run."""

import time
from pathlib import Path

from cirilla_cli.checkpoint import newest_sound, no_room
from cirilla_cli.engine.build import build, open_inputs
from cirilla_cli.engine.fresh import forget, start_over
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.lock import check_same_run
from cirilla_cli.engine.plan import Plan, check_resumable, plan
from cirilla_cli.engine.report import TrainReport, report_of
from cirilla_cli.engine.saving import Sitting
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.fs import NO_ROOM, write_json
from cirilla_cli.progress import Progress

__all__ = ["Job", "Plan", "TrainReport", "forget", "plan", "train"]


def train(job: Job, progress: Progress, *, restart: bool = False, insist: bool = False) -> TrainReport:
    """Run ``job``, or continue it where an earlier sitting ended.

    Args:
        restart: forget what the run directory holds (`--fresh`), once the new run is known to begin.
        insist: refuse to begin anew (`--resume`).

    Raises:
        CirillaError: the recipe does not fit its data or the run that stands there, or the disk is full.
        InterruptedRun: stopped by a signal, state saved.
    """
    try:
        return _train(job, progress, restart=restart, insist=insist)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room(job.out, Path(error.filename or job.out)) from None


def _train(job: Job, progress: Progress, *, restart: bool, insist: bool) -> TrainReport:
    check_job(job)
    inputs = start_over(job, progress) if restart else None
    lock = check_same_run(job.out, job.resolved)
    newest = newest_sound(job.out, progress)
    if insist:
        check_resumable(job.out, newest)
    started = time.perf_counter()
    sitting = Sitting()
    inputs = inputs or open_inputs(job, newest, job.out / "shards", progress)
    trainer = build(job, lock, newest, inputs, sitting, progress)
    return _fit(job, trainer, sitting, started, progress)


def _fit(job: Job, trainer: Trainer, sitting: Sitting, started: float, progress: Progress) -> TrainReport:
    begun = trainer.state.step
    done = trainer.done
    if done:
        trainer.stop = "it is done already"
    elif begun:
        progress.say(f"continuing {job.out} after step {begun} of {trainer.steps}")
    # Only while there is something to save: before, Ctrl-C simply ends the program.
    with sitting.interrupts, sitting.writer:
        metrics = trainer.fit()
    if trainer.stop and not done:
        progress.say(f"stopped at step {trainer.state.step}: {trainer.stop}")
    report = report_of(job.out, trainer, metrics, time.perf_counter() - started, begun, done=done)
    # A run that was killed after its last checkpoint has none yet.
    if not (done and (job.out / "report.json").is_file()):
        write_json(job.out / "report.json", {key: value for key, value in report.__dict__.items() if key != "out"})
    return report
