"""What each saver of memory saves and costs, beside a run that keeps everything, in one run.

    python -m benchmarks.memory_savers [--length 4096] [--rows 2] [--precision mixed] [--repeats 2] [--ways none,fused]

The 34M shape of `train_peers.py`, a few steps through the engine's loop, unclipped. Each way runs in a process apart,
all in turn, again and again. Memory is the process's peak less what it held after its imports; the state is what plain
AdamW holds, 16 bytes a parameter of weights, gradients and moments. Time is the processor's of a step, least of all, so
that other work on the machine disturbs it little. The loss after the last step shows what else differs.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cirilla_cli.compat import peak_resident
from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    AdamWConfig,
    ConstantConfig,
    CrossEntropyConfig,
    FullCheckpointingConfig,
    MuonConfig,
    OptimSection,
    PrecisionConfig,
    RecomputeSection,
    SelectiveCheckpointingConfig,
)
from cirilla_cli.engine.recompute import checkpoint_activations
from cirilla_cli.engine.rounding import RoundedOneByOne, store
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Metrics, Trainer
from cirilla_cli.engine.within import OneByOne, WithinBackward
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig


@dataclass(frozen=True)
class Way:
    """Which savers a run has."""

    recompute: RecomputeSection | None = None
    fused: bool = False
    optim: OptimSection = AdamWConfig(lr=3e-4)
    weights: Literal["float32", "bfloat16"] = "float32"


WAYS = {
    "none": Way(),
    "selective": Way(SelectiveCheckpointingConfig()),
    "full": Way(FullCheckpointingConfig()),
    "fused": Way(fused=True),
    "full+fused": Way(FullCheckpointingConfig(), fused=True),
    "8bit": Way(optim=AdamW8bitConfig(lr=3e-4)),
    "full+fused+8bit": Way(FullCheckpointingConfig(), fused=True, optim=AdamW8bitConfig(lr=3e-4)),
    "bf16 weights": Way(weights="bfloat16"),
    "all of them": Way(FullCheckpointingConfig(), fused=True, optim=AdamW8bitConfig(lr=3e-4), weights="bfloat16"),
    "muon": Way(optim=MuonConfig(adamw=AdamWConfig(lr=3e-4))),
    "full+fused+muon": Way(FullCheckpointingConfig(), fused=True, optim=MuonConfig(adamw=AdamWConfig(lr=3e-4))),
}
STEPS = 3


class Rows:
    """Made-up ids, each row one document."""

    rows_per_epoch = 1 << 30

    def __init__(self, rows: int, length: int) -> None:
        self._size = rows, length

    def step(self, index: int) -> list[TokenBatch]:
        """The one micro-batch of a step."""
        ids = torch.randint(8192, self._size, generator=torch.Generator().manual_seed(index))
        return [TokenBatch(ids, ids.roll(-1, 1), torch.zeros_like(ids))]

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """Nothing is validated."""
        return iter(())


class Clock:
    """A hook that notes what each step took of the processor, and its loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.loss = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Note a step."""
        now = time.process_time()
        self.seconds.append(now - self._since)
        self.loss, self._since = metrics["loss"], now

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Nothing is left to do."""


def measure(way: str, length: int, rows: int, precision: str) -> dict[str, Any]:
    """A few steps in this process."""
    torch.set_num_threads(1)
    before = peak_resident() or 0
    config = DecoderConfig(
        vocab_size=8192, context_length=length, d_model=512, n_layers=8, mixers={"A": AttentionConfig(n_heads=8)},
        mlp=SwiGLUConfig(d_ff=1408), tie_embeddings=False,
    )  # fmt: skip
    model, clock, chosen = fresh(config, seed=0), Clock(), WAYS[way]
    if chosen.recompute is not None:
        checkpoint_activations(model, chosen.recompute)
    store(model, PrecisionConfig(weights=chosen.weights))
    optimizer = chosen.optim.build(model)
    rounding = RoundedOneByOne(model, optimizer, 0) if chosen.weights == "bfloat16" else None
    Trainer(
        model=model, objective=CrossEntropyConfig().build(), source=Rows(rows, length), steps=STEPS, seed=0,
        optimizer=optimizer, schedule=Schedule(ConstantConfig(warmup=0), STEPS),
        device=torch.device("cpu"), dtype=torch.float32 if precision == "float32" else torch.bfloat16, hooks=(clock,),
        max_grad_norm=None, within=WithinBackward(model, rounding or OneByOne(optimizer)) if chosen.fused else None,
        rounding=rounding,
    ).fit()  # fmt: skip
    state = 16 * sum(p.numel() for p in model.parameters())
    return {"seconds": min(clock.seconds), "bytes": (peak_resident() or 0) - before, "state": state, "loss": clock.loss}


def elsewhere(way: str, arguments: list[str]) -> dict[str, Any]:
    """The same in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.memory_savers", *arguments, "--way", way]
    found: dict[str, Any] = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    return found


def table(ways: list[str], arguments: list[str], repeats: int) -> None:
    """Every way in turn; ratios are to the first."""
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(repeats):
        for way in ways:
            results[way].append(elsewhere(way, arguments))
    most = {way: max(r["bytes"] for r in found) for way, found in results.items()}
    least = {way: min(r["seconds"] for r in found) for way, found in results.items()}
    state, first = results[ways[0]][0]["state"], ways[0]
    print(f"of {first}, whose state is {state >> 20} MiB\n")
    print("way                   peak MiB  of it   above the state   s a step  of it   loss")
    for way, found in results.items():
        size = most[way]
        print(
            f"{way:<20} {size >> 20:>9}  {size / most[first]:5.2f}  {(size - state) >> 20:>11} MiB   "
            f"{least[way]:8.2f}  {least[way] / least[first]:5.2f}   {found[0]['loss']:.6f}"
        )


def main() -> None:
    """Read the arguments; with --way be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--precision", choices=["mixed", "float32"], default="mixed")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), help="those, with commas")
    parser.add_argument("--way", choices=list(WAYS))
    args = parser.parse_args()
    if args.way is None:
        table(args.ways, [f"--{name}={vars(args)[name]}" for name in ("length", "rows", "precision")], args.repeats)
    else:
        print(json.dumps(measure(args.way, args.length, args.rows, args.precision)))


if __name__ == "__main__":
    main()
