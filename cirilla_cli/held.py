"""Keeps a folder to one process at a time."""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from cirilla_cli.errors import CirillaError

if sys.platform != "win32":
    import fcntl

FILE = ".running"
"""Says which process is at work here; that one is, is said by the lock on it, which goes with the process."""


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep every other process that asks for it out of ``out`` while the block lasts, where the system has locks.

    Raises:
        CirillaError: there is one already; its process is named.
    """
    if sys.platform == "win32":
        yield
        return
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    path = out / FILE
    handle = _locked(path)
    try:
        # On a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        # Before the lock goes: whoever waits for a file of this name finds that it is no longer the one it opened.
        path.unlink(missing_ok=True)
        os.close(handle)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()


def _locked(path: Path) -> int:
    """A handle of the file, with the only lock on it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(os.close, handle)
            _lock(handle, path)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
                unless_held.pop_all()
                return handle


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 256).decode(errors="replace") or "another one"
        raise CirillaError(
            f"{path.parent}: is being written already, by process {holder}",
            hint="wait until it ends, or --out names another folder",
        ) from None
    except OSError:
        # A file system that knows no locks.
        return
