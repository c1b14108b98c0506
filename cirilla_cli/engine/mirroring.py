"""Copies checkpoints to their second place while training goes on."""

import tempfile
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine.background import Background
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.lock import FILE, check_same_run, read_lock
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.mirror import MARK, Store, check_mirror, held_steps, put
from cirilla_cli.progress import Progress


def admit(store: Store, job: Job, *, restart: bool) -> None:
    """Make a mirror ready for a run; nothing there is changed but what a killed copy left.

    Raises:
        CirillaError: the place holds something else than a mirror, or, unless the run starts over, of another run.
    """
    store.prepare()
    check_place(store, job, restart=restart)
    store.tidy()


def check_place(store: Store, job: Job, *, restart: bool) -> None:
    """Insist that a store may become, or is, the mirror of a run; changes nothing.

    Raises:
        CirillaError: see `admit`.
    """
    there = store.names()
    check_mirror(store, there)
    if FILE in there:
        with tempfile.TemporaryDirectory(prefix="cirilla-mirror-") as folder:
            records = store.read(FILE, Path(folder)).parent
            if not restart:
                check_mirrored(store, job, records)
            elif MARK not in there:
                _read_lock(store, records)


def check_mirrored(store: Store, job: Job, records: Path) -> None:
    """Raises: CirillaError: the mirror whose lock lies in ``records`` is not of the run in the job's `out`."""
    # A run that has nothing to go on from becomes the one in its mirror.
    here = check_same_run(job.out, job.resolved) if Checkpoint.all_of(job.out) else None
    try:
        there = check_same_run(records, job.resolved)
    except CirillaError as error:
        raise _of_another(store, f": {str(error).replace(str(records), store.where)}") from None
    # A first copy that was cut short left no checkpoint, and so nothing of a run.
    if here is not None and there is not None and here.get("run") != there.get("run") and held_steps(store):
        raise _of_another(store, f" of the same recipe: {store.where} is not the mirror of {job.out}")


def _read_lock(store: Store, records: Path) -> None:
    try:
        read_lock(records / FILE)
    except CirillaError as error:
        raise _of_another(store, f": {str(error).replace(str(records), store.where)}") from None


def _of_another(store: Store, what: str) -> CirillaError:
    return CirillaError(
        f"`checkpoint.mirror` holds another run{what}",
        hint="checkpoint.mirror names another place; --fresh starts over and replaces what is there",
    )


@dataclass
class Mirroring:
    """One copy at a time; a newer checkpoint takes the place of one that still waits.

    What fails is said, and tried again with the next checkpoint: training does not end for it.
    """

    store: Store
    run: Path
    progress: Progress
    _line: Background = field(default_factory=Background, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _waiting: tuple[Checkpoint, set[int]] | None = field(default=None, init=False)
    _copied: Checkpoint | None = field(default=None, init=False)
    _failure: str | None = field(default=None, init=False)

    @property
    def line(self) -> Background:
        """Where copies are made; leaving its block waits for them."""
        return self._line

    @property
    def held(self) -> set[int]:
        """Steps whose checkpoints are being copied, or are about to be, and must stay meanwhile."""
        with self._lock:
            waiting = [] if self._waiting is None else [self._waiting[0]]
            return {checkpoint.step for checkpoint in (*waiting, self._copied) if checkpoint is not None}

    def offer(self, checkpoint: Checkpoint, kept: Collection[int]) -> None:
        """Have a checkpoint copied; the mirror then holds it and what it has of those ``kept``."""
        with self._lock:
            self._waiting = checkpoint, set(kept)
            idle = self._copied is None
            if idle:
                self._copied = checkpoint
        if idle:
            self._line.start(self._copy_all)

    def settle(self) -> None:
        """Return once nothing is under way."""
        self._line.wait()

    def level(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Return once the mirror holds ``checkpoints``, also those that others took the place of, and no more."""
        self.settle()
        steps = [checkpoint.step for checkpoint in checkpoints]
        try:
            there = held_steps(self.store)
        except CirillaError as error:
            self._fail(checkpoints[-1], error)
            return
        lacking = [checkpoint for checkpoint in checkpoints if checkpoint.step not in there]
        if lacking or there > set(steps):
            # The newest last: with it goes what is not to be kept.
            for checkpoint in [*(c for c in lacking if c.step != steps[-1]), checkpoints[-1]]:
                self.offer(checkpoint, steps)
                self.settle()

    def check(self) -> None:
        """Raises: ServiceError: the newest checkpoint did not arrive."""
        if self._failure is not None:
            raise ServiceError(
                f"the run is saved, but {self.store.where} does not have its newest checkpoint: {self._failure}",
                hint="the same command tries again",
            )

    def _copy_all(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._copied = None
                    return
                (self._copied, kept), self._waiting = self._waiting, None
            try:
                put(self.store, self.run, self._copied, kept)
                self._failure = None
            except (CirillaError, OSError) as error:
                self._fail(self._copied, error)

    def _fail(self, checkpoint: Checkpoint, error: Exception) -> None:
        self._failure = str(error)
        self.progress.say(f"{self.store.where}: step {checkpoint.step} was not copied: {error}")
