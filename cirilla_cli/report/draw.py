"""Curves of one or several runs as pictures, SVG and PNG, readable without colour."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cirilla_cli.report.read import Points, Run, is_number
from cirilla_cli.units import show_count

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people can tell apart, but for its yellow: too light on white."""
_MARKERS, _DASHES = "os^DvPX", ("-", "--", "-.", ":")
MOST_POINTS = 600
"""A curve with more is drawn from means."""
_FILE_NAME = re.compile(r"\w{1,40}", re.ASCII)
_LOG_FROM = 20.0
"""Largest over smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class Panel:
    """One picture: a metric over steps, or over tokens."""

    slug: str
    title: str
    unit: str
    curves: Sequence[Callable[[Run], Points]]
    """What is drawn of a run: a line, and over it one with marks."""
    labels: tuple[str, ...] = ()
    number: Callable[[float], str] = lambda value: f"{value:.4g}"
    may_be_log: bool = False
    from_zero: bool = False
    over: str = "step"


@dataclass(frozen=True)
class Picture:
    """A drawn panel."""

    slug: str
    title: str
    svg: str
    png: bytes


def metric(key: str, over: str = "step", scale: float = 1.0) -> Callable[[Run], Points]:
    """What draws one key of metrics.jsonl, its values times ``scale``."""
    return lambda run: [(at, value * scale) for at, value in run.points(key, over)]


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


LOSS = Panel("loss", "Loss", "nats", (metric("loss"), metric("val_loss")), ("training", "validation"), may_be_log=True)
OVER_TOKENS = Panel(
    "loss-over-tokens", "Loss over tokens", "nats", (metric("loss", "tokens"), metric("val_loss", "tokens")),
    ("training", "validation"), may_be_log=True, over="tokens trained on",
)  # fmt: skip
OTHERS = (
    Panel("gradient-norm", "Gradient norm, before clipping", "", (metric("grad_norm"),), may_be_log=True),
    Panel(
        "throughput", "Throughput", "trained tokens/s", (metric("tokens_per_second"),), (), show_count, from_zero=True
    ),
    Panel("mfu", "Share of the machine's matmul rate (MFU)", "", (metric("mfu"),), (), _percent, from_zero=True),
    Panel("memory", "Peak memory so far", "GiB", (metric("peak_memory_bytes", scale=2.0**-30),), from_zero=True),
)
_KNOWN = {
    "step", "loss", "val_loss", "lr_factor", "grad_norm", "tokens_per_second", "peak_memory_bytes", "tokens",
    "step_seconds", "mfu", "best",
}  # fmt: skip


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """The panels that have something to show: the fixed ones, then one for each further metric of the runs."""
    keys = dict.fromkeys(key for run in runs for row in run.rows for key in row if key not in _KNOWN)
    bare = [key for key in keys if not (key.startswith("val_") and key.removeprefix("val_") in keys)]
    # An objective of one term logs it under its own name too.
    rest = [key for key in bare if any(run.points(key) != run.points("loss") for run in runs)]
    further = [
        Panel(
            f"metric-{key if _FILE_NAME.fullmatch(key) else n}",
            shortened(key, 60),
            "",
            (metric(key), metric(f"val_{key}")),
            ("training", "validation"),
        )
        for n, key in enumerate(rest, 1)
    ]
    losses = (LOSS, OVER_TOKENS) if len(runs) > 1 else (LOSS,)
    return [
        panel
        for panel in (*losses, _rate(runs), *OTHERS, *further)
        if any(curve(run) for curve in panel.curves for run in runs)
    ]


def _rate(runs: Sequence[Run]) -> Panel:
    """The learning rate itself where every recipe says its peak, else the schedule's share of the peak."""
    if all(_peak(run) is not None for run in runs):
        return Panel("learning-rate", "Learning rate", "", (_rates,), from_zero=True)
    return Panel("learning-rate", "Learning rate", "share of peak", (metric("lr_factor"),), from_zero=True)


def _rates(run: Run) -> Points:
    peak = _peak(run) or 0.0
    return [(step, factor * peak) for step, factor in run.points("lr_factor")]


def _peak(run: Run) -> float | None:
    optim = run.recipe.get("optim")
    peak = optim.get("lr") if isinstance(optim, dict) else None
    return float(peak) if is_number(peak) else None  # type: ignore[arg-type]


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most ``most`` points: means over groups of neighbours, each at its last step."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if size > 1 else [[point] for point in points]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def draw(panel: Panel, runs: Sequence[Run]) -> Picture:
    """A panel with the curves of every run over one another."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    svg, png = io.StringIO(), io.BytesIO()
    # Names and keys are text, whatever dollar signs they hold.
    settings = {"svg.hashsalt": "cirilla", "text.parse_math": False, "font.size": 10}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a box stands for a letter that the font lacks
        figure = Figure(figsize=(9, 4.2 if panel.slug == "loss" else 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure.subplots(), panel, runs)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=130)
    return Picture(panel.slug, panel.title, svg.getvalue(), png.getvalue())


def _fill(axis: Any, panel: Panel, runs: Sequence[Run]) -> None:
    drawn = [[thinned(curve(run)) for curve in panel.curves] for run in runs]
    named = panel.labels if any(points for curves in drawn for points in curves[1:]) else ()
    shown: list[tuple[Any, str]] = []
    for number, curves in enumerate(drawn):
        for order, points in enumerate(curves):
            if points:
                line = _line(axis, points, number, order, pale=bool(named) and len(runs) > 1, alone=len(runs) == 1)
                shown.append((line, _label(named, runs, number, order)))
    _scale(axis, panel, [value for curves in drawn for points in curves for _, value in points])
    axis.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(panel.over)
    axis.set_ylabel(panel.unit)
    if len(shown) > 1 or len(runs) > 1:
        # Beside the curves, so that it never covers them.
        axis.legend(*zip(*shown, strict=True), loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def _line(axis: Any, points: Points, number: int, order: int, *, pale: bool, alone: bool) -> Any:
    """One curve: the first of a run thin, what was evaluated thick with marks; a run has one colour."""
    colour = _COLOURS[(order if alone else number) % len(_COLOURS)]
    marked, few = order > 0, len(points) < 3
    (line,) = axis.plot(
        *zip(*points, strict=True), color=colour, linewidth=2.0 if marked else 1.2, markersize=5,
        alpha=0.65 if pale and not marked else 1.0,
        linestyle=_DASHES[number % len(_DASHES)], marker=_MARKERS[number % len(_MARKERS)] if marked or few else "",
        markevery=max(1, len(points) // 12),
    )  # fmt: skip
    return line


def _label(labels: tuple[str, ...], runs: Sequence[Run], number: int, order: int) -> str:
    """What a curve is; begins with the number of its run, for matplotlib leaves out names that begin with `_`."""
    what = labels[order] if labels else ""
    name = f"{number + 1}: {shortened(runs[number].name)}" if len(runs) > 1 else ""
    return ", ".join(part for part in (name, what) if part)


def shortened(name: str, most: int = 28) -> str:
    """A name on one line that fits a legend: its end tells runs apart."""
    line = " ".join("".join(char if char.isprintable() else " " for char in name).split())
    return line if len(line) <= most else "..." + line[3 - most :]


def _scale(axis: Any, panel: Panel, values: list[float]) -> None:
    """Grid, ticks in plain numbers, and logarithms where values span far."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = min(values), max(values)
    if panel.may_be_log and low > 0 and high / low > _LOG_FROM:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif panel.from_zero and low >= 0:
        axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.number(value)))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_count(value)))
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
