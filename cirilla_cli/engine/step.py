"""One optimizer step's gradient."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.objectives.base import Forward, Objective
from cirilla_cli.engine.parallel import ALONE, Ranks


def step_counts(objective: Objective[Any], batches: Sequence[TokenBatch]) -> dict[str, float]:
    """The whole step's count of every unit, from its micro-batches on the CPU."""
    totals: dict[str, float] = {}
    for batch in batches:
        for unit, count in objective.counts(batch).items():
            totals[unit] = totals.get(unit, 0.0) + count
    return totals


def draw_anew(seed: int, step: int, micro_batch: int) -> None:
    """Seed torch for one micro-batch.

    What it draws then depends neither on where a run was interrupted nor on the process that it falls to.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_batch}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


def accumulate_gradients(
    forward: Forward,
    objective: Objective[Any],
    batches: Sequence[TokenBatch],
    device: torch.device,
    *,
    ranks: Ranks = ALONE,
    seed: tuple[int, int] = (0, 0),
    scale: float = 1.0,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Leave in ``.grad`` the gradient of the mean over everything the step counts, however it is cut.

    Args:
        batches: the whole step's, of which this process takes its share; gradients are then still to be summed.
        seed: of the run, and the step, for what is drawn in the pass.
        scale: power of two by which the gradient comes out too large, so that small parts of it survive in float16.

    Returns:
        The step's value of each term and of the loss, and its counts.
    """
    counts = step_counts(objective, batches)
    denominators = {unit: max(1.0, count) / scale for unit, count in counts.items()}
    sums: dict[str, Tensor] = {}
    for number, batch in ranks.share(batches):
        draw_anew(*seed, number)
        for name, share in objective.backward(forward, batch.to(device), denominators).items():
            sums[name] = sums[name] + share if name in sums else share
    return {name: value / scale for name, value in ranks.sums(sums).items()}, counts


def mean_terms(
    forward: Forward,
    objective: Objective[Any],
    batches: Sequence[TokenBatch],
    device: torch.device,
    *,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Each term's mean over all of ``batches``, which the processes share, without gradient."""
    counts = step_counts(objective, batches)
    totals: dict[str, float] = {}
    with torch.no_grad():
        for _, batch in ranks.share(batches):
            for name, term in objective.terms(forward, batch.to(device)).items():
                totals[name] = totals.get(name, 0.0) + float(term.total) / max(1.0, counts[term.unit])
    shares = {name: torch.tensor(total, dtype=torch.float64) for name, total in totals.items()}
    return {name: float(total) for name, total in ranks.sums(shares).items()}
