"""What training a job would do, found out without writing anything (`--dry-run`)."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cirilla_cli.checkpoint import Checkpoint, Config, newest_sound
from cirilla_cli.compat import pick_device
from cirilla_cli.engine import auto
from cirilla_cli.engine.build import (
    Base,
    Inputs,
    check_ahead,
    check_lock,
    check_vocabulary,
    load_base,
    lock_of,
    retuned,
    tokenizer_source,
)
from cirilla_cli.engine.fresh import keep_inputs
from cirilla_cli.engine.job import Job, check_job
from cirilla_cli.engine.labelled import check_teachable, learned
from cirilla_cli.engine.lock import machine
from cirilla_cli.engine.mirroring import check_place
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.room import checkpoints_at_once
from cirilla_cli.engine.sources import cut_of, source_of, steps_of
from cirilla_cli.engine.survey import Survey, survey
from cirilla_cli.engine.vocabulary import grown
from cirilla_cli.errors import CirillaError
from cirilla_cli.mirror import folder_of, open_store
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_bytes, show_count

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ACTIONS = {
    "begin": "would begin in {out}",
    "start over": "would forget the run in {out} and start over",
    "continue": "would continue {out} after step {step}",
    "nothing": "is done already in {out}, at step {step}",
}


@dataclass(frozen=True)
class Plan:
    """What a training command would do."""

    verb: str
    out: str
    action: Literal["begin", "start over", "continue", "nothing"]
    step: int
    """Steps done so far."""
    steps: int | None
    """Steps in all; None where that shows only once the rows are tokenized."""
    tokens_per_step: int | None
    passes: float | None
    """Over the training data."""
    model: str
    parameters: int | None
    data: dict[str, str]
    """What each source holds, in words."""
    device: str
    compute: str
    checkpoint_bytes: int | None
    """Most that one checkpoint takes: weights, two moments and the moving average, all in float32."""
    checkpoints: int
    """Most that stand on disk at once."""
    free_bytes: int
    pass_tokens: int | None = None
    """Tokens of a forward pass, where the recipe says `auto`; None too where that shows only when the run begins."""
    pass_why: str | None = None

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        yield f"{self.verb} {_ACTIONS[self.action].format(out=self.out, step=self.step)}"
        size = "" if self.parameters is None else f", {show_count(self.parameters)} parameters"
        yield f"model: {self.model}{size}, {self.compute} on {self.device}"
        yield from (f"data {name}: {text}" for name, text in self.data.items())
        yield f"length: {self._length()}"
        if self.pass_why is not None:
            tokens = "" if self.pass_tokens is None else f"{show_count(self.pass_tokens)} tokens, "
            yield f"forward passes: {tokens}{self.pass_why}"
        yield f"disk: {self._disk()}"

    def _length(self) -> str:
        if self.steps is None or self.tokens_per_step is None:
            return "known once the rows are tokenized and the model is there"
        passes = "" if self.passes is None else f", {self.passes:.1f} passes over the data"
        return f"{self.steps} steps of {show_count(self.tokens_per_step)} tokens{passes}"

    def _disk(self) -> str:
        free = f"{show_bytes(self.free_bytes)} free"
        if self.checkpoint_bytes is None:
            return free
        short = "" if self.checkpoints * self.checkpoint_bytes <= self.free_bytes else ": may not be enough"
        return f"up to {self.checkpoints} checkpoints of at most {show_bytes(self.checkpoint_bytes)}, {free}{short}"


def check_resumable(out: Path, newest: Checkpoint | None) -> None:
    """Raises: CirillaError: there is nothing to insist on continuing (`--resume`)."""
    if newest is None:
        raise CirillaError(f"{out}: no checkpoint to resume from", hint="leave --resume out to begin")


def plan(job: Job, progress: Progress, *, restart: bool = False, insist: bool = False) -> Plan:
    """What `train` would do with the same arguments, and whatever it would refuse before its first step.

    The starting model is loaded if it lies on this machine; one on the Hub is not fetched, and a mirror there not
    looked at.

    Raises:
        CirillaError: the run would be refused.
    """
    check_job(job)
    if restart:
        keep_inputs(job)
    lock = None if restart else lock_of(job)
    if job.checkpoint.mirror is not None and folder_of(job.checkpoint.mirror) is not None:
        check_place(open_store(job.checkpoint.mirror), job, restart=restart)
    newest = None if restart else newest_sound(job.out, progress)
    if insist:
        check_resumable(job.out, newest)
    remote = _on_hub(job) and (newest is None or job.verb == "dpo")
    base = None if remote else load_base(replace(job, device="cpu"), newest, progress)
    seen = survey(
        job, tokenizer_source(job, base, newest), afresh=restart, begun=lock is not None, remote=remote,
        progress=progress,
    )  # fmt: skip
    if base is not None and seen.tokenizer is not None:
        base = grown(base, seen.tokenizer, progress)
    device = pick_device(job.device)
    where = machine(device, compute_dtype(job.precision, device), job.place.size)
    if lock is not None and seen.prepared is not None:
        inputs = Inputs(base, seen.prepared)
        check_lock(job, lock, inputs, inputs.began(where), progress)
    shape = _shape(job, base, newest, seen)
    job, why = _settled(job, lock, shape, where["device"])
    return Plan(
        verb=job.verb, out=str(job.out), **_length(job, newest, shape, seen, progress, restart=restart),
        model=_named(job, base, newest), parameters=_parameters(shape), data=seen.lines,
        device=where["device"], compute=where["compute"], pass_tokens=job.settled.get(auto.KEY), pass_why=why,
        **_disk(job, shape),
    )  # fmt: skip


def _on_hub(job: Job) -> bool:
    """Whether the starting model is a name on the Hub; a folder of that name comes first."""
    if not isinstance(job.model, CheckpointConfig) or _HUB_NAME.fullmatch(job.model.path) is None:
        return False
    path = Path(job.model.path)
    return not path.exists() and not path.parent.is_dir()


def _shape(job: Job, base: Base | None, newest: Checkpoint | None, seen: Survey) -> Config | None:
    """The model's shape as far as it is known; None where it lies on the Hub.

    Raises:
        CirillaError: it embeds fewer ids than the tokenizer has, or can learn nothing from such data.
    """
    if newest is not None:
        shape: Config = newest.model_config()
    elif base is not None:
        shape = base.config
    elif not isinstance(job.model, CheckpointConfig):
        vocab = job.model.vocab_size or (seen.tokenizer and seen.tokenizer.vocab_size)
        shape = job.model.changed(vocab_size=vocab)
    else:
        return None
    if isinstance(job.model, CheckpointConfig):
        shape = retuned(shape, job.model)
    check_ahead(job, shape)
    check_teachable(shape, job.data, job.objective)
    if seen.tokenizer is not None:
        check_vocabulary(shape, seen.tokenizer.vocab_size)
    return learned(shape, seen.labels, job.objective)


def _settled(job: Job, lock: dict[str, Any] | None, shape: Config | None, device: str) -> tuple[Job, str | None]:
    """The job with what `auto` is for this run, or would be, and why; as it is where nothing is open.

    Raises:
        CirillaError: not one row fits, or nobody knows how much memory there is.
    """
    if not auto.is_open(job):
        return job, None
    if lock is not None:
        return auto.from_lock(job, lock), "as the run found when it began"
    if shape is None or shape.vocab_size is None:
        return job, "as many as fit, which shows when the run begins"
    choice = auto.reckoned(job, shape, kind="cuda" if device == "cuda" else "cpu")
    return auto.with_tokens(job, choice.tokens), choice.why


def _parameters(shape: Config | None) -> int | None:
    return None if shape is None or shape.vocab_size is None else parameters(shape)


def _named(job: Job, base: Base | None, newest: Checkpoint | None) -> str:
    if newest is not None:
        return str(newest.path)
    if base is not None:
        return str(base.path)
    return f"{job.model.path} on the Hub, not looked at" if isinstance(job.model, CheckpointConfig) else "fresh weights"


def _length(
    job: Job, newest: Checkpoint | None, shape: Config | None, seen: Survey, progress: Progress, *, restart: bool
) -> dict[str, Any]:
    """Where the run stands, and how far it goes."""
    steps = passes = tokens = None
    if shape is not None:
        cut = cut_of(job, shape.context_length, 0)
        tokens = cut.rows_per_step * cut.context_length
        if seen.prepared is not None:
            steps, source = source_of(job, seen.prepared, cut, progress)
            passes = steps * cut.rows_per_step / source.rows_per_epoch
        elif job.train.epochs is None and job.train.max_epochs is None:
            steps = steps_of(job, 0, cut, progress)
    state = {} if newest is None else newest.state()
    step = state.get("step", 0)
    action = "start over" if restart else "begin" if newest is None else "continue"
    if newest is not None and (state.get("stopped_early") or (steps is not None and step >= steps)):
        action = "nothing"
    return {"action": action, "step": step, "steps": steps, "tokens_per_step": tokens, "passes": passes}


def _disk(job: Job, shape: Config | None) -> dict[str, Any]:
    """Room that is wanted and free; besides those kept, the best one and the one being written."""
    above = next(path for path in (job.out.absolute(), *job.out.absolute().parents) if path.exists())
    count = _parameters(shape)
    return {
        "checkpoint_bytes": None if count is None else (12 if job.train.ema is None else 16) * count,
        "checkpoints": checkpoints_at_once(job),
        "free_bytes": shutil.disk_usage(above).free,
    }
