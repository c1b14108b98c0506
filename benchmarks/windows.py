"""Sliding-window attention against full attention on one long row, in one run: time, and memory of the cache.

    python benchmarks/windows.py [--length 8192] [--window 512]

Prints milliseconds of the forward pass and of forward and backward, the least of five taken in turn, and the ratios;
then the bytes that a layer's cache holds after that many tokens. Time is the thread's own, so that other work on the
machine disturbs it little; one thread.
"""

import argparse
import time

import torch
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.ops.attention import attend
from cirilla_cli.model.sections import RMSNormConfig

HEADS, WIDTH = 4, 64


def seconds(inputs: list[Tensor], layout: SequenceLayout, sight: Sight, backward: bool) -> float:
    """One call, in a layout that is prepared."""
    started = time.thread_time()
    with torch.set_grad_enabled(backward):
        out = attend(*inputs, layout, layout, sight)
        if backward:
            out.backward(torch.ones_like(out))
    return time.thread_time() - started


def compare(length: int, window: int, dtype: torch.dtype, backward: bool) -> str:
    """Both in turn."""
    inputs = [torch.randn(1, length, HEADS, WIDTH, dtype=dtype, requires_grad=True) for _ in range(3)]
    sights = Sight(), Sight(True, window)
    started = time.thread_time()
    layout = SequenceLayout.rows(1, length).prepared(Needs(frozenset(), frozenset(sights)), dtype)
    once = 1000 * (time.thread_time() - started)
    taken: list[list[float]] = [[], []]
    for _ in range(6):
        for times, sight in zip(taken, sights, strict=True):
            times.append(seconds(inputs, layout, sight, backward))
    full, windowed = (1000 * min(times[1:]) for times in taken)
    what = "forward and backward" if backward else "forward"
    ratio = f"full {full:.0f} ms, window {windowed:.0f} ms, {full / windowed:.1f}x"
    return f"{str(dtype)[6:]}, {what}: {ratio} (and {once:.0f} ms once for all layers)"


def cached_bytes(length: int, window: int | None) -> int:
    """What one layer remembers of a row it has read."""
    attention = AttentionConfig(n_heads=HEADS, window=window).build(HEADS * WIDTH, RMSNormConfig())
    cache = attention.make_cache(length)
    with torch.inference_mode():
        layout = SequenceLayout.rows(1, length).prepared(attention.needs, torch.float32)
        attention(torch.randn(1, length, HEADS * WIDTH), layout, cache)
    return cache.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for backward in (False, True):
            print(compare(chosen.length, chosen.window, dtype, backward), flush=True)
    full, windowed = cached_bytes(chosen.length, None), cached_bytes(chosen.length, chosen.window)
    print(f"cache: full {full / 1e6:.2f} MB, window {windowed / 1e6:.2f} MB, {full / windowed:.1f}x")


if __name__ == "__main__":
    main()
