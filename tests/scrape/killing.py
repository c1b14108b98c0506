"""Programs that are stopped in the midst of their work."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE_S = 300.0


def wait_until(process: subprocess.Popen[Any], ready: Callable[[], bool]) -> None:
    """Return once ``ready`` says so, which it must do while the process is at work."""
    deadline = time.monotonic() + _PATIENCE_S
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_at_line(process: subprocess.Popen[Any], file: Path, lines: int) -> None:
    """Kill the process once ``file`` has that many lines."""
    wait_until(process, lambda: file.exists() and file.read_bytes().count(b"\n") >= lines)
    process.send_signal(signal.SIGKILL)
    process.communicate()
