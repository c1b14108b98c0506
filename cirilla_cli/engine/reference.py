"""The starting model's log-probabilities of preference pairs, computed once by the training forward, kept on disk."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cirilla_cli.checkpoint import system_error
from cirilla_cli.data.batches import PairBatch, Preferences
from cirilla_cli.engine.objectives.base import Forward
from cirilla_cli.engine.objectives.dpo import DPO
from cirilla_cli.engine.parallel import Ranks
from cirilla_cli.engine.step import mean_terms
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import named
from cirilla_cli.progress import Progress

TOLERANCE = 0.01
"""How far the first loss may be from ln 2: more means that reference and policy were not computed alike."""


def attach_reference(
    source: Preferences,
    objective: DPO,
    forward: Forward,
    path: Path,
    key: str,
    device: torch.device,
    ranks: Ranks,
    progress: Progress,
) -> None:
    """Give ``source`` its reference values: from ``path`` if ``key`` (of all they depend on) matches, else computed."""
    values = _read(path, key)
    missing = ranks.agreed(values is None)[0]
    if missing or values is None:
        progress.say("computing the reference log-probabilities")
        train = _all(source.every_pair(), source.n_pairs, objective, forward, device, ranks, progress)
        val = _all(source.every_held_out_pair(), source.n_val_pairs, objective, forward, device, ranks, progress)
        values = train, val
        if ranks.leads:
            _write(path, key, train, val)
    source.set_reference(*values)


def check_first_loss(source: Preferences, objective: DPO, forward: Forward, device: torch.device, ranks: Ranks) -> None:
    """The policy still is the reference, so the first loss must be ln 2.

    Raises:
        CirillaError: it is not, so training would start from wrong numbers.
    """
    loss = mean_terms(forward, objective, source.step(0)[: ranks.size], device, ranks=ranks)["dpo"]
    if abs(loss - math.log(2)) > TOLERANCE:
        raise CirillaError(
            f"the first DPO loss is {loss:.4f}, must be ln 2 = 0.6931 within {TOLERANCE}: the reference values do not "
            "belong to this model and data",
            hint="remove the run's shards folder, so that they are computed again",
        )


def _all(
    batches: Iterator[PairBatch],
    n: int,
    objective: DPO,
    forward: Forward,
    device: torch.device,
    ranks: Ranks,
    progress: Progress,
) -> NDArray[np.float32]:
    """Values ``[n, 2]`` of all pairs, each computed by one process."""
    values, done = torch.zeros(n, 2), 0
    with torch.no_grad():
        for _, batch in ranks.share(batches):
            values[batch.pairs_P] = objective.logps(forward, batch.to(device)).float().cpu()
            done += ranks.size * len(batch.pairs_P)
            progress.step("reference", min(n, done), n)
    return ranks.sum(values).numpy()


def _read(path: Path, key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            if json.loads(file.metadata()["made_from"]) != key:
                return None
            return file.get_tensor("train"), file.get_tensor("val")
    except SafetensorError:
        # Damaged: worth no more than missing.
        return None


def _write(path: Path, key: str, train: NDArray[np.float32], val: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        save_file({"train": train, "val": val}, temporary, metadata={"made_from": json.dumps(key)})
    except SafetensorError as error:
        raise named(system_error(error), path) from error
    temporary.replace(path)
