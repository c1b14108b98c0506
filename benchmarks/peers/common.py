"""What every peer's runner shares: its task, the tokens, the clock and the memory. Needs numpy and torch only."""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One measurement, as the driver hands it over in a JSON file."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    tied: bool
    rows: int
    length: int
    precision: str
    """float32, mixed (products in bfloat16, weights in float32) or true (everything in bfloat16)."""
    compiled: bool
    steps: int
    warmup: int
    lr: float
    tokens: str
    """File of the token ids, uint16 as numpy writes it; for tuning the folder of its rows."""
    checkout: str = ""
    """Where a peer's source lies that comes in no package."""
    objective: str = ""
    """Of tuning: sft or dpo."""
    way: str = ""
    """How the runner is to do it, in words of its own."""
    threads: int = 2


def task() -> Task:
    """The task named on the command line."""
    import torch

    found = Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    torch.set_num_threads(found.threads)
    torch.manual_seed(0)
    return found


def batches(task: Task) -> Callable[[int], tuple[Any, Any]]:
    """Inputs and targets ``[rows, length]`` of a step, the same for every peer."""
    import numpy as np
    import torch

    ids = np.load(task.tokens, mmap_mode="r")
    room = task.rows * task.length

    def batch(step: int) -> tuple[Any, Any]:
        rows = ids[step * room : (step + 1) * room + 1].astype(np.int64)
        inputs, targets = torch.from_numpy(rows[:-1]), torch.from_numpy(rows[1:])
        return inputs.view(task.rows, task.length), targets.view(task.rows, task.length)

    return batch


def measure(task: Task, step: Callable[[int], float], parameters: int) -> None:
    """Take the steps and print what they cost."""
    seconds, losses = [], []
    for index in range(task.warmup + task.steps):
        started = time.perf_counter()
        losses.append(step(index))
        seconds.append(time.perf_counter() - started)
    report(task, seconds, losses, parameters)


def report(task: Task, seconds: list[float], losses: list[float], parameters: int) -> None:
    """Print a run as the last line of standard output; its memory is the peak less what stood when `imported` ran."""
    cost = {"seconds": seconds[task.warmup :], "losses": losses, "parameters": parameters}
    print(json.dumps(cost | peak_since_imports()))


IMPORTED = [0]


def imported() -> None:
    """Note what the process holds before the first tensor is made."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    IMPORTED[0] = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def peak_since_imports() -> dict[str, int]:
    """Most bytes the process has held, less what it held before the first tensor."""
    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - IMPORTED[0]}


def loop(task: Task, model: Any, loss_of: Callable[[Any, Any], Any], optimizer: Any) -> None:
    """The plain loop around a peer's model: loss, backward pass, clipping at 1, optimizer; measured."""
    import torch

    batch = batches(task)

    def step(index: int) -> float:
        inputs, targets = batch(index)
        with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "mixed"):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    measure(task, step, sum(p.numel() for p in model.parameters()))
