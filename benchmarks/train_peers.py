"""Training speed and memory beside litgpt, transformers and nanoGPT, on the same tokens, in one run.

    python benchmarks/train_peers.py --peer litgpt=/venvs/litgpt/bin/python --peer transformers=/venvs/hf/bin/python

Each peer runs in a process and a Python of its own; nanoGPT wants a checkout, `--peer nanogpt=PYTHON:CHECKOUT`. Cells
are measured in turn, the whole round again and again (`--repeats`), so that all meet the same weather; each result is a
line of `--results`, and a run that was stopped goes on with what is missing. Peers run as they come and, as
`+malloc`, under the allocator settings that cirilla sets for itself.

Floating-point operations are those of matrix products (6 per weight and token without the embedding, causal attention
by half its square); the ceiling is what this machine reaches with those very shapes, forward and backward.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPES: dict[str, dict[str, Any]] = {
    "34m": dict(layers=8, width=512, heads=8, hidden=1408, vocab=8192, tied=False, rows=4, length=512),
    "34m-32k": dict(layers=8, width=512, heads=8, hidden=1408, vocab=32768, tied=False, rows=4, length=512),
    "124m": dict(layers=12, width=768, heads=12, hidden=2048, vocab=50304, tied=True, rows=2, length=1024),
}
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
RUNNERS = {
    "ours": "ours.py",
    "litgpt": "litgpt_llama.py",
    "transformers": "transformers_llama.py",
    "nanogpt": "nanogpt.py",
}


@dataclass(frozen=True)
class Cell:
    """One thing to measure."""

    shape: str
    precision: str
    compiled: bool
    peer: str
    malloc: bool

    @property
    def setting(self) -> str:
        """What every peer has in common in one table."""
        return f"{self.shape} {self.precision}"

    @property
    def name(self) -> str:
        """As `--only` and the table spell it."""
        return f"{self.peer}{' compiled' if self.compiled else ''}{' +malloc' if self.malloc else ''}"


def cells(peers: list[str]) -> Iterator[Cell]:
    """The 34M shape in bfloat16 in every way; float32, the larger vocabulary and the larger shape as peers come."""
    for peer in ["ours", *peers]:
        ways = [(False, False)] if peer == "ours" else [(c, m) for c in (False, True) for m in (False, True)]
        for compiled, malloc in ways:
            yield Cell("34m", "mixed", compiled, peer, malloc)
            for shape, precision in (("34m", "float32"), ("34m-32k", "mixed"), ("124m", "mixed")):
                yield Cell(shape, precision, compiled, peer, malloc)


def flops_per_token(shape: dict[str, Any]) -> float:
    """Operations of matrix products of one token, forward and backward."""
    width, hidden = shape["width"], shape["hidden"]
    weights = shape["layers"] * (4 * width * width + 3 * width * hidden) + width * shape["vocab"]
    attention = shape["layers"] * 2 * shape["length"] / 2 * width
    return 6.0 * (weights + attention)


def measured(cell: Cell, peers: dict[str, str], steps: int, tokens: Path) -> dict[str, Any]:
    """Run a cell in a process of its own."""
    python, _, checkout = peers[cell.peer].partition(":")
    task = {
        **SHAPES[cell.shape], "precision": cell.precision, "compiled": cell.compiled, "steps": steps,
        "warmup": 4 if cell.compiled else 2, "lr": 3e-4, "tokens": str(tokens), "checkout": checkout,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        environment = os.environ | (MALLOC if cell.malloc else {})
        runner = HERE / "peers" / RUNNERS[cell.peer]
        done = subprocess.run([python, str(runner), file.name], capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_tokens(path: Path) -> None:
    """Ids that every peer can embed; which ones does not matter to the clock."""
    import numpy as np

    np.save(path, np.random.default_rng(0).integers(0, 8192, 2_000_000, dtype=np.uint16))


def ceiling(shape: dict[str, Any], precision: str) -> float:
    """Operations a second of this shape's matrix products alone, forward and backward."""
    import torch

    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    rows, width, hidden = shape["rows"] * shape["length"], shape["width"], shape["hidden"]
    products = [(width, width, 4 * shape["layers"]), (width, hidden, 2 * shape["layers"])]
    products += [(hidden, width, shape["layers"]), (width, shape["vocab"], 1)]
    seconds = operations = 0.0
    for inner, outer, times in products:
        x, w, g = (torch.randn(*size, dtype=dtype) for size in ((rows, inner), (outer, inner), (rows, outer)))
        took = []
        for _ in range(7):
            started = time.perf_counter()
            x @ w.T, g @ w, g.T @ x
            took.append(time.perf_counter() - started)
        seconds += times * statistics.median(took[1:])
        operations += times * 6.0 * rows * inner * outer
    return operations / seconds


