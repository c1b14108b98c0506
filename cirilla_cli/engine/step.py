"""One optimizer step's gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.objectives.base import Forward, Objective


def step_counts(objective: Objective[Any], batches: Sequence[TokenBatch]) -> dict[str, float]:
    """The whole step's count of every unit, from its micro-batches on the CPU."""
    totals: dict[str, float] = {}
    for batch in batches:
        for unit, count in objective.counts(batch).items():
            totals[unit] = totals.get(unit, 0.0) + count
    return totals


def accumulate_gradients(
    forward: Forward, objective: Objective[Any], batches: Sequence[TokenBatch], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Leave in ``.grad`` the gradient of the mean over everything the step counts, however it is cut.

    Returns:
        The step's value of each term and of the loss, and its counts.
    """
    counts = step_counts(objective, batches)
    denominators = {unit: max(1.0, count) for unit, count in counts.items()}
    sums: dict[str, Tensor] = {}
    for batch in batches:
        for name, share in objective.backward(forward, batch.to(device), denominators).items():
            sums[name] = sums[name] + share if name in sums else share
    return sums, counts


def mean_terms(
    forward: Forward, objective: Objective[Any], batches: Sequence[TokenBatch], device: torch.device
) -> dict[str, float]:
    """Each term's mean over all of ``batches``, without gradient."""
    counts = step_counts(objective, batches)
    totals: dict[str, float] = {}
    with torch.no_grad():
        for batch in batches:
            for name, term in objective.terms(forward, batch.to(device)).items():
                totals[name] = totals.get(name, 0.0) + float(term.total) / max(1.0, counts[term.unit])
    return totals
