"""What every runner of `sample_efficiency.py` shares: its task, the texts, the length of the run, the score.

Needs numpy and torch only.
"""

# Shape suffixes: B rows, T positions.

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BEGIN = 1
"""The token that begins a document; nobody is asked to predict it."""
IGNORE = -100


@dataclass(frozen=True)
class Task:
    """One run, as the driver hands it over in a JSON file."""

    corpus: str
    """Folder of ids, `train-00000.bin` and `val-00000.bin` in uint16, with the ends of documents beside them."""
    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    length: int
    seconds: float
    """Time for the steps of training; reading, building and scoring are outside."""
    lr: float
    """Peak learning rate of a peer."""
    seed: int
    steps: int | None = None
    """Length in place of `seconds`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What a trial of ours changes."""
    short: int | None = None
    """Score in rows of this length too."""
    threads: int = 2
    """Of the processor."""


def task() -> Task:
    """The task named on the command line."""
    found = Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    torch.set_num_threads(found.threads)
    torch.manual_seed(found.seed)
    return found


def ids(job: Task, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All ids of a split, one document after another, and where each document ends."""
    folder = Path(job.corpus)
    return np.fromfile(folder / f"{split}-00000.bin", "<u2"), np.load(folder / f"{split}-00000.idx.npy").astype(int)


class Blocks(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The training text in blocks, end to end, as peers cut it."""

    def __init__(self, job: Task, *, room: int) -> None:
        stream, _ = ids(job, "train")
        count = (len(stream) - (room - job.length)) // job.length
        self.blocks_BT = [stream[i * job.length : i * job.length + room] for i in range(count)]

    def __len__(self) -> int:
        return len(self.blocks_BT)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        block_T = torch.from_numpy(self.blocks_BT[index].astype(np.int64))
        return {"input_ids": block_T, "labels": block_T}


def order(n: int, seed: int) -> Iterator[int]:
    """Places of blocks, shuffled anew in each pass."""
    made = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=made).tolist()


def steps_that_fit(job: Task, probed: list[float]) -> int:
    """Steps of a run, by the time that a few took, of which the first two do not count."""
    return job.steps or max(8, round(job.seconds / statistics.median(probed[2:])))


PROBE = 5
"""Steps that are timed before a run, on weights that are then forgotten."""


class Stopwatch:
    """Seconds of training, once it has been told that it begins."""

    def __enter__(self) -> "Stopwatch":
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._since


# The score


def apart(job: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets ``[B, T]`` of the held-out documents, each for itself; of equal length about, filled up."""
    stream, ends = ids(job, "val")
    pieces = [p for d in np.split(stream.astype(np.int64), ends[:-1]) for p in _pieces(d, job.length)]
    pieces.sort(key=len)
    while pieces:
        size = max(1, 4 * job.length // len(pieces[-1]))
        yield _filled(pieces[-size:])
        del pieces[-size:]


def _pieces(document: np.ndarray[Any, Any], length: int) -> list[np.ndarray[Any, Any]]:
    """A document in parts whose targets are its tokens, each once."""
    return [document[i : i + length + 1] for i in range(0, len(document) - 1, length)]


def _filled(pieces: list[np.ndarray[Any, Any]]) -> tuple[Tensor, Tensor]:
    longest = max(len(piece) for piece in pieces) - 1
    inputs_BT = torch.zeros(len(pieces), longest, dtype=torch.long)
    targets_BT = torch.full_like(inputs_BT, IGNORE)
    for row, piece in enumerate(pieces):
        inputs_BT[row, : len(piece) - 1] = torch.from_numpy(piece[:-1])
        targets_BT[row, : len(piece) - 1] = torch.from_numpy(piece[1:])
    return inputs_BT, targets_BT


def running_on(job: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets ``[B, T]`` of the held-out documents in rows, end to end."""
    stream = ids(job, "val")[0].astype(np.int64)
    pieces, size = _pieces(stream, job.length), max(1, 2048 // job.length)
    for start in range(0, len(pieces), size):
        inputs_BT, targets_BT = _filled(pieces[start : start + size])
        yield inputs_BT, targets_BT.masked_fill(targets_BT == BEGIN, IGNORE)


def summed_nll(logits_BTV: Tensor, targets_BT: Tensor) -> float:
    """Nats of all targets that count."""
    flat = logits_BTV.flatten(0, 1).float()
    return float(torch.nn.functional.cross_entropy(flat, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"))


def report(job: Task, watch: Stopwatch, steps: int, tokens: int, nll: Callable[[Tensor, Tensor], float]) -> None:
    """Print a run as the last line: bits per byte of the held-out documents, apart and end to end."""
    size = json.loads((Path(job.corpus) / "bytes.json").read_text(encoding="utf-8"))["val"]["bytes"]
    ways = {"apart": apart(job), "running_on": running_on(job)}
    if job.short is not None:
        ways["short"] = running_on(replace(job, length=job.short))
    with torch.no_grad():
        scores = {name: sum(nll(*batch) for batch in way) / math.log(2) / size for name, way in ways.items()}
    print(json.dumps({"seconds": watch.seconds, "steps": steps, "tokens": tokens, **scores}))
