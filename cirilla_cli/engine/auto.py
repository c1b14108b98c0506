"""`train.micro_batch_tokens: auto`: as many whole rows a forward pass as memory holds, settled once and then locked.

Rows are taken as the worst there can be: as long as the context, each one document, every token a target. On CUDA steps
of them are tried, with weights, gradients and optimizer. On a CPU, where nothing can be caught when memory runs out,
they are reckoned (`footprint.py`) against what is free.
"""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cirilla_cli.compat import free_memory, pick_device
from cirilla_cli.data.batches import Cut
from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.footprint import DeviceClass, Footprint, Given, Shape, fits, footprint, made_up
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.parallel import ALONE, Ranks
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.sources import cut_of
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_bytes, show_count

KEY = "train.micro_batch_tokens"

_LEFT = 0.05
"""Share of a card that must be free after the steps that were tried: later ones may leave it in smaller pieces."""


@dataclass(frozen=True)
class Choice:
    """What was settled."""

    tokens: int
    why: str


def is_open(job: Job) -> bool:
    """Whether the tokens of a forward pass are still to be settled."""
    return job.train.micro_batch_tokens == "auto"


def with_tokens(job: Job, tokens: int) -> Job:
    """The job with so many tokens a forward pass; its recipe still says `auto`."""
    train = job.train.model_copy(update={"micro_batch_tokens": tokens})
    return replace(job, train=train, settled={KEY: tokens})


def from_lock(job: Job, lock: Mapping[str, Any] | None) -> Job:
    """The job as its run settled it when it began, if it has begun."""
    if lock is None or not is_open(job):
        return job
    return with_tokens(job, int(lock["settled"][KEY]))


def settle(job: Job, shape: Shape, ranks: Ranks, progress: Progress) -> Job:
    """The job with the most tokens a forward pass that every process has memory for; what and why is said.

    Raises:
        CirillaError: not one row fits, or nobody knows how much memory there is.
    """
    device = pick_device(job.device)
    choice = tried(job, shape, device, ranks) if device.type == "cuda" else reckoned(job, shape, ranks=ranks)
    progress.say(f"{KEY} auto: {show_count(choice.tokens)}, {choice.why}")
    return with_tokens(job, choice.tokens)


def reckoned(
    job: Job, shape: Shape, memory: int | None = None, kind: DeviceClass = "cpu", ranks: Ranks = ALONE
) -> Choice:
    """What a footprint says fits into ``memory``, by default a process's part of what is free here.

    Raises:
        CirillaError: see `settle`.
    """
    free = memory if memory is not None else free_memory(torch.device(kind))
    if free is None:
        raise CirillaError(f"`{KEY}` is 'auto', and this system does not say how much memory is free", hint=_HINT)
    mine = free if memory is not None or kind == "cuda" else free // job.place.local_size
    seen: dict[int, Footprint] = {}

    def holds(rows: int) -> bool:
        seen[rows] = _footprint(job, shape, rows, kind)
        return fits(seen[rows], mine)

    cut = cut_of(job, shape.context_length, 0)
    rows = agreed(choices(cut, job.place.size), holds, ranks)
    if rows is None:
        least = seen.get(1) or _footprint(job, shape, 1, kind)
        raise _nothing_fits(shape, f"a step of it wants {show_bytes(least.peak)} of the {show_bytes(mine)} there are")
    peak = (seen.get(rows) or _footprint(job, shape, rows, kind)).peak
    why = f"whose steps want {show_bytes(peak)} of the {show_bytes(mine)} there are"
    return Choice(rows * cut.context_length, f"{rows} rows of {show_count(cut.context_length)}, {why}")


def _footprint(job: Job, shape: Shape, rows: int, kind: DeviceClass) -> Footprint:
    cut = cut_of(with_tokens(job, rows * shape.context_length), shape.context_length, 0)
    return footprint(job, shape, made_up(job, cut), cut, kind)


def tried(job: Job, shape: Shape, device: torch.device, ranks: Ranks = ALONE) -> Choice:
    """What steps on this device show to fit.

    Raises:
        CirillaError: see `settle`.
    """
    cut = cut_of(job, shape.context_length, 0)
    rows = agreed(choices(cut, job.place.size), lambda rows: passes(job, shape, rows, device), ranks)
    if rows is None:
        raise _nothing_fits(shape, "a step of it runs out of memory here")
    return Choice(rows * cut.context_length, f"{rows} rows of {show_count(cut.context_length)}, as steps of them show")


def passes(job: Job, shape: Shape, rows: int, device: torch.device) -> bool:
    """Whether two steps over as many of the worst rows end on a device; nothing of them stays."""
    cut = cut_of(with_tokens(job, rows * shape.context_length), shape.context_length, 0)
    try:
        _two_steps(job, shape, cut, device)
    except torch.OutOfMemoryError:
        enough = False
    else:
        enough = device.type != "cuda" or _left(device) >= _LEFT
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return enough


def _two_steps(job: Job, shape: Shape, cut: Cut, device: torch.device) -> None:
    model = shape.build().to(device)
    trainer_of(job, model, Given(made_up(job, cut)), 2, device, compute_dtype(job.precision, device)).fit()


def _left(device: torch.device) -> float:
    """Share of a card that is free, while what steps took is still held by the allocator."""
    free, whole = torch.cuda.mem_get_info(device)
    return free / whole


def choices(cut: Cut, processes: int) -> list[int]:
    """Rows of a forward pass, from all that a process takes of a step down to one, without those that cut alike."""
    most = math.ceil(cut.rows_per_step / processes)
    cuts = {math.ceil(cut.rows_per_step / (processes * n)) for n in range(1, most + 1)}
    return sorted(cuts, reverse=True)


def agreed(rows: Sequence[int], holds: Callable[[int], bool], ranks: Ranks) -> int | None:
    """The first of ``rows`` that holds in every process, where what follows one that holds does too; None if none.

    Where that is not so, as it need not be of a heap, still one that holds after one that does not.
    """
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if _in_any(ranks, not holds(rows[middle])):
            low = middle + 1
        else:
            high = middle
    return rows[low] if low < len(rows) else None


def _in_any(ranks: Ranks, flag: bool) -> bool:
    return ranks.agreed(flag)[0]


_HINT = "train.micro_batch_tokens=4096, or another number of tokens"


def _nothing_fits(shape: Shape, why: str) -> CirillaError:
    return CirillaError(
        f"`{KEY}` is 'auto', but not one row of {shape.context_length} tokens fits: {why}",
        hint="memory.checkpointing.kind=full, a shorter model.context_length, or a smaller model",
    )
