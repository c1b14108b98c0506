"""The curves of a run as a picture."""

from pathlib import Path
from typing import Any


def draw_curves(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss (training and validation), learning rate and speed over steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, speed = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    _line(loss, metrics, "loss", "training", "#3465a4")
    _line(loss, metrics, "val_loss", "validation", "#cc0000", marker="o")
    loss.set_ylabel("loss (nats)")
    loss.legend()
    loss.set_title(title)
    _line(rate, metrics, "lr_factor", None, "#4e9a06")
    rate.set_ylabel("learning rate\n(share of peak)")
    _line(speed, metrics, "tokens_per_second", None, "#75507b")
    speed.set_ylabel("trained\ntokens/s")
    speed.set_xlabel("step")
    for axis in (loss, rate, speed):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _line(axis: Any, metrics: list[dict[str, Any]], key: str, label: str | None, color: str, marker: str = "") -> None:
    points = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, color=color, marker=marker, markersize=3, linewidth=1.2)
