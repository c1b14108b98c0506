"""The forking driver, and the data and starting model its runs share."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.progress import Silent


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    if "tiny" not in sys.modules:
        path = Path(__file__).parents[1] / "engine" / "tiny.py"
        spec = importlib.util.spec_from_file_location("tiny", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["tiny"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tiny"])
    return sys.modules["tiny"]


@pytest.fixture(scope="session")
def data(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def started(tiny: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cirilla_cli.engine.run import train

    out = tmp_path_factory.mktemp("start") / "run"
    train(tiny.job("pretrain", out, data), Silent())
    return out


class Driver:
    """One process that has imported torch and forks for each run."""

    def __init__(self, process: "subprocess.Popen[str]", data: Path, start: Path) -> None:
        self._process, self._data, self._start = process, data, start

    def begin(
        self,
        verb: str,
        out: Path,
        *,
        steps: int,
        kill_at: int = 0,
        since: str = "",
        data: Path | None = None,
        start: Path | None = None,
    ) -> int:
        """Start a run, from the shared data and model unless others are named; returns its process id."""
        start = start or (None if verb == "pretrain" else self._start)
        order = {
            "verb": verb, "out": str(out), "data": str(data or self._data), "steps": steps, "kill_at": kill_at,
            "since": since, "start": start and str(start),
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def wait(self) -> int:
        """Exit status of the run that was begun last."""
        return int(self._answer()["status"])

    def run(self, verb: str, out: Path, *, steps: int, **order: Any) -> int:
        """A run from beginning to end, however it ends."""
        self.begin(verb, out, steps=steps, **order)
        return self.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def driver(data: Path, started: Path) -> Iterator[Driver]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(data)]
    environment["PYTHONPATH"] = str(root)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )
    yield Driver(process, data, started)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of all tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def out(memory: Path, request: pytest.FixtureRequest) -> Path:
    """A run directory of this test's own."""
    return memory / re.sub(r"\W", "_", request.node.name)


@pytest.fixture(scope="session")
def straight(driver: Driver, memory: Path) -> Callable[[str, int], Path]:
    """The uninterrupted run of a verb and a number of steps."""
    done: dict[tuple[str, int], Path] = {}
    folder = memory / "straight"

    def make(verb: str, steps: int) -> Path:
        if (verb, steps) not in done:
            out = folder / f"{verb}-{steps}"
            assert driver.run(verb, out, steps=steps) == 0
            done[verb, steps] = out
        return done[verb, steps]

    return make
