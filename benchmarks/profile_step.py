"""Where the time of a training step goes on a CPU, and what each lever gives, in one run.

    python benchmarks/profile_step.py               each part of a step, in milliseconds
    python benchmarks/profile_step.py levers        the step with each lever taken away, over the whole one
    python benchmarks/profile_step.py memory        peak memory and page faults, with and without the allocator's lever
    python benchmarks/profile_step.py muon          what Muon's products cost, in float32 and in bfloat16

A Llama of 34.1M parameters (8 layers, width 512, 8 heads, feed-forward 1408, vocabulary 8192), 4 rows of 512 tokens in
bfloat16, AdamW, through the engine's own `Trainer`. `--threads N` (default 2), `--steps N` timed steps (default 8),
`--dtype float32`, `--vocabulary 32768`, `--documents 128` for packed rows.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from cirilla_cli.cli.allocator import keep_freed_memory
from cirilla_cli.compat import peak_resident
from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.compiled import compile_blocks
from cirilla_cli.engine.config import AdamWConfig, ConstantConfig, CrossEntropyConfig
from cirilla_cli.engine.optim.muon import orthogonalise
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.model.block import Block
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Trunk
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.norms import RMSNorm
from cirilla_cli.model.ops.cross_entropy import Weights
from cirilla_cli.model.parts import Mixer
from cirilla_cli.model.sections import SwiGLUConfig

ROWS, LENGTH, WIDTH, HIDDEN, LAYERS = 4, 512, 512, 1408, 8
PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm_", "aten::baddbmm"}


class Random:
    """Rows of random tokens, one document each or several of one length."""

    rows_per_epoch = 1 << 40

    def __init__(self, vocabulary: int, document: int) -> None:
        self.vocabulary, self.document = vocabulary, document

    def step(self, index: int) -> list[TokenBatch]:
        """One micro-batch."""
        ids = torch.randint(self.vocabulary, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(index))
        documents = (torch.arange(LENGTH) // self.document).repeat(ROWS, 1)
        return [TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), documents)]

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """None."""
        yield from ()


def trainer_of(options: argparse.Namespace) -> Trainer:
    """A fresh model and all it needs."""
    config = DecoderConfig(
        vocab_size=options.vocabulary, d_model=WIDTH, n_layers=LAYERS, context_length=LENGTH,
        mixers={"A": AttentionConfig(n_heads=8)}, mlp=SwiGLUConfig(d_ff=HIDDEN), tie_embeddings=False,
    )  # fmt: skip
    model = fresh(config, seed=0)
    return Trainer(
        model=model, objective=CrossEntropyConfig().build(), source=Random(options.vocabulary, options.documents),
        optimizer=AdamWConfig().build(model), schedule=Schedule(ConstantConfig(warmup=1), 10**6), steps=10**6, seed=0,
        device=torch.device("cpu"), dtype=getattr(torch, options.dtype),
    )  # fmt: skip


def seconds(trainer: Trainer) -> float:
    """One step."""
    started = time.perf_counter()
    trainer._step()
    return time.perf_counter() - started


# Parts


def part_of(module: nn.Module) -> str | None:
    """What a module's own operations are shown under; those of the modules in it under theirs."""
    match module:
        case nn.Linear():
            return "matrices of the layers"
        case nn.Embedding():
            return "embedding"
        case RMSNorm():
            return "norms"
        case Mixer():
            return "attention"
        case Block() | Trunk():
            return "additions"
    return "gate" if hasattr(module, "down_proj") else None


def mark(model: nn.Module) -> None:
    """Open a range in the profile around each module's forward pass."""
    for module in model.modules():
        name = part_of(module) if module is not model else "head and loss"
        if name is not None:
            within = Range(name)
            module.register_forward_pre_hook(within.enter)
            module.register_forward_hook(within.leave)


class Range:
    """A range of the profile that two hooks open and close."""

    def __init__(self, name: str) -> None:
        self.name = f"part {name}"

    def enter(self, *_: object) -> None:
        """Before a module's forward pass."""
        self.open = record_function(self.name)
        self.open.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, *_: object) -> None:
        """After it."""
        self.open.__exit__(None, None, None)


