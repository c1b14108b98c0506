"""Training speed and memory beside litgpt, transformers, nanoGPT and TRL, on the same tokens, in one run.

    python -m benchmarks.train_peers --peer litgpt=/venvs/litgpt/bin/python --peer transformers=/venvs/hf/bin/python \\
        --peer trl=/venvs/hf/bin/python --chats gsm8k/train.jsonl --pairs gsm8k/example_model_solutions.jsonl

Each peer runs in a process and a Python of its own; nanoGPT wants a checkout, `--peer nanogpt=PYTHON:CHECKOUT`. Runs of
the 34M shape in bfloat16 are taken in turn, the whole round again and again (`--repeats`), so that all meet the same
weather; the other settings are taken once. Each result is a line of `--results`, and a run that was stopped goes on
with what is missing. Peers run as they come and, as `+malloc`, under the allocator settings that cirilla sets for
itself; `ours stock` is without them. `ours saving` computes activations again and updates within the backward pass.

Floating-point operations are those of matrix products (6 per weight and token without the embedding, causal attention
by half its square); the ceiling is what this machine reaches with those very shapes, forward and backward. Memory is
the process's peak less what stood once imports were done.

With `--chats` and `--pairs`, and TRL as a peer: fine-tuning on conversations, by tokens that are trained on a second,
and DPO by pairs a second, the reference's passes included. TRL pads 8 rows a step, computes activations again, and
runs DPO's reference beside the policy; `packed` and `kept` are what it offers in place of the first two.
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

from benchmarks import tuning_texts
from cirilla_cli.cli.allocator import UNCACHED, without_cache

HERE = Path(__file__).parent
SHAPES: dict[str, dict[str, Any]] = {
    "34m": dict(layers=8, width=512, heads=8, hidden=1408, vocab=8192, tied=False, rows=4, length=512),
    "34m-32k": dict(layers=8, width=512, heads=8, hidden=1408, vocab=32768, tied=False, rows=4, length=512),
    "124m": dict(layers=12, width=768, heads=12, hidden=2048, vocab=50304, tied=True, rows=2, length=1024),
    "sft": dict(layers=8, width=512, heads=8, hidden=1408, vocab=8192, tied=False, rows=2, length=1024),
    "dpo": dict(layers=8, width=512, heads=8, hidden=1408, vocab=8192, tied=False, rows=2, length=1024),
}
TUNING = {"sft": "tokens", "dpo": "pairs"}
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1), "MALLOC_MMAP_MAX_": "0", "GLIBC_TUNABLES": UNCACHED}
"""What `cli/allocator.py` sets from the second step on, as glibc reads it from the environment."""
RUNNERS = {"ours": "ours", "litgpt": "litgpt_llama", "transformers": "transformers_llama", "nanogpt": "nanogpt"}
GUESSED_FLOPS = {"float32": 1.1e11, "mixed": 2.3e11}
"""Operations a second, to tell beforehand how long the runs take."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a shape in a precision, by a peer, in a way that words describe."""

    setting: str
    peer: str
    way: str = ""
    repeated: bool = False

    @property
    def name(self) -> str:
        """As `--only` and the table spell it."""
        return f"{self.peer} {self.way}".strip()

    @property
    def shape(self) -> dict[str, Any]:
        """The sizes that every peer has."""
        return SHAPES[self.setting.split()[0]]

    @property
    def precision(self) -> str:
        """float32 or mixed."""
        return self.setting.split()[1]


def cells(peers: list[str], chats: bool, pairs: bool) -> Iterator[Cell]:
    """The 34M shape in bfloat16 in every way; the larger vocabulary, the larger shape and float32 as peers come."""
    plain = [name for name in peers if name != "trl"]
    for way in ("", "stock", "compiled", "saving"):
        yield Cell("34m mixed", "ours", way, repeated=way != "compiled")
    for peer in plain:
        for way in ("", "+malloc", "compiled", "compiled +malloc"):
            yield Cell("34m mixed", peer, way, repeated=way != "compiled +malloc")
    for setting in ("34m float32", "34m-32k mixed", "124m mixed"):
        yield from (Cell(setting, peer) for peer in ["ours", *plain])
        yield from (Cell(setting, peer, "compiled") for peer in plain if "mixed" in setting)
    if "trl" in peers:
        if chats:
            yield Cell("sft mixed", "ours")
            yield from (Cell("sft mixed", "trl", way) for way in ("", "packed", "packed kept"))
        if pairs:
            yield Cell("dpo mixed", "ours")
            yield from (Cell("dpo mixed", "trl", way) for way in ("", "kept"))


