"""What the command line asks of the engine: train a job, say what training it would do, forget a run."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from cirilla_cli.checkpoint import Checkpoint, newest_sound, no_room
from cirilla_cli.compat import compiling, is_lost_peer, pick_device, reproducible
from cirilla_cli.engine import auto
from cirilla_cli.engine.build import Inputs, build, lock_of, open_inputs
from cirilla_cli.engine.config import FSDPConfig
from cirilla_cli.engine.divergence import Diverged, NoWayBack, way_back
from cirilla_cli.engine.forecast import Target, forecast, shape_of
from cirilla_cli.engine.fresh import forget, start_over
from cirilla_cli.engine.hooks import AfterSteps
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.mirroring import Mirroring, admit, check_mirrored
from cirilla_cli.engine.parallel import Ranks, joined
from cirilla_cli.engine.plan import Plan, check_resumable, plan
from cirilla_cli.engine.report import TrainReport, report_of
from cirilla_cli.engine.room import check_room
from cirilla_cli.engine.saving import Sitting, needed_steps
from cirilla_cli.engine.trainer import Trainer, TrainState
from cirilla_cli.engine.verify import ResumeProof, verify_resume
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import NO_ROOM, write_json
from cirilla_cli.held import held
from cirilla_cli.mirror import Store, clear, fetch, open_store
from cirilla_cli.progress import Progress

__all__ = [
    "Diverged", "Job", "NoWayBack", "Plan", "ResumeProof", "Target", "TrainReport", "forecast", "forget", "plan",
    "train", "verify_resume",
]  # fmt: skip

_GRACE_S = 20.0


def train(
    job: Job,
    progress: Progress,
    *,
    restart: bool = False,
    insist: bool = False,
    settled: Callable[[], object] | None = None,
) -> TrainReport:
    """Run ``job``, or continue it where an earlier sitting ended.

    Args:
        restart: forget what the run directory holds (`--fresh`), once the new run is known to begin.
        insist: refuse to begin anew (`--resume`).
        settled: called after each step: whatever stays in memory is there once the first one is done.

    Raises:
        CirillaError: the recipe does not fit its data or the run that stands there, another process trains there, or
            the disk is full.
        InterruptedRun: stopped by a signal, state saved.
    """
    check_job(job)
    try:
        sharded = isinstance(job.parallel, FSDPConfig)
        strict = reproducible(job.deterministic), compiling(job.compile)
        with strict[0], strict[1], joined(job.place, pick_device(job.device), sharded=sharded) as ranks:
            # One process alone changes files.
            with held(job.out) if ranks.leads else nullcontext():
                return _train(job, ranks, progress, settled, restart=restart, insist=insist)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room(job.out, Path(error.filename or job.out)) from None
    except RuntimeError as error:
        if job.place.size == 1 or not is_lost_peer(error):
            raise
        # A launcher that has noticed ends this process meanwhile, and says which one is gone.
        time.sleep(_GRACE_S)
        raise CirillaError(
            f"{job.out}: another process of this run is gone",
            hint="the same command continues from the last checkpoint",
        ) from None


def _train(
    job: Job, ranks: Ranks, progress: Progress, settled: Callable[[], object] | None, *, restart: bool, insist: bool
) -> TrainReport:
    store = open_store(job.checkpoint.mirror) if job.checkpoint.mirror and ranks.leads else None
    if store is not None:
        admit(store, job, restart=restart)
    # The other processes wait for what the first finds.
    begun = start_over(job, progress) if restart and ranks.leads else None
    if restart and store is not None:
        clear(store)
    ranks.agreed(True)
    newest = _newest(job, ranks, None if restart else store, progress)
    lock = lock_of(job)
    if insist:
        check_resumable(job.out, newest)
    started = time.perf_counter()
    inputs = _opened(job, newest, begun, ranks, progress)
    job = auto.from_lock(job, lock)
    if auto.is_open(job):
        job = auto.settle(job, shape_of(job, inputs.prepared, None), ranks, progress)
    skips: list[list[int]] = []
    while True:
        sitting = Sitting(mirror=None if store is None else Mirroring(store, job.out, progress))
        trainer = build(job, lock, newest, inputs, sitting, ranks, progress)
        trainer.state.watched.skips = skips or trainer.state.watched.skips
        trainer.hooks = trainer.hooks if settled is None else [*trainer.hooks, AfterSteps(settled)]
        try:
            return _fit(job, trainer, sitting, started, progress)
        except Diverged as trouble:
            newest, skips = _way_back(job, trouble, ranks, progress), trouble.skips
        # As a new sitting would: the starting model may be the one that was trained.
        del trainer
        lock, inputs = lock_of(job), _opened(job, newest, None, ranks, progress)


def _way_back(job: Job, trouble: Diverged, ranks: Ranks, progress: Progress) -> Checkpoint:
    """The checkpoint to go back to after a divergence, which the first process chooses."""
    if not ranks.leads:
        step = ranks.told("")
        if not step:
            raise trouble
        return Checkpoint(int(step), job.out / "checkpoints" / f"step-{int(step):06d}")
    try:
        found = way_back(job.out, trouble, job.train.divergence, progress)
    except CirillaError:
        ranks.told("")
        raise
    ranks.told(str(found.step))
    return found


def _newest(job: Job, ranks: Ranks, store: Store | None, progress: Progress) -> Checkpoint | None:
    """The checkpoint that the run goes on from; where it has none, its mirror may."""
    found = newest_sound(job.out, progress) if ranks.leads else None
    if found is None and store is not None:
        found = fetch(store, job.out, partial(check_mirrored, store, job), partial(_needed, job), progress)
    step = ranks.told("" if found is None else str(found.step))
    return Checkpoint(int(step), job.out / "checkpoints" / f"step-{int(step):06d}") if step else None


def _needed(job: Job, newest: Checkpoint) -> set[int | None]:
    return needed_steps(TrainState.from_json(newest.state()), job.train.divergence)


def _opened(job: Job, newest: Checkpoint | None, begun: Inputs | None, ranks: Ranks, progress: Progress) -> Inputs:
    """What the run reads; rows are tokenized by the first process alone."""
    made = job.out / "shards"
    if ranks.leads:
        begun = begun or open_inputs(job, newest, made, progress)
        ranks.told(json.dumps({name: str(folder) for name, folder in begun.prepared.folders.items()}))
        return begun
    folders = {name: Path(folder) for name, folder in json.loads(ranks.told("")).items()}
    return open_inputs(job, newest, made, progress, paths=folders)


def _fit(job: Job, trainer: Trainer, sitting: Sitting, started: float, progress: Progress) -> TrainReport:
    begun = trainer.state.step
    done = trainer.done
    if done:
        trainer.stop = "it is done already"
    elif begun:
        progress.say(f"continuing {job.out} after step {begun} of {trainer.steps}")
    if trainer.ranks.leads and not done:
        check_room(job, trainer)
    # Only while there is something to save: before, Ctrl-C simply ends the program.
    copies = nullcontext() if sitting.mirror is None else sitting.mirror.line
    with sitting.interrupts, copies, sitting.writer:
        metrics = trainer.fit()
    if trainer.stop and not done:
        progress.say(f"stopped at step {trainer.state.step}: {trainer.stop}")
    report = report_of(job.out, trainer, metrics, time.perf_counter() - started, begun, done=done)
    # A run that was killed after its last checkpoint has none yet.
    if trainer.ranks.leads and not (done and (job.out / "report.json").is_file()):
        write_json(job.out / "report.json", {key: value for key, value in report.__dict__.items() if key != "out"})
    if sitting.mirror is not None:
        sitting.mirror.check()
    return report
