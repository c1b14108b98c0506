"""Mamba-2 on a CPU against its alternatives, in one run: the recurrence, attention, and transformers' torch path.

    python benchmarks/mamba2.py

Prints milliseconds, medians of runs taken in turns, and the ratios. Width 512, 2,048 tokens; layers on 2 threads with
one row, scans on 1 and on 2. Without transformers its lines are left out.
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig, Mamba2Config
from cirilla_cli.model.mixers.mamba2 import Mamba2
from cirilla_cli.model.ops.ssd import Signals, chunked, recurrence
from cirilla_cli.model.parts import Mixer
from cirilla_cli.model.sections import RMSNormConfig

D, T = 512, 2048
CONFIG = Mamba2Config(n_heads=16)
Scan = Callable[[Signals], tuple[Tensor, Tensor]]


def in_turns(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median milliseconds of each, one after the other so that all meet the same weather; the first run warms up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def signals(rows: int) -> Signals:
    """Random ones of the layer's shapes."""
    H, P, N = CONFIG.n_heads, CONFIG.width(D), CONFIG.d_state
    b, c = torch.randn(2, rows, T, 1, N)
    return Signals(torch.randn(rows, T, H, P), torch.rand(rows, T, H) * 0.1, -16 * torch.rand(H), b, c, torch.ones(H))


def forward(form: Scan, rows: int) -> Callable[[], None]:
    """The scan alone."""
    s = signals(rows)

    def run() -> None:
        with torch.no_grad():
            form(s)

    return run


def backward(form: Scan, rows: int) -> Callable[[], None]:
    """The scan and the gradients of all that drives it."""
    s = signals(rows)
    for tensor in (s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H):
        tensor.requires_grad_()

    def run() -> None:
        y_BTHP, _ = form(s)
        y_BTHP.backward(torch.ones_like(y_BTHP))

    return run


def layer(mixer: Mixer, documents: int = 1) -> Callable[[], None]:
    """Forward and backward of ``mixer``, over so many documents of equal length."""
    layout = SequenceLayout.rows(1, T)
    if documents > 1:
        layout = SequenceLayout.packed((torch.arange(T) * documents // T)[None])
    layout = layout.prepared(mixer.needs, torch.float32)
    return trained(mixer, lambda x_BTD: mixer(x_BTD, layout))


def trained(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Forward and backward on random input, gradients of the input included."""

    def run() -> None:
        module.zero_grad()
        out = forward(torch.randn(1, T, D, requires_grad=True))
        out.backward(torch.ones_like(out))

    return run


def of_transformers(ours: Mamba2, chunk_size: int) -> nn.Module:
    """Its mixer with our weights."""
    from transformers import Mamba2Config as TheirConfig
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = TheirConfig(
        hidden_size=D, num_heads=ours.n_heads, head_dim=ours.head_dim, state_size=ours.d_state, n_groups=1,
        expand=2, chunk_size=chunk_size, num_hidden_layers=1,
    )  # fmt: skip
    theirs: nn.Module = Mamba2Mixer(config, layer_idx=0)
    theirs.load_state_dict(ours.state_dict())
    return theirs


def scans() -> None:
    forms: dict[str, Scan] = {"chunked": lambda x: chunked(x, chunk_size=CONFIG.chunk_size), "recurrence": recurrence}
    for what, run, rows, threads, runs in (
        ("forward", forward, 1, 1, 9), ("forward", forward, 1, 2, 9), ("forward", forward, 4, 2, 5),
        ("forward and backward", backward, 1, 1, 2), ("forward and backward", backward, 1, 2, 2),
    ):  # fmt: skip
        torch.set_num_threads(threads)
        found = in_turns({name: run(form, rows) for name, form in forms.items()}, runs)
        print(
            f"scan, {what}, rows {rows}, threads {threads}: chunked {found['chunked']:.0f} ms, "
            f"recurrence {found['recurrence']:.0f} ms, ratio {found['recurrence'] / found['chunked']:.1f}",
            flush=True,
        )


def layers() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    ours = CONFIG.build(D, RMSNormConfig())
    with torch.no_grad():
        ours.initialise(torch.Generator().manual_seed(0))
    attention = AttentionConfig(n_heads=8).build(D, RMSNormConfig())
    every = {
        "mamba2": layer(ours), "mamba2, 8 documents": layer(ours, 8),
        "attention": layer(attention), "attention, 8 documents": layer(attention, 8),
    }  # fmt: skip
    if find_spec("transformers"):
        for chunk_size in (64, 256):
            theirs = of_transformers(ours, chunk_size)
            every[f"transformers, chunks of {chunk_size}"] = trained(theirs, theirs)
    found = in_turns(every, 9)
    for name, milliseconds in found.items():
        print(f"layer, forward and backward: {name} {milliseconds:.0f} ms, ratio {milliseconds / found['mamba2']:.2f}")


if __name__ == "__main__":
    scans()
    layers()
