"""What a run came to, in numbers: as JSON holds them and as a table shows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cirilla_cli.report.read import Run, is_number
from cirilla_cli.units import show_bytes, show_count, show_seconds


@dataclass(frozen=True)
class Cell:
    """One number of one run, as text."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One number of every run."""

    title: str
    cells: list[Cell]


def final(run: Run) -> dict[str, Any]:
    """The last, lowest or mean value of what a run measured; None where it is not known."""
    val, tokens, seconds = run.points("val_loss"), _last(run, "tokens"), _total(run, "seconds")
    best = min(val, key=lambda point: point[1], default=(None, None))
    rates = [value for _, value in run.points("tokens_per_second")]
    return {
        "step": run.step, "steps": run.steps, "finished": run.is_finished, "loss": _last(run, "loss"),
        "val_loss": val[-1][1] if val else None, "best_val_loss": best[1], "best_step": best[0],
        "tokens": None if tokens is None else int(tokens), "seconds": seconds,
        "tokens_per_second": sum(rates) / len(rates) if rates else None, "mfu": _last(run, "mfu"),
        "peak_memory_bytes": _last(run, "peak_memory_bytes"), "parameters": _total(run, "parameters"),
    }  # fmt: skip


def _last(run: Run, key: str) -> float | None:
    points = run.points(key)
    return points[-1][1] if points else None


def _total(run: Run, key: str) -> float | None:
    """A number of the whole run: over all its sittings where a checkpoint says it, else of the last sitting."""
    value = run.state.get(key, run.report.get(key))
    return value if is_number(value) else None


def _decimal(value: float) -> str:
    return f"{value:.4f}"


_SHOWN: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("loss", "training loss, last", _decimal), ("val_loss", "validation loss, last", _decimal),
    ("best_val_loss", "validation loss, lowest", _decimal), ("best_step", "after step", lambda step: f"{step:,}"),
    ("parameters", "parameters", show_count), ("tokens", "tokens trained on", show_count),
    ("seconds", "time in steps", show_seconds), ("tokens_per_second", "tokens/s, mean", show_count),
    ("mfu", "share of the matmul rate, last", lambda share: f"{share:.0%}"),
    ("peak_memory_bytes", "peak memory", show_bytes),
)  # fmt: skip
_LOWER_IS_BETTER = frozenset({"best_val_loss"})


def table(found: Sequence[dict[str, Any]]) -> list[Line]:
    """The numbers of every run as lines of text; what no run has is left out."""
    lines = [Line("step", [Cell(_step(numbers)) for numbers in found])]
    for key, title, show in _SHOWN:
        values = [numbers[key] for numbers in found]
        known = [value for value in values if value is not None]
        lowest = min(known) if key in _LOWER_IS_BETTER and len(known) > 1 else None
        cells = [Cell("" if v is None else show(v), best=v is not None and v == lowest) for v in values]
        if known:
            lines.append(Line(title, cells))
    return lines


def _step(numbers: dict[str, Any]) -> str:
    of = "" if numbers["steps"] is None else f" of {numbers['steps']:,}"
    return f"{numbers['step']:,}{of}"
