"""What reaches the terminal: progress and messages on stderr, results on stdout."""

import contextlib
import gc
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel

from cirilla_cli.cli.dashboard import Work, board, figure
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress, Silent

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, as escapes that can be read."""
_PASSWORD = re.compile(r"(?<=://)[^/\s'\"]+@")
"""A name and a password in an address, which no message repeats."""


@contextlib.contextmanager
def progress_for(*, quiet: bool, verbose: bool = False) -> Iterator[Progress]:
    """A listener for a command that works: a view where stderr is a terminal, a line now and then elsewhere.

    There are lines as well where the terminal is told to have no colours (NO_COLOR) or cannot be drawn on.
    """
    gc.enable()
    if quiet:
        yield Silent()
    elif sys.stderr.isatty() and not verbose:
        with board() as listener:
            yield listener or Lines(10.0)
    else:
        yield Lines(0.0 if verbose else 10.0)


def one_line(text: str) -> str:
    """Anybody's text as the terminal may show it: no line ends, and nothing that the terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def tell(text: str) -> None:
    """Text on stderr. Work does not stop because nobody listens there any more."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


class Lines:
    """Progress as lines: every message, and counts at most once in ``pause_s``."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s, self._last, self._works = pause_s, 0.0, dict[str, Work]()

    def say(self, text: str) -> None:
        """One line on stderr."""
        tell(text)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        """A line, unless one was written just now."""
        now = time.monotonic()
        work = self._works.setdefault(what, Work(what, now, done))
        work.hear(done, total, {})
        if done == total:
            del self._works[what]
        if now - self._last < self.pause_s and done != total:
            return
        self._last = now
        shown = "  ".join([*(figure(name, value) for name, value in figures.items()), work.left(now)])
        tell(f"{what} {work.count}  {shown}".rstrip())


def plain(value: Any) -> Any:
    """A report as JSON can hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def show_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(plain(value), ensure_ascii=False, default=str), flush=True)


def show_error(error: CirillaError, *, as_json: bool) -> None:
    """A user's mistake: the message and what to do about it."""

    def shown(value: Any) -> Any:
        return _PASSWORD.sub("***@", value) if isinstance(value, str) else value

    message = shown(str(error))
    if as_json:
        wheres = [{k: shown(v) for k, v in asdict(w).items() if v is not None} for w in error.where]
        show_json({"error": message, "hint": error.hint, "where": wheres})
        return
    # Names of files and keys are anybody's text, which the terminal is not to obey.
    hint = f"\n\nhint: {error.hint}" if error.hint else ""
    tell(f"error: {message}{hint}".translate(_CONTROLS))


def columns(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows as aligned text; the first is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)
