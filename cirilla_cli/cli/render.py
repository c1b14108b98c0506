"""What reaches the terminal: progress and messages on stderr, results on stdout."""

import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel

from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress, Silent
from cirilla_cli.units import show_bytes, show_count, show_seconds


@contextlib.contextmanager
def progress_for(*, quiet: bool, verbose: bool = False) -> Iterator[Progress]:
    """A listener for a command that works: live where stderr is a terminal, a line now and then elsewhere."""
    gc.enable()
    if quiet:
        yield Silent()
    elif sys.stderr.isatty() and not verbose:
        with live() as listener:
            yield listener
    else:
        yield Lines(0.0 if verbose else 10.0)


def _figures(figures: dict[str, float]) -> str:
    shown = []
    for name, value in figures.items():
        if name == "memory":
            shown.append(show_bytes(value))
        elif name == "mfu":
            shown.append(f"{value:.0%} mfu")
        elif name == "tok/s":
            shown.append(f"{show_count(value)} tok/s")
        else:
            shown.append(f"{name} {value:.4g}")
    return "  ".join(shown)


class Lines:
    """Progress as lines: every message, and counts at most once in ``pause_s``."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s, self._last, self._begun = pause_s, 0.0, {"": 0.0}

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        """A line, unless one was written just now."""
        now = time.monotonic()
        begun = self._begun.setdefault(what, now)
        if now - self._last < self.pause_s and done != total:
            return
        self._last = now
        count = f"{done:,.0f}" if total is None else f"{done:,.0f}/{total:,.0f}"
        left = f"  {show_seconds((now - begun) / done * (total - done))} left" if total and 0 < done < total else ""
        print(f"{what} {count}  {_figures(figures)}{left}".rstrip(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def live() -> Iterator[Progress]:
    """A live line for each kind of work, drawn by rich on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Bars(*columns, console=console, transient=True, refresh_per_second=4) as bars:
        tasks: dict[str, Any] = {}

        class Live:
            def say(self, text: str) -> None:
                console.print(text, markup=False, highlight=False)

            def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total, figures="")
                bars.update(tasks[what], completed=done, total=total, figures=_figures(figures))
                if total is not None and done >= total:
                    bars.remove_task(tasks.pop(what))

        yield Live()


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
    if as_json:
        wheres = [{k: v for k, v in asdict(w).items() if v is not None} for w in error.where]
        show_json({"error": str(error), "hint": error.hint, "where": wheres})
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"\nhint: {error.hint}", file=sys.stderr)


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
