"""One sitting at a time: a second one in the same folder is refused before it touches anything."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.engine.run import TrainReport
from cirilla_cli.errors import CirillaError
from cirilla_cli.held import held
from cirilla_cli.progress import Silent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks that go with their process")

HOLD = "import sys, pathlib, time\nfrom cirilla_cli.held import held\nwith held(pathlib.Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True)\n    time.sleep(600)\n"


def _all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_sitting_is_refused_and_changes_nothing(
    restart: bool, run: Callable[..., TrainReport], out: Path
) -> None:
    """Begun at each step of the first."""
    refused: list[str] = []

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            before = _all(out)
            with pytest.raises(CirillaError) as caught:
                run(restart=restart)
            assert _all(out) == before
            refused.append(str(caught.value))

    report = run(Listener())
    assert report.step == 6
    assert len(refused) >= 6
    assert all(f"by process {os.getpid()} on " in text for text in refused)
    assert run().already_done


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    root = str(Path(__file__).parents[2])
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True, env=environment
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(CirillaError, match=f"by process {first.pid} on "), held(out):
            pass
        first.send_signal(signal.SIGKILL)
    with held(out):
        assert str(os.getpid()) in (out / ".running").read_text()
    assert list(out.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / "new"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
