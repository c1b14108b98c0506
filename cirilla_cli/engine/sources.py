"""The batch source a job reads, and how many steps it takes."""

import math
from collections.abc import Mapping
from typing import Any

from cirilla_cli.data.batches import BatchSource, Conversations, Cut, Mix, PackedText, Preferences
from cirilla_cli.data.config import (
    ConversationsConfig,
    LabelledTextConfig,
    MaskedTextConfig,
    PackedTextConfig,
    PreferencesConfig,
    TextSourceConfig,
)
from cirilla_cli.data.labelled_batches import LabelledText
from cirilla_cli.data.masked import MaskedText, Masking
from cirilla_cli.engine.job import Job, no_validation
from cirilla_cli.engine.parallel import check_share
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.shards import Prepared
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress


def cut_of(job: Job, context_length: int, pad_id: int) -> Cut:
    """How the job's steps are cut into rows and forward passes."""
    rows = max(1, job.train.batch_tokens // context_length)
    micro = job.train.micro_batch_tokens
    # What is still to be settled (`auto.py`) begins with all of it.
    most = max(1, micro // context_length) if isinstance(micro, int) else rows
    # As few passes as memory allows, equally many in every process, of as nearly the same size as can be.
    passes = job.place.size * math.ceil(rows / (job.place.size * most))
    return Cut(
        context_length=context_length,
        rows_per_step=rows,
        rows_per_micro_batch=math.ceil(rows / passes),
        seed=job.seed,
        pad_id=pad_id,
    )


def source_of(job: Job, prepared: Prepared, cut: Cut, progress: Progress) -> tuple[int, BatchSource[Any]]:
    """How many steps, and the batches of each; what is cut or left out is said.

    Raises:
        CirillaError: nothing is left to learn from, early stopping has no validation to go by, or there are more
            processes than rows.
    """
    source: BatchSource[Any]
    match job.data:
        case PackedTextConfig():
            steps, source = _text(job, job.data.sources, prepared, cut, progress)
        case MaskedTextConfig():
            steps, text = _text(job, job.data.sources, prepared, cut, progress)
            source = MaskedText(text, Masking.of(job.data, prepared.tokenizer))
        case LabelledTextConfig():
            steps, source = _said(job, LabelledText(prepared.splits("train"), prepared.splits("val"), cut), progress)
        case ConversationsConfig():
            steps, source = _said(job, Conversations(prepared.splits("train"), prepared.splits("val"), cut), progress)
        case PreferencesConfig():
            steps, source = _said(job, Preferences(prepared.splits("train"), prepared.splits("val"), cut), progress)
    if job.train.early_stopping is not None and not list(source.validation(1)):
        raise no_validation()
    check_share(job.place.size, rows_per_step=cut.rows_per_step, rows_per_epoch=source.rows_per_epoch)
    return steps, source


def _text(
    job: Job, sources: Mapping[str, TextSourceConfig], prepared: Prepared, cut: Cut, progress: Progress
) -> tuple[int, PackedText]:
    mixes = [_mix(prepared, name, source) for name, source in sources.items()]
    _not_empty(min(mix.train.n_tokens for mix in mixes))
    rows = sum(max(1, mix.train.n_tokens // cut.context_length) for mix in mixes)
    steps = steps_of(job, rows, cut, progress)
    watch = job.train.divergence
    # Batches that are left out after a divergence are made up for at the end.
    spare = watch.most * (watch.patience + 1) if watch is not None and watch.action == "rollback" else 0
    return steps, PackedText(mixes, cut, steps=steps + spare, decay_start=Schedule(job.schedule, steps).decay_start)


def _mix(prepared: Prepared, name: str, source: TextSourceConfig) -> Mix:
    late = source.weight if source.decay_weight is None else source.decay_weight
    return Mix(prepared.split(name, "train"), prepared.split(name, "val"), source.weight, late)


def _said(
    job: Job, source: Conversations | Preferences | LabelledText, progress: Progress
) -> tuple[int, BatchSource[Any]]:
    """A source of packed documents, after saying what of them is lost."""
    most = source.cut.context_length
    if source.truncated and not isinstance(source, Preferences):
        what = "conversations" if isinstance(source, Conversations) else "texts"
        progress.say(f"{source.truncated} {what} are longer than {most} tokens and were cut")
    elif source.truncated:
        progress.say(
            f"{source.truncated} pairs are longer than a row of {most} tokens; "
            f"each of their answers, with its prompt, was cut to {most // 2}"
        )
    if source.dropped:
        progress.say(f"{source.dropped} rows have nothing to learn within {most} tokens and were left out")
    _not_empty(source.rows_per_epoch)
    return steps_of(job, source.rows_per_epoch, source.cut, progress), source


def _not_empty(size: int) -> None:
    if size == 0:
        raise CirillaError(
            "the training data, or a source of it, is empty: "
            "nothing is left after the held-out part and what does not fit",
            hint="lower `data.val`, raise `model.context_length`, or bring more data",
        )


def steps_of(job: Job, rows_per_epoch: int, cut: Cut, progress: Progress) -> int:
    """The run's length in optimizer steps, capped by `train.max_epochs`, which is said."""
    per_step = cut.rows_per_step
    if job.train.steps is not None:
        steps = job.train.steps
    elif job.train.tokens is not None:
        steps = math.ceil(job.train.tokens / (per_step * cut.context_length))
    else:
        steps = math.ceil((job.train.epochs or 1) * rows_per_epoch / per_step)
    cap = job.train.max_epochs
    if cap is not None and steps * per_step > cap * rows_per_epoch:
        capped = max(1, math.floor(cap * rows_per_epoch / per_step))
        progress.say(
            f"{steps} steps would read the data more than {cap:g} times; {capped} steps instead (train.max_epochs)"
        )
        return capped
    return max(1, steps)
