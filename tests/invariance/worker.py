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
from functools import cache
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

_LONGEST_S = 90
"""Processes that wait for one another for ever are ended by then, and the test fails."""

_COMPILED_S = 280
"""The same where they first compile, several at once."""


def _train(order: dict[str, Any], place: Place) -> None:
    cell = order["cell"]
    if cell["rows"] == "padded":
        _pad()
    job = cells.job_of(cell, Path(order["out"]), Path(order["data"]), place)
    run._GRACE_S = 0.0
    if order.get("kill") == place.rank:
        _signal_in(order["until"], signal.SIGKILL)
    elif "kill" not in order and order["until"] < cells.STEPS and order.get("told", 0) == place.rank:
        _signal_in(order["until"], signal.SIGTERM)
    run.train(job, Silent())


def _signal_in(step: int, number: int) -> None:
    """Send this process a signal when it has reckoned a step's gradient and would move the weights."""
    from cirilla_cli.engine.trainer import Trainer

    move = Trainer._move

    def moving(self: Trainer) -> float:
        if self.state.step == step - 1:
            os.kill(os.getpid(), number)
        return move(self)

    Trainer._move = moving  # type: ignore[method-assign]


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
        found = gradients.step_of(order["case"], ranks, short=order["short"], every=order.get("every", 0))
    if place.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, order["out"])


def _is_compiled(order: dict[str, Any]) -> bool:
    return "cell" in order and order["cell"]["blocks"] == "compiled"


def _child(order: dict[str, Any], place: Place, port: int) -> int:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(place.rank)}
    os.environ["WORLD_SIZE"] = str(place.size)
    signal.alarm(_COMPILED_S if _is_compiled(order) else _LONGEST_S)
    try:
        (_train if "cell" in order else _step)(order, place)
    except CirillaError as error:
        print(f"process {place.rank}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


@cache
def _compile_something() -> None:
    """What a process that compiles imports and probes first, here for all that are forked."""
    product = torch.compile(lambda x_N: (x_N * 2).relu().sum())
    product(torch.ones(64, requires_grad=True)).backward()


def _fork(order: dict[str, Any]) -> list[int]:
    if _is_compiled(order):
        _compile_something()
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
