"""When checkpoints are written, where copies of them go, and which are kept."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cirilla_cli.checkpoint import Checkpoint, Snapshot, kept_steps, prune, set_aside_after, snapshot
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.engine.background import Background
from cirilla_cli.engine.config import CheckpointingConfig, DivergenceConfig
from cirilla_cli.engine.hooks import Quiet, due
from cirilla_cli.engine.interrupt import Interrupts
from cirilla_cli.engine.mirroring import Mirroring
from cirilla_cli.engine.trainer import Metrics, Trainer, TrainState
from cirilla_cli.errors import InterruptedRun
from cirilla_cli.fs import write_json
from cirilla_cli.units import span_steps

REQUEST = "save"
"""A file of this name in the run asks for a checkpoint, and goes once that is written."""


def needed_steps(state: TrainState, watch: DivergenceConfig | None) -> set[int | None]:
    """Steps whose checkpoints stay, besides the newest: the best, and those that a run may go back to."""
    anchors = state.watched.anchors if watch is not None and watch.action == "rollback" else []
    return {state.best_step, *anchors}


@dataclass(frozen=True)
class Sitting:
    """What lives as long as one sitting of a run."""

    interrupts: Interrupts = field(default_factory=Interrupts)
    writer: Background = field(default_factory=Background)
    mirror: Mirroring | None = None


@dataclass
class SaveCheckpoints(Quiet):
    """Saves on schedule, at a new best, when asked, at the end and when interrupted; must be the last hook."""

    config: CheckpointingConfig
    out: Path
    tokenizer: Tokenizer | None
    texts: Mapping[str, str]
    sitting: Sitting
    verb: str
    prefer_best: bool
    _saved_at: float = field(default=0.0, init=False)

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock, and put the folder in order where a crash left it otherwise."""
        self._saved_at = time.monotonic()
        if not trainer.ranks.leads:
            return
        set_aside_after(self.out, trainer.state.step)
        if trainer.state.step:
            self._tidy(trainer.state.best_step, self._needed(trainer))
            newest = Checkpoint.newest(self.out)
            assert newest is not None
            self._offer(newest, self._needed(trainer))

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Save when it is due."""
        self.sitting.writer.check()
        step, age, request = trainer.state.step, time.monotonic() - self._saved_at, self.out / REQUEST
        late = self.config.every_time is not None and age >= self.config.every_time
        leads, told = trainer.ranks.leads, self.sitting.interrupts.requested is not None
        late, asked, told = trainer.ranks.agreed(leads and late, leads and request.exists(), told)
        self.sitting.interrupts.requested = self.sitting.interrupts.requested or ("another process" if told else None)
        ending = trainer.stop is not None or told
        by_steps = due(step, span_steps(self.config.every, trainer.steps), trainer.steps)
        if by_steps:
            trainer.state.watched.mark(step)
        if by_steps or late or ending or asked or metrics.get("best"):
            self._save(trainer)
        if asked or ending:
            self.sitting.writer.wait()
            trainer.ranks.agreed(True)  # none leaves before the first has written
            request.unlink(missing_ok=True)
        if ending:
            self._level()
        # Whoever interrupts from here on is heard after the next step: this one may not be saved.
        if told and step < trainer.steps:
            raise InterruptedRun(
                f"{self.sitting.interrupts.requested}: stopped after step {step} of {trainer.steps}, "
                f"state saved in {self.out}",
                hint="the same command continues",
            )

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Return once everything is written, and copied."""
        self.sitting.writer.wait()
        if self.sitting.mirror is not None:
            self.sitting.mirror.settle()
            self._tidy(trainer.state.best_step, self._needed(trainer))
            self._level()

    def _save(self, trainer: Trainer) -> None:
        state = {**trainer.state.to_json(), "verb": self.verb, "steps": trainer.steps}
        held = snapshot(
            trainer.state.step, trainer.model, trainer.optimizer, state=state, tokenizer=self.tokenizer,
            texts=self.texts, average=None if trainer.average is None else trainer.average.state(),
        )  # fmt: skip
        held = replace(held, tensors={file: trainer.ranks.gathered(part) for file, part in held.tensors.items()})
        if not trainer.ranks.leads:
            return
        best, needed = trainer.state.best_step, self._needed(trainer)
        if self.config.asynchronous:
            # One at a time: the copy waits for the one before it, so that two never take memory at once.
            self.sitting.writer.wait()
            copied = held.copied()
            self.sitting.writer.start(lambda: self._write(copied, best, needed))
        else:
            self._write(held, best, needed)
        self._saved_at = time.monotonic()

    def _write(self, held: Snapshot, best: int | None, needed: Collection[int | None]) -> None:
        written = held.write(self.out)
        self._tidy(best, needed)
        self._offer(written, needed)

    def _offer(self, checkpoint: Checkpoint, needed: Collection[int | None]) -> None:
        """The mirror keeps what the run keeps, but not what stands here only until it is copied."""
        if self.sitting.mirror is not None:
            self.sitting.mirror.offer(checkpoint, kept_steps(self.out, self.config.keep, needed))

    def _level(self) -> None:
        if self.sitting.mirror is not None:
            self.sitting.mirror.level(Checkpoint.all_of(self.out))

    def _needed(self, trainer: Trainer) -> set[int | None]:
        return needed_steps(trainer.state, trainer.watch.config)

    def _tidy(self, best: int | None, needed: Collection[int | None]) -> None:
        """Remove what is not kept, and say in ``index.json`` which is the last, the best and the default."""
        copied = set() if self.sitting.mirror is None else self.sitting.mirror.held
        prune(self.out, self.config.keep, {*needed, *copied})
        kept = [c.step for c in Checkpoint.all_of(self.out)]
        entries = {
            "last": f"step-{kept[-1]:06d}",
            "best": f"step-{best:06d}" if best in kept else None,
            "default": "best" if self.prefer_best and best in kept else "last",
        }
        write_json(self.out / "checkpoints" / "index.json", entries)
