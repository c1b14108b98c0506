"""Notices when training diverges, and finds the way back: an earlier checkpoint, and the batches to leave out."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from cirilla_cli.checkpoint import Checkpoint, drop_after
from cirilla_cli.engine.config import DivergenceConfig
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress

_HINT = (
    "lower `optim.lr`, lengthen `schedule.warmup`, or set `precision.compute: float32`; "
    "the same command continues from the last checkpoint"
)

ANCHORS = 3
"""Checkpoints to go back to that stay on disk: a run that diverges at once after a return goes back to the one before,
and again. The last one may be no way back, because the update after it is suspected too."""


@dataclass
class Watched:
    """What the watch remembers from step to step; part of a run's state."""

    mean: float = 0.0
    """Running mean of the loss."""
    variance: float = 0.0
    judged: int = 0
    """Losses in mean and variance."""
    since: int | None = None
    """The step from which on every loss was too high."""
    anchors: list[int] = field(default_factory=list)
    """The last steps that were saved on schedule while the loss was as usual: nothing but recipe and data decides them,
    so that a run that was interrupted goes back to the same one."""
    skips: list[list[int]] = field(default_factory=list)
    """Returns so far: the first step that read on after a gap, counted from 0, and the gap's batches."""

    def batch(self, step: int) -> int:
        """The batch that step ``step`` reads, both counted from 0."""
        for first, count in reversed(self.skips):
            step += count if step >= first else 0
        return step

    def left_out(self, step: int) -> int:
        """Batches between those of step ``step`` and the step before."""
        return self.batch(step) - (self.batch(step - 1) + 1 if step else 0)

    def mark(self, step: int) -> None:
        """Remember that ``step`` was saved on schedule."""
        if self.since is None:
            self.anchors = [*self.anchors, step][-ANCHORS:]


class NoWayBack(CirillaError):
    """A run that was to go back to a checkpoint after it diverged, and cannot; ``step`` is how far it came."""

    def __init__(self, message: str, *, hint: str | None, step: int) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class Diverged(CirillaError):
    """Training diverged at step ``last``; ``seen`` is what the watch knew by then."""

    def __init__(self, message: str, *, seen: Watched, last: int) -> None:
        super().__init__(message, hint=_HINT)
        self.step = last
        # The update before the first high loss may have caused it: its batch is left out too.
        self.first = max(1, (last if seen.since is None else seen.since) - 1)
        self.skips = [*seen.skips, [self.first - 1, last - self.first + 1]]
        self.anchors = [step for step in seen.anchors if step < self.first]


@dataclass(frozen=True)
class Watch:
    """Judges every step's loss."""

    config: DivergenceConfig | None = None

    def judge(self, seen: Watched, step: int, loss: float, norm: float) -> None:
        """Take note of step ``step``, counted from 1.

        Raises:
            Diverged: loss or gradient are not finite, or the loss was too high for too long.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {step}: the loss is {loss}, the gradient's length {norm}: training diverged",
                seen=seen, last=step,
            )  # fmt: skip
        if self.config is None or self.config.spike is None:
            return
        if self._too_high(seen, loss, self.config.spike):
            seen.since = step if seen.since is None else seen.since
            if step - seen.since + 1 >= self.config.patience:
                raise self._spike(seen, step, loss, self.config.spike)
            return
        seen.since = None
        rate = 2 / (min(self.config.window, seen.judged + 1) + 1)
        away = loss - seen.mean
        seen.mean += rate * away
        seen.variance = (1 - rate) * (seen.variance + rate * away * away)
        seen.judged += 1

    def _too_high(self, seen: Watched, loss: float, spike: float) -> bool:
        assert self.config is not None
        return seen.judged >= self.config.window and loss > seen.mean + spike * math.sqrt(seen.variance)

    def _spike(self, seen: Watched, step: int, loss: float, spike: float) -> Diverged:
        assert seen.since is not None
        return Diverged(
            f"step {step}: the loss is {loss:.4g}; since step {seen.since} it is more than {spike:g} standard "
            f"deviations ({math.sqrt(seen.variance):.2g}) above its running mean {seen.mean:.4g}: training diverged",
            seen=seen, last=step,
        )  # fmt: skip


def way_back(out: Path, trouble: Diverged, config: DivergenceConfig | None, progress: Progress) -> Checkpoint:
    """The checkpoint that a run which diverged goes on from; later ones are removed.

    Raises:
        Diverged: the recipe wants the run to stop.
        NoWayBack: it has come back often enough, or there is nowhere to go.
    """
    if config is None or config.action == "stop":
        raise trouble
    if len(trouble.skips) > config.most:
        said = f"{trouble}, after {config.most} returns to a checkpoint"
        raise NoWayBack(said, hint=trouble.hint, step=trouble.step)
    sound = [c for c in Checkpoint.all_of(out) if c.step in trouble.anchors and not c.verify()]
    if not sound:
        raise NoWayBack(
            f"{trouble}, and no checkpoint from before step {trouble.first} was saved on schedule",
            hint="a shorter `checkpoint.every`; " + _HINT,
            step=trouble.step,
        )
    drop_after(out, sound[-1].step)
    first, count = trouble.skips[-1]
    progress.say(f"{trouble}; back to step {sound[-1].step}, then {count} batches are left out at step {first + 1}")
    return sound[-1]
