"""metrics.jsonl, and what is computed from it."""

import json
import math
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from cirilla_cli.data.jsonl import repair_tail
from cirilla_cli.fs import write_text

FILE = "metrics.jsonl"


def cut_back(path: Path, step: int) -> None:
    """Drop a log's lines after ``step``, so that a resumed run's curve is that of an uninterrupted one."""
    if not path.is_file():
        return
    repair_tail(path)
    # Only at line ends: samples may hold other characters that splitlines() takes for one.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(line + "\n" for line in kept))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics; a torn last line is passed over."""
    path = run / FILE
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.split("\n")[:-1]]


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product here: the ceiling that MFU is a share of.

    Measured once a process: the next stage of a pipeline has the same device.
    """
    n, tries = (1024, 4) if device.type == "cpu" else (4096, 20)
    if device.type == "cpu" and dtype == torch.float16:
        n = 64  # a CPU takes half a minute for the larger one
    a = torch.ones(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def sparkline(values: list[float], width: int = 40) -> str:
    """A curve in one line of text of at most ``width`` characters, highest value tallest; finite values count."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    bars = min(width, len(values))
    cuts = [len(values) * n // bars for n in range(bars + 1)]
    picked = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(picked), max(picked)
    heights = "▁▂▃▄▅▆▇█"
    return "".join(heights[round((v - low) / (high - low or 1) * (len(heights) - 1))] for v in picked)