def pending(wanted: list[Cell], repeats: int, results: Path) -> list[Cell]:
    """What a stopped run has left, round by round, each round in an order of its own."""
    done: dict[str, int] = defaultdict(int)
    for line in results.read_text(encoding="utf-8").splitlines() if results.is_file() else ():
        row = json.loads(line)
        done[f"{row['setting']} {row['name']}"] += 1
    left = []
    for turn in range(repeats):
        this = [cell for cell in wanted if done[f"{cell.setting} {cell.name}"] <= turn]
        random.Random(turn).shuffle(this)
        left += this
    return left


def table(results: Path) -> str:
    """Medians of every cell, by setting, with the ratio to the best peer's best."""
    rows: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["setting"]][row["name"]].append(row)
    return "\n\n".join(_part(setting, found) for setting, found in rows.items())


def _part(setting: str, found: dict[str, list[dict[str, Any]]]) -> str:
    shape, _, precision = setting.partition(" ")
    tokens = SHAPES[shape]["rows"] * SHAPES[shape]["length"]
    speed = {
        name: statistics.median(tokens / s for run in runs for s in run["seconds"])
        for name, runs in found.items() if all("seconds" in run for run in runs)
    }  # fmt: skip
    top = ceiling(SHAPES[shape], precision)
    lines = [
        f"{setting}, {tokens} tokens a step; matrix products alone {top / 1e9:.0f} GFLOP/s",
        f"{'':26}{'tokens/s':>9}{'GFLOP/s':>9}{'of it':>7}{'peak MB':>9}{'runs':>6}",
    ]
    for name, rate in sorted(speed.items(), key=lambda item: -item[1]):
        done = rate * flops_per_token(SHAPES[shape])
        memory = statistics.median(run["peak_bytes"] for run in found[name]) / 1e6
        lines.append(f"{name:26}{rate:9.0f}{done / 1e9:9.0f}{done / top:7.0%}{memory:9.0f}{len(found[name]):6}")
    lines += [f"{name:26}failed: {runs[0]['error']}" for name, runs in found.items() if "error" in runs[0]]
    return "\n".join(lines + _ratios(speed, found))


def _ratios(speed: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> list[str]:
    if "ours" not in speed or len(speed) < 2:
        return []
    stock = max(rate for name, rate in speed.items() if name != "ours" and "+malloc" not in name)
    best = max(rate for name, rate in speed.items() if name != "ours")
    lines = [f"ours / best peer as it comes {speed['ours'] / stock:.2f}, / best peer {speed['ours'] / best:.2f}"]
    if "transformers" in found:
        peaks = [statistics.median(run["peak_bytes"] for run in found[name]) for name in ("ours", "transformers")]
        lines.append(f"memory: ours / transformers eager {peaks[0] / peaks[1]:.2f}")
    return lines


def main() -> None:
    """Measure what is wanted and missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON[:CHECKOUT]")
    parser.add_argument("--only", default="", help="text that a cell's setting and name hold, such as `34m mixed`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--results", type=Path, default=Path("train_peers.jsonl"))
    given = parser.parse_args()
    peers = {"ours": sys.executable} | dict(peer.split("=", 1) for peer in given.peer)
    wanted = [c for c in cells([name for name in peers if name != "ours"]) if given.only in f"{c.setting} {c.name}"]
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.npy"
        make_tokens(tokens)
        for cell in pending(wanted, given.repeats, given.results):
            print(f"{cell.setting} {cell.name} ...", file=sys.stderr, flush=True)
            row = {"setting": cell.setting, "name": cell.name} | measured(cell, peers, given.steps, tokens)
            with given.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(table(given.results))


if __name__ == "__main__":
    main()
