"""Work under way as a terminal shows it: a bar for each kind, and below training's its loss and figures."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cirilla_cli.progress import Progress
from cirilla_cli.units import show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

_WIDEST_BAR, _NARROWEST_BAR, _WIDEST_CURVE = 32, 8, 40


def figure(name: str, value: float) -> str:
    """One figure of `Progress.step` as text."""
    match name:
        case "memory":
            return show_bytes(value)
        case "mfu":
            return f"{value:.0%} mfu"
        case "tok/s":
            return f"{show_count(value)} tok/s"
    return f"{name} {value:.4g}"


class Curve:
    """A series of any length in little memory: once it is long, neighbours are joined into their mean."""

    def __init__(self, most: int = 2048) -> None:
        self.values: list[float] = []
        self._most, self._joined, self._waiting = most, 1, list[float]()

    def add(self, value: float) -> None:
        """Take in the next value; what is no finite number is left out."""
        if not math.isfinite(value):
            return
        self._waiting.append(value)
        if len(self._waiting) == self._joined:
            self.values.append(sum(self._waiting) / self._joined)
            self._waiting = []
        if len(self.values) == self._most:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self._joined *= 2


@dataclass
class Work:
    """One kind of work: how far it is, since when, and its latest figures."""

    what: str
    begun: float
    first: float
    """Units that were done when it was first heard of: a run may continue an earlier one."""
    done: float = 0.0
    total: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    losses: Curve = field(default_factory=Curve)

    def hear(self, done: float, total: float | None, figures: dict[str, float]) -> None:
        """Take in what `Progress.step` says."""
        self.done, self.total = done, total
        self.figures |= figures
        if "loss" in figures:
            self.losses.add(figures["loss"])

    @property
    def count(self) -> str:
        """How much is done of how much."""
        return f"{self.done:,.0f}" if self.total is None else f"{self.done:,.0f}/{self.total:,.0f}"

    def left(self, now: float) -> str:
        """Time until the total at the pace so far; empty where nothing can be said."""
        here = self.done - self.first
        if not self.total or here <= 0 or self.done >= self.total:
            return ""
        return f"{show_seconds((now - self.begun) / here * (self.total - self.done))} left"


class Board:
    """Hears of work and draws it, as wide as the terminal is; rich asks for it some times a second."""

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.works: dict[str, Work] = {}

    def say(self, text: str) -> None:
        """One line above the view."""
        self.console.print(text, markup=False, highlight=False, emoji=False)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        """Remember how far a kind of work is; what is done is shown no longer."""
        work = self.works.setdefault(what, Work(what, self.clock(), done))
        work.hear(done, total, figures)
        if total is not None and done >= total:
            del self.works[what]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        for work in list(self.works.values()):
            for line in _lines(work, self.clock(), options.max_width, plain=options.ascii_only):
                line.no_wrap, line.overflow = True, "ellipsis"
                yield line


def _lines(work: Work, now: float, width: int, *, plain: bool) -> "Iterator[Text]":
    from rich.text import Text

    yield _head(work, now, width, plain=plain)
    figures = dict(work.figures)
    if "loss" in figures:
        shown = [figure(name, figures.pop(name)) for name in ("loss", "val") if name in figures]
        yield _loss_line(shown, work.losses.values, width, plain=plain)
    for line in flow([figure(name, value) for name, value in figures.items()], width - 2):
        yield Text(f"  {line}")


def _head(work: Work, now: float, width: int, *, plain: bool) -> "Text":
    """Name, count, bar, share and time left; on a narrow terminal without the bar."""
    from rich.text import Text

    share = min(1.0, work.done / work.total) if work.total else None
    after = "" if share is None else "  ".join(part for part in (f"{share:.0%}", work.left(now)) if part)
    head = Text.assemble((work.what, "bold"), f" {work.count}", "  " if after else "")
    room = min(_WIDEST_BAR, width - head.cell_len - len(after) - 2)
    if share is not None and room >= _NARROWEST_BAR:
        done = round(share * room)
        full, empty = "#-" if plain else "━─"
        head.append(full * done, "cyan").append(empty * (room - done), "dim").append("  ")
    return head.append(after)


def _loss_line(shown: list[str], losses: list[float], width: int, *, plain: bool) -> "Text":
    """The loss, its curve and the last evaluation's."""
    from rich.text import Text

    from cirilla_cli.engine.metrics import sparkline

    room = min(_WIDEST_CURVE, width - len("  ".join(shown)) - 4)
    curve = "" if plain or room < _NARROWEST_BAR else sparkline(losses, room) + "  "
    return Text.assemble("  ", (shown[0], "bold"), "  ", (curve, "cyan"), "  ".join(shown[1:]))


def flow(parts: list[str], width: int) -> list[str]:
    """Parts set one after another on as few lines as hold them."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return lines


@contextlib.contextmanager
def board() -> Iterator[Progress | None]:
    """A view on stderr that goes when the work ends; None under NO_COLOR or on a terminal that cannot be drawn on."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if console.no_color or console.is_dumb_terminal or not console.is_terminal:
        yield None
        return
    listener = Board(console)
    # What goes into a file or a pipe must go there; on the terminal it is to stand above the view.
    above = sys.stdout.isatty()
    with Live(listener, console=console, transient=True, refresh_per_second=4, redirect_stdout=above):
        yield listener
