"""Savers of memory that change what a run computes, or what it may be combined with; for a plan to advise last.

Smaller micro-batches, smaller chunks of logits and recomputed blocks leave a step what it is (`forecast.py`); these
round averages or weights, or give up clipping, so they are looked at only where those are not enough.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from cirilla_cli.engine.config import AdamW8bitConfig, AdamWConfig
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.savers import clip_misfits, saver_misfits
from cirilla_cli.model.config import StackConfig

_TOKENS = 512
"""Of the steps whose lengthening was measured (benchmarks/memory_savers.py, docs/log.md)."""


@dataclass(frozen=True)
class Way:
    """A job with one or more savers."""

    job: Job
    settings: Mapping[str, Any]
    """Overrides, by key."""
    longer: float
    """Share of a step of 512 tokens that comes on top of it, however many tokens a step has."""

    def slower(self, tokens: int) -> float:
        """Time of a step of so many tokens over that without these savers."""
        return 1 + self.longer * _TOKENS / tokens


def _fused(way: Way) -> Way | None:
    """Parameters that are moved within the backward pass, where a step is one pass; nothing is clipped then."""
    if way.job.memory.fused_backward:
        return None
    memory = way.job.memory.model_copy(update={"fused_backward": True})
    train = way.job.train.model_copy(update={"max_grad_norm": None})
    clipped = {} if way.job.train.max_grad_norm is None else {"train.max_grad_norm": "null"}
    settings = {**way.settings, "memory.fused_backward": "true", **clipped}
    return Way(replace(way.job, memory=memory, train=train), settings, way.longer + 0.16)


def _averages(way: Way) -> Way | None:
    """AdamW's averages in 8 bits."""
    if not isinstance(way.job.optim, AdamWConfig):
        return None
    said = {**way.job.optim.model_dump(), "kind": "adamw_8bit"}
    words = ", ".join(f"{key}: {value}" for key, value in said.items())
    settings = {**way.settings, "optim": f"'{{{words}}}'"}
    return Way(replace(way.job, optim=AdamW8bitConfig(**said)), settings, way.longer + 0.59)


def _weights(way: Way) -> Way | None:
    """Weights in bfloat16, rounded by chance."""
    if way.job.precision.weights == "bfloat16":
        return None
    precision = way.job.precision.model_copy(update={"weights": "bfloat16"})
    settings = {**way.settings, "precision.weights": "bfloat16"}
    return Way(replace(way.job, precision=precision), settings, way.longer + 0.32)


SAVERS: tuple[Callable[[Way], Way | None], ...] = (_fused, _weights, _averages)


def is_legal(job: Job) -> bool:
    """Whether the savers of a job can be had together; a micro-batch that is still open is none of theirs."""
    shape = job.model if isinstance(job.model, StackConfig) else None
    return not (
        saver_misfits(job.train, job.optim, job.precision, job.memory, job.parallel)
        or clip_misfits(job.optim, shape, job.precision)
    )


def lighter(job: Job) -> list[Way]:
    """The job with every legal choice of savers that it has not, those first that cost least time."""
    found = []
    for count in range(1, len(SAVERS) + 1):
        for savers in combinations(SAVERS, count):
            way: Way | None = Way(job, {}, 0.0)
            for saver in savers:
                way = None if way is None else saver(way)
            if way is not None and is_legal(way.job):
                found.append(way)
    return sorted(found, key=lambda way: way.longer)
