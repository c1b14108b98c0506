"""The process that forks for each run, the data its runs share, and what they leave."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).parent))

import cells
import tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes: sums over several threads are made in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of all tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def data(memory: Path) -> Path:
    return tiny.make_data(memory / "data")


Order = Callable[..., list[int]]


@pytest.fixture(scope="session")
def order(data: Path) -> Iterator[Order]:
    """Carries out an order in as many processes as it says; returns how they ended."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py")), str(data)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=environment, cwd=root,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def carry_out(**order: Any) -> list[int]:
        process.stdin.write(json.dumps({"data": str(data), **order}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield carry_out
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=30)


class Result:
    """What a run left."""

    def __init__(self, out: Path) -> None:
        self.curve = [(line["loss"], line["grad_norm"]) for line in tiny.metrics(out)]
        self.validation = [line["val_loss"] for line in tiny.metrics(out) if "val_loss" in line]
        last = tiny.saved(out)[cells.STEPS]
        self.weights: dict[str, Tensor] = load_file(last / "model.safetensors")
        self.bytes = tiny.final_digests(out)
        self.steps = [line["step"] for line in tiny.metrics(out)]
        self.first = tiny.metrics(out)[0]


@pytest.fixture(scope="session")
def result(order: Order, memory: Path) -> Callable[[cells.Cell], Result]:
    """A cell's run from its first sitting to its last, once."""
    done: dict[str, Result] = {}

    def run(cell: cells.Cell) -> Result:
        name = cells.named(cell)
        if name not in done:
            out = memory / name
            for size, until in cells.sittings(cell):
                wanted = 0 if until == cells.STEPS else 3
                assert order(cell=dict(cell), out=str(out), ranks=size, until=until) == [wanted] * size
            done[name] = Result(out)
        return done[name]

    return run