def part(event: Any, forward: dict[int, str]) -> tuple[str, str]:
    """Part and pass of an operation, by what it was called from."""
    above = event
    while above is not None:
        if above.name.startswith("part "):
            return above.name[5:], "forward"
        if above.name.startswith("Optimizer.step"):
            return "optimizer", "forward"
        if above.name.startswith("autograd::engine::evaluate_function"):
            return forward.get(above.sequence_nr, "sums of gradients"), "backward"
        above = above.cpu_parent
    if event.name in ("aten::to", "aten::_to_copy", "aten::copy_", "aten::empty_strided"):
        return "casts", "forward"
    clips = "norm" in event.name or event.name in ("aten::mul_", "aten::_foreach_mul_")
    return "clipping" if clips else "rest", "forward"


BETWEEN = "between operations"
"""What of a step's time no operation of torch takes: Python, and the profiler itself."""


def table(trainer: Trainer, steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step by part, pass and kind: products or all else; all together they are the step."""
    mark(trainer.model)
    with profile(activities=[ProfilerActivity.CPU]) as run:
        walls = [1000 * seconds(trainer) for _ in range(steps)]
    events = [e for e in run.events() if not e.name.startswith("part ")]
    forward: dict[int, str] = {}
    for event in events:
        name, way = part(event, {})
        if way == "forward" and event.sequence_nr >= 0:
            forward[event.sequence_nr] = name
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        name, way = part(event, forward)
        kind = "products" if event.name in PRODUCTS else "else"
        found[name][f"{way} {kind}"] += event.self_cpu_time_total / 1000 / steps
    found[BETWEEN]["forward else"] = statistics.mean(walls) - sum(sum(kinds.values()) for kinds in found.values())
    return found


def show_parts(options: argparse.Namespace) -> None:
    keep_freed_memory()
    trainer = trainer_of(options)
    whole = 1000 * statistics.median([seconds(trainer) for _ in range(options.steps + 2)][2:])
    found = table(trainer, 3)
    total = sum(sum(kinds.values()) for kinds in found.values())
    columns = ("forward products", "forward else", "backward products", "backward else")
    print(f"{'':24}" + "".join(f"{c:>20}" for c in columns) + f"{'ms':>8}{'share':>8}{'of a step':>11}")
    for name, kinds in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        line = "".join(f"{kinds.get(c, 0.0):>20.1f}" for c in columns)
        share = sum(kinds.values()) / total
        print(f"{name:24}{line}{sum(kinds.values()):>8.1f}{share:>8.1%}{share * whole:>8.0f} ms")
    print(f"{'the step':24}{'':80}{total:>8.1f}{1:>8.1%}{whole:>8.0f} ms")
    flops = step_flops(options.vocabulary)
    rate = ceiling(options)
    print(f"a step without the profiler: {whole:.0f} ms, {ROWS * LENGTH / whole * 1000:,.0f} tokens/s")
    print(
        f"its products are {flops / 1e9:.0f} GFLOP: {flops / whole / 1e6:.0f} GFLOP/s of the {rate:.0f} that the same"
    )
    print(f"products reach alone: {flops / whole / 1e6 / rate:.0%}")


def step_flops(vocabulary: int) -> float:
    """Real products of a step, forward and backward: no input embedding, causal scores alone."""
    matrices = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN) + vocabulary * WIDTH
    scores = LAYERS * 2 * (LENGTH + 1) / 2 * WIDTH
    return 6 * (matrices + scores) * ROWS * LENGTH


def ceiling(options: argparse.Namespace) -> float:
    """GFLOP/s of the matrices' products alone, of each shape and in all three directions, warm."""
    dtype, rows, spent, flops = getattr(torch, options.dtype), ROWS * LENGTH, 0.0, 0.0
    shapes = {(WIDTH, WIDTH): 4 * LAYERS, (WIDTH, HIDDEN): 2 * LAYERS, (HIDDEN, WIDTH): LAYERS}
    for (inner, outer), count in {**shapes, (WIDTH, options.vocabulary): 1}.items():
        x, w, y = (torch.randn(shape).to(dtype) for shape in ((rows, inner), (outer, inner), (rows, outer)))
        for left, right in ((x, w.T), (y, w), (y.T, x)):
            spent += count * min(product_seconds(left, right) for _ in range(8))
            flops += count * 2 * rows * inner * outer
    return flops / spent / 1e9


def product_seconds(left: Tensor, right: Tensor) -> float:
    """One product."""
    started = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - started


# Levers


def plain_loss(
    hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, count: int, weights: Weights, *, logits_bytes: int
) -> tuple[Tensor, Tensor]:
    """Torch's cross-entropy over all logits in float32."""
    loss = F.cross_entropy((hidden_MD @ head_VD.T).float()[:count], targets_M[:count], reduction="sum")
    return loss, torch.stack([loss.detach(), loss.new_zeros(()), loss.new_zeros(())])


def without(*names: str) -> Callable[[], contextlib.ExitStack]:
    """The named functions of the model library answering that they are not to be taken."""

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for name in names:
            answer: Any = plain_loss if name.endswith("linear_loss") else lambda *_: False
            stack.enter_context(mock.patch(f"cirilla_cli.model.{name}", answer))
        return stack

    return enter


LEVERS = {
    "the loss that makes its gradient": without("readout.linear_loss"),
    "attention in blocks": without("ops.attention.takes_blocks"),
    "the norm's own gradient": without("norms.takes_passes"),
    "the rotation's own gradient": without("rope.takes_passes"),
    "the gate's own gradient": without("mlp.takes_passes"),
    "all of them": without(
        "readout.linear_loss",
        "ops.attention.takes_blocks",
        "norms.takes_passes",
        "rope.takes_passes",
        "mlp.takes_passes",
    ),
}


COMPILED = "blocks compiled (compile: true)"


def show_levers(options: argparse.Namespace) -> None:
    """Processor time of one thread: other programs on the machine disturb it least."""
    torch.set_num_threads(1)
    keep_freed_memory()
    trainer, compiled = trainer_of(options), trainer_of(options)
    compile_blocks(compiled.model)
    compiled._step()
    ways = {"": without(), **LEVERS, COMPILED: without()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.steps + 1):
        for name, enter in ways.items():
            step = (compiled if name == COMPILED else trainer)._step
            with enter():
                # One that does not count first: the heap and the caches are then as this way leaves them.
                step()
                started = time.process_time()
                step()
                taken[name].append(time.process_time() - started)
    print(f"a step on one thread: {1000 * statistics.median(taken['']):.0f} ms; ratios of turns, median")
    for name in (*LEVERS, COMPILED):
        ratio = statistics.median(off / on for off, on in zip(taken[name][1:], taken[""][1:], strict=True))
        print(f"{'with' if name == COMPILED else 'without':8}{name:36}{ratio:>6.3f} x")


def show_muon(options: argparse.Namespace) -> None:
    """Processor time of one thread for the matrices of all layers, five iterations."""
    torch.set_num_threads(1)
    spent: dict[torch.dtype, float] = defaultdict(float)
    for rows, columns, count in ((WIDTH, WIDTH, 4), (HIDDEN, WIDTH, 2), (WIDTH, HIDDEN, 1)):
        gradients_GMN = torch.randn(LAYERS, rows, columns)
        for dtype in (torch.float32, torch.bfloat16):
            spent[dtype] += count * min(muon_seconds(gradients_GMN.to(dtype)) for _ in range(3))
    plain, short = spent[torch.float32], spent[torch.bfloat16]
    print(f"orthogonalising every matrix of the layers, one thread: float32 {1000 * plain:.0f} ms, ", end="")
    print(f"bfloat16 {1000 * short:.0f} ms, {plain / short:.2f} x")


def muon_seconds(gradients_GMN: Tensor) -> float:
    """One batch, in the format that it comes in."""
    started = time.process_time()
    with mock.patch("cirilla_cli.engine.optim.muon._in_bfloat16", return_value=False):
        orthogonalise(gradients_GMN, 5)
    return time.process_time() - started


def show_memory(options: argparse.Namespace) -> None:
    for way in ("leave", "keep"):
        command = [sys.executable, __file__, way, *sys.argv[sys.argv.index("memory") + 1 :]]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")


def one_way(options: argparse.Namespace) -> None:
    """A process of its own: its step, the pages it was handed in one, and its peak less what imports cost."""
    import resource

    imports = peak_resident() or 0
    if options.what == "keep":
        keep_freed_memory()
    trainer = trainer_of(options)
    for _ in range(3):
        trainer._step()
    # The processor's time, of all threads: the two ways run one after the other, and other programs beside them.
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    for _ in range(options.steps):
        trainer._step()
    spent = (time.process_time() - started) / options.steps
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / options.steps
    held = (peak_resident() or 0) - imports
    print(f"freed memory {'kept' if options.what == 'keep' else 'given back'}: ", end="")
    print(f"{1000 * spent:.0f} ms of the processor a step, {faults:,.0f} page faults, peak {held / 1e6:,.0f} MB")


def main() -> None:
    shows = {
        "parts": show_parts, "levers": show_levers, "memory": show_memory, "muon": show_muon,
        "leave": one_way, "keep": one_way,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="parts", choices=shows)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=LENGTH, help="tokens of each document")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shows[options.what](options)


if __name__ == "__main__":
    main()
