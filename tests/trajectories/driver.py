"""Trains in forked children, so that a process can be killed without paying for another import of torch.

Nothing is trained before the fork but one throw-away run, which makes torch import what it imports late. Reads one
JSON object a line from standard input: ``verb, out, data, start, steps, kill_at, since``. Prints ``pid`` when the child
runs, then ``status``: its exit code, or minus the signal that ended it. With ``kill_at`` n the child kills itself when
it is about to make its n-th change to the file system, torn writes included, counted from the rename to ``since``.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import tiny

from cirilla_cli.engine.config import CheckpointingConfig, EvaluationConfig, TrainConfig
from cirilla_cli.engine.run import train
from cirilla_cli.errors import InterruptedRun
from cirilla_cli.progress import Silent

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod"}


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in _CHANGES


def _die_at(n: int, since: str) -> None:
    left, counting = n, not since

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, counting
        counting = counting or (event == "os.rename" and str(arguments[1]).endswith(since))
        if counting and _changes_files(event, arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _run(order: dict[str, Any]) -> None:
    job = tiny.job(
        order["verb"], Path(order["out"]), Path(order["data"]),
        start=Path(order["start"]) if order["start"] else None,
        train=TrainConfig(
            steps=order["steps"], batch_tokens=8 * tiny.CONTEXT, micro_batch_tokens=4 * tiny.CONTEXT
        ),
        checkpoint=CheckpointingConfig(every=2, every_time=None, keep=1),
        eval=EvaluationConfig(every=3, max_tokens=128, prompts=("griffin",), sample_tokens=2),
    )  # fmt: skip
    if order["kill_at"]:
        _die_at(order["kill_at"], order["since"])
    train(job, Silent())


def _child(order: dict[str, Any]) -> int:
    try:
        _run(order)
    except InterruptedRun as error:
        return error.exit_code
    return 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(tiny.job("pretrain", Path(folder) / "run", Path(sys.argv[1])), Silent())
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _child(json.loads(line))
            finally:
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
