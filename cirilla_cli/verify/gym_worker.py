"""reasoning-gym's scorers in a process of their own: limited, timed, and never shown text that could act as code."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from cirilla_cli.errors import CirillaError
from cirilla_cli.verify import gym
from cirilla_cli.verify.match import matches
from cirilla_cli.verify.whitelist import allowed

CORRECT = 1 - 1e-6
"""Scores from here on count as right; smaller ones are partial credit, often for form alone."""

_START_S = 120.0
_MAKE_S = 120.0
_MEMORY = 4 * 2**30
_MOST_ANSWER_CHARS = 20_000
_BROKEN_SCORERS = frozenset({"game_of_life_halting"})
"""This scorer gives 1 to any text that is not empty; equality with the reference answer is used instead."""


_NO_NUMBER = re.compile(r"(?<![a-z])(?:nan|inf(?:inity)?)j?(?![a-z])", re.IGNORECASE)
"""What Python reads as numbers that are none: every comparison with them is false, so `complex_arithmetic` takes the
smaller of 1 and NaN, which is 1."""

_SCORER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What scorers raise on wrong answers, each a 0; anything else ends the worker, which also is a 0."""


class GymWorker:
    """A worker process for making instances and scoring answers; use it as a context manager.

    Requests and replies are lines of JSON over pipes. The hash seed is pinned, so that instances do not depend on it.
    """

    def __init__(self, *, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[bytes] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, name: str, config: Mapping[str, Any], seed: int, entry: Mapping[str, Any], answer: str) -> float:
        """What the task's own scorer gives, 0 to 1; 0 where it raises, takes too long, or may not see the answer."""
        if name in _BROKEN_SCORERS:
            return float(matches(answer, [str(entry.get("answer"))]))
        if len(answer) > _MOST_ANSWER_CHARS or not allowed(name, answer, entry) or _evades(answer, entry):
            return 0.0
        task = {"do": "score", "name": name, "config": dict(config), "seed": seed, "entry": entry, "answer": answer}
        reply = self._ask({**task, "seconds": self.seconds}, patience_s=10 * self.seconds)
        return float(reply["score"]) if reply is not None and "score" in reply else 0.0

    def make(self, name: str, config: Mapping[str, Any], seed: int, index: int) -> dict[str, Any]:
        """Instance ``index`` of a task, made where hashes and random state are pinned.

        Raises:
            CirillaError: the generator fails, or takes longer than two minutes.
        """
        task = {"do": "make", "name": name, "config": dict(config), "seed": seed, "index": index}
        reply = self._ask(task, patience_s=_MAKE_S)
        if reply is None or "entry" not in reply:
            why = "it took too long or used too much memory" if reply is None else reply.get("error")
            raise CirillaError(f"reasoning-gym's `{name}` failed at instance {index} of seed {seed}: {why}")
        entry: dict[str, Any] = reply["entry"]
        return entry

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, task: Mapping[str, Any], patience_s: float) -> dict[str, Any] | None:
        """The worker's reply, or None after it died or ran out of time (a new one starts with the next task)."""
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        line = self._reply(patience_s)
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        self.close()
        self.restarts += 1
        return None

    def _reply(self, patience_s: float) -> bytes:
        try:
            return self._replies.get(timeout=patience_s)
        except queue.Empty:
            return b""

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.append({root!r}); from cirilla_cli.verify.gym_worker import serve; serve()"
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            start_new_session=True,
        )
        self._process, self._replies = process, queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=_forward, args=(process.stdout, self._replies), daemon=True).start()
        if not self._reply(_START_S):
            self.close()
            gym.names()
            raise CirillaError(
                "the process that runs reasoning-gym does not start", hint="python -c 'import reasoning_gym'"
            )
        return process


GymScorer = GymWorker
"""The same object by the name of what it is mostly for."""


def _evades(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether ``answer`` speaks of NaN or infinity where the right answer does not."""
    return _NO_NUMBER.search(answer) is not None and _NO_NUMBER.search(str(entry.get("answer"))) is None


def _forward(pipe: IO[bytes], replies: "queue.Queue[bytes]") -> None:
    """Hand on each line; an empty one says that the process has ended."""
    with contextlib.suppress(ValueError):
        for line in pipe:
            replies.put(line)
    replies.put(b"")


def serve() -> None:
    """The worker's side: answer each line of standard input until it ends. Prints of generators go nowhere."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    gym.names()
    _limit()
    out.write(b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        out.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")


def _limit() -> None:
    """No more than `_MEMORY`, no core dumps, no data written to files, no further processes."""
    if sys.platform == "win32":
        return
    import resource

    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (most, most))


def _answer(task: Mapping[str, Any]) -> dict[str, Any]:
    if task["do"] == "make":
        try:
            return {"entry": gym.make_here(task["name"], task["config"], task["seed"], task["index"])}
        except CirillaError as error:
            return {"error": str(error)}
    return {"score": _score(task)}


def _score(task: Mapping[str, Any]) -> float:
    """Score under a processor-time alarm whose default action ends the process: C code cannot hold it off.

    Processor time, not the clock: whether an answer is right must not depend on what else the machine does.
    """
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, task["seconds"])
    try:
        judge = gym.dataset(task["name"], task["config"], task["seed"])
        score = judge.score_answer(task["answer"], _as_made(task["name"], task["entry"]))
        return float(score)
    except _SCORER_ERRORS:
        return 0.0
    finally:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_PROF, 0)


def _as_made(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """``entry`` with the tuples back that JSON turned to lists, for the two scorers that compare with them."""
    if name not in ("arc_agi", "rearc"):
        return entry
    metadata = {**entry["metadata"], "output": tuple(tuple(row) for row in entry["metadata"]["output"])}
    return {**entry, "metadata": metadata}