def chosen(every: list[Cell], text: str) -> list[Cell]:
    """The cell whose setting and name are ``text``, or all that have it in them."""
    spelled = [(f"{cell.setting} {cell.name}", cell) for cell in every]
    return [cell for said, cell in spelled if said == text] or [cell for said, cell in spelled if text in said]


def flops_per_token(shape: dict[str, Any]) -> float:
    """Operations of matrix products of one token, forward and backward."""
    width, hidden = shape["width"], shape["hidden"]
    weights = shape["layers"] * (4 * width * width + 3 * width * hidden) + width * shape["vocab"]
    attention = shape["layers"] * 2 * shape["length"] / 2 * width
    return float(6 * (weights + attention))


def steps_of(cell: Cell, steps: int) -> tuple[int, int]:
    """Steps that are not timed, and those that are; fewer of the large shape, whose steps are long and alike."""
    warmup = 3 if "compiled" in cell.way else 2
    return (warmup, max(2, steps // 2)) if cell.setting.startswith("124m") else (warmup, steps)


def guessed_seconds(cell: Cell, steps: int) -> float:
    """About what a cell takes on two quiet cores, its imports and compilation included."""
    tokens = cell.shape["rows"] * cell.shape["length"]
    one = tokens * flops_per_token(cell.shape) / GUESSED_FLOPS[cell.precision]
    passes = 2 if cell.setting.split()[0] in TUNING else 1
    return float(7 + 25 * ("compiled" in cell.way) + sum(steps_of(cell, steps)) * one * passes)


def measured(cell: Cell, peers: dict[str, str], given: argparse.Namespace, data: dict[str, Path]) -> dict[str, Any]:
    """Run a cell in a process of its own."""
    kind = cell.setting.split()[0]
    python, _, checkout = peers[cell.peer].partition(":")
    runner = f"tune_{cell.peer}" if kind in TUNING else RUNNERS[cell.peer]
    warmup, timed = steps_of(cell, given.steps)
    task = {
        **cell.shape, "precision": cell.precision, "compiled": "compiled" in cell.way, "warmup": warmup,
        "steps": timed, "lr": 3e-4, "tokens": str(data.get(kind, data["tokens"])), "checkout": checkout,
        "objective": kind if kind in TUNING else "", "way": cell.way, "threads": given.threads,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        tuned = cell.peer == "ours" and cell.way != "stock"
        plain = without_cache(os.environ) if tuned else dict(os.environ)
        environment = plain | (MALLOC if "+malloc" in cell.way else {})
        command = [python, str(HERE / "peers" / f"{runner}.py"), file.name]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_data(folder: Path, chats: Path | None, pairs: Path | None) -> dict[str, Path]:
    """Ids that every peer can embed, which ones does not matter to the clock; and what tuning reads."""
    import numpy as np

    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, 8192, 2_000_000, dtype=np.uint16))
    found = {"tokens": folder / "tokens.npy"}
    if chats is not None:
        found["sft"] = tuning_texts.prepare(tuning_texts.chats(chats), folder / "sft")
    if pairs is not None:
        found["dpo"] = tuning_texts.prepare(tuning_texts.pairs(pairs), folder / "dpo")
    return found


def ceiling(shape: dict[str, Any], precision: str, threads: int) -> float:
    """Operations a second of this shape's matrix products alone, forward and backward."""
    import torch

    torch.set_num_threads(threads)
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


def read(results: Path) -> list[dict[str, Any]]:
    """All results so far."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def pending(wanted: list[Cell], repeats: int, rows: list[dict[str, Any]]) -> list[Cell]:
    """What a stopped run has left, round by round, each round in an order of its own."""
    done: dict[str, int] = defaultdict(int)
    for row in rows:
        done[f"{row['setting']} {row['name']}"] += "error" not in row
    left = []
    for turn in range(repeats):
        this = [c for c in wanted if (turn == 0 or c.repeated) and done[f"{c.setting} {c.name}"] <= turn]
        random.Random(turn).shuffle(this)
        left += this
    return left


# The table


def table(rows: list[dict[str, Any]], threads: int) -> str:
    """Medians of every cell, by setting, with the ratio to the best peer's best."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if "error" in row:
            failed[row["setting"]][row["name"]] = row["error"]
        else:
            found[row["setting"]][row["name"]].append(row)
    parts = []
    for setting in dict.fromkeys([*found, *failed]):
        lines = _part(setting, found[setting], threads)
        lines += [f"{n:26}failed: {e}" for n, e in failed[setting].items() if n not in found[setting]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _part(setting: str, found: dict[str, list[dict[str, Any]]], threads: int) -> list[str]:
    kind, _, precision = setting.partition(" ")
    if kind in TUNING:
        speed = {name: statistics.median(run["rate"] for run in runs) for name, runs in found.items()}
        return [*_tuned(kind, speed, found), *_ratios(speed, found)]
    tokens = SHAPES[kind]["rows"] * SHAPES[kind]["length"]
    speed = {
        name: statistics.median(tokens / s for run in runs for s in run["seconds"]) for name, runs in found.items()
    }
    top = ceiling(SHAPES[kind], precision, threads)
    lines = [
        f"{setting}, {tokens} tokens a step; matrix products alone {top / 1e9:.0f} GFLOP/s",
        f"{'':26}{'tokens/s':>9}{'GFLOP/s':>9}{'of it':>7}{'peak MB':>9}{'runs':>6}",
    ]
    for name, rate in sorted(speed.items(), key=lambda item: -item[1]):
        done = rate * flops_per_token(SHAPES[kind])
        lines.append(
            f"{name:26}{rate:9.0f}{done / 1e9:9.0f}{done / top:7.0%}{peak(found[name]) / 1e6:9.0f}{len(found[name]):6}"
        )
    return lines + _ratios(speed, found)


def _tuned(kind: str, speed: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield f"{kind} on the given rows, the 34M shape in bfloat16"
    yield f"{'':26}{TUNING[kind] + '/s':>9}{'peak MB':>9}{'runs':>6}"
    for name, rate in sorted(speed.items(), key=lambda item: -item[1]):
        yield f"{name:26}{rate:9.2f}{peak(found[name]) / 1e6:9.0f}{len(found[name]):6}"


def peak(runs: list[dict[str, Any]]) -> float:
    """Bytes, the median of runs."""
    return float(statistics.median(run["peak_bytes"] for run in runs))


def _ratios(speed: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Our best over the best peer's, as it comes and of all; our memory over that of the usual eager peers."""
    mine, theirs = (
        {name: rate for name, rate in speed.items() if name.startswith("ours") == own} for own in (True, False)
    )
    stock = {name: rate for name, rate in theirs.items() if "+malloc" not in name}
    lines = []
    for said, others in (("best as it comes", stock), ("best of all", theirs)):
        if mine and others:
            top, best = max(mine, key=mine.__getitem__), max(others, key=others.__getitem__)
            lines.append(f"speed: {top} / {best} {mine[top] / others[best]:.2f} ({said})")
    eager = [name for name in ("transformers", "transformers +malloc", "trl") if name in found]
    lines += [
        f"memory: {name} / {other} {peak(found[name]) / peak(found[other]):.2f}"
        for other in eager for name in ("ours", "ours stock", "ours saving") if name in found
    ]  # fmt: skip
    return lines


def main() -> None:
    """Measure what is wanted and missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON[:CHECKOUT]")
    parser.add_argument("--chats", type=Path, help="conversations, or questions and answers, as JSON lines")
    parser.add_argument("--pairs", type=Path, help="preferences, or right and wrong answers, as JSON lines")
    parser.add_argument("--only", default="", help="a cell's setting and name, or a part of them, such as `34m mixed`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("train_peers.jsonl"))
    given = parser.parse_args()
    peers = {"ours": sys.executable} | dict(peer.split("=", 1) for peer in given.peer)
    every = cells([name for name in peers if name != "ours"], given.chats is not None, given.pairs is not None)
    wanted = chosen(list(every), given.only)
    left = pending(wanted, given.repeats, read(given.results))
    minutes = sum(guessed_seconds(cell, given.steps) for cell in left) / 60
    print(f"{len(left)} runs, about {minutes:.0f} minutes on two quiet cores", file=sys.stderr, flush=True)
    given.results.touch()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), given.chats, given.pairs)
        for cell in left:
            print(f"{cell.setting} {cell.name} ...", file=sys.stderr, flush=True)
            row = {"setting": cell.setting, "name": cell.name} | measured(cell, peers, given, data)
            with given.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(table(read(given.results), given.threads))


if __name__ == "__main__":
    main()
