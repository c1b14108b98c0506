"""Runs cells, or steps, in forked children, one a process of the run, so that torch is imported once.

Reads one JSON object a line from standard input: what to run, by how many processes, and which of them is to be killed
or told to stop, and when. Prints their exit codes, or minus the signals that ended them.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).parent))

import cells
import gradients
import tiny
import torch
import torch.distributed.fsdp  # noqa: F401 - before the fork, because it takes long
from safetensors.torch import save_file

from cirilla_cli.engine import build, run
from cirilla_cli.engine.config import Place
from cirilla_cli.engine.parallel import joined
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent


class _At(Silent):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, number: int) -> None:
        self._step, self._number = step, number

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        if what != "reference" and done == self._step:
            os.kill(os.getpid(), self._number)


def _train(order: dict[str, Any], place: Place) -> None:
    cell = order["cell"]
    if cell["rows"] == "padded":
        _pad()
    job = cells.job_of(cell, Path(order["out"]), Path(order["data"]), place)
    stops = order["until"] < cells.STEPS and place.rank == 0
    listener = _At(order["until"], signal.SIGTERM) if stops else Silent()
    run._GRACE_S = 0.0
    if order.get("kill") == place.rank:
        _die_after(order["until"])
    run.train(job, listener)


def _die_after(step: int) -> None:
    """Kill this process where it would begin a step; the first process alone tells of its progress."""
    from cirilla_cli.engine.trainer import Trainer

    begin = Trainer._step

    def stepping(self: Trainer) -> dict[str, Any]:
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self)

    Trainer._step = stepping  # type: ignore[method-assign]


def _pad() -> None:
    """Lay every document of a step in a row of its own."""
    whole = build.source_of

    def padded(*given: Any) -> Any:
        steps, source = whole(*given)
        plain = source.step
        source.step = lambda index: [cells.apart(batch) for batch in plain(index)]
        return steps, source

    build.source_of = padded


def _step(order: dict[str, Any], place: Place) -> None:
    with joined(place, torch.device("cpu"), sharded=order["sharded"]) as ranks:
        found = gradients.step_of(order["case"], ranks, short=order["short"])
    if place.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, order["out"])


def _child(order: dict[str, Any], place: Place, port: int) -> int:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(place.rank)}
    os.environ["WORLD_SIZE"] = str(place.size)
    try:
        (_train if "cell" in order else _step)(order, place)
    except CirillaError as error:
        print(f"process {place.rank}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _fork(order: dict[str, Any]) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank in range(order["ranks"]):
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 70
            try:
                code = _child(order, Place(rank, order["ranks"], rank, order["ranks"]), port)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run.train(tiny.job("pretrain", Path(folder) / "run", Path(sys.argv[1])), Silent())
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
