"""Attention's back ends on a CUDA device at 8,192 tokens: FlexAttention and fused kernels against the reference.

    python benchmarks/gpu/attention.py [--length 8192]

For each rule and format: the greatest difference of outputs and gradients from the reference in float64, one key/value
head and a slice of the queries at a time so that it fits; then milliseconds, forward and backward, the median of 10,
and the greatest memory of one such call.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops.attention import attend, attend_reference
from cirilla_cli.model.ops.flex import block_mask

HEADS, KEY_HEADS, WIDTH = 8, 2, 128
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def rules(length: int) -> dict[str, tuple[SequenceLayout, Sight]]:
    """What queries may see."""
    one = SequenceLayout.rows(1, length, device="cuda")
    index = torch.arange(length, device="cuda")[None]
    packed = SequenceLayout.packed(index // 700)
    return {
        "causal": (one, Sight()),
        "window of 512": (one, Sight(True, 512)),
        "documents of 700": (packed, Sight()),
        "documents and window": (packed, Sight(True, 512)),
        "prefix of 1000": (dataclasses.replace(one, prefix_BT=index < 1000), Sight()),
    }


def ways(layout: SequenceLayout, sight: Sight, dtype: torch.dtype) -> dict[str, Attention]:
    """As chosen for training, by blocks, and by kernels under a mask."""

    def under(mask: object) -> Attention:
        at = dataclasses.replace(layout, masks={sight: mask})
        return lambda q, k, v: attend(q, k, v, at, at, sight)

    chosen = layout.prepared(Needs(frozenset(), frozenset({sight})), dtype)
    found = {
        "chosen": lambda q, k, v: attend(q, k, v, chosen, chosen, sight),
        "flex": under(block_mask(layout, layout, sight)),
    }
    if not layout.needs_no_mask(sight):
        found["kernels, mask"] = under(visible_BTS(layout, layout, sight))
    return found


def inputs(length: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    made = (torch.randn(1, length, n, WIDTH, device="cuda", generator=generator) for n in heads)
    return [x.to(dtype).requires_grad_() for x in made]


def run(attention: Attention, leaves: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)]


def exact(layout: SequenceLayout, sight: Sight, leaves: list[Tensor]) -> list[Tensor]:
    """The reference in float64, from the same rounded inputs."""
    q, k, v = (x.detach().double().requires_grad_() for x in leaves)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    slices = [(n, slice(t, t + 1024)) for n in range(KEY_HEADS) for t in range(0, layout.length, 1024)]
    group = HEADS // KEY_HEADS
    for n, part in slices:
        heads = slice(n * group, (n + 1) * group)
        prefix = None if layout.prefix_BT is None else layout.prefix_BT[:, part]
        documents = None if layout.documents_BT is None else layout.documents_BT[:, part]
        query = SequenceLayout(layout.positions_BT[:, part], documents, prefix)
        one = attend_reference(q[:, part, heads], k[:, :, n : n + 1], v[:, :, n : n + 1], query, layout, sight)
        one.square().sum().backward()
        out[:, part, heads] = one.detach()
    return [out, *(x.grad for x in (q, k, v) if x.grad is not None)]


def milliseconds(attention: Attention, leaves: list[Tensor]) -> tuple[float, float]:
    """Median time of a call, and its memory in MiB beyond what stood before."""
    times: list[float] = []
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(attention, leaves)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:]), (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=8192)
    length = parser.parse_args().length
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {length} tokens, {HEADS}/{KEY_HEADS} x {WIDTH}")
    for dtype in (torch.bfloat16, torch.float32):
        leaves = inputs(length, dtype)
        for rule, (layout, sight) in rules(length).items():
            expected = exact(layout, sight, leaves)
            for name, way in ways(layout, sight, dtype).items():
                found = run(way, leaves)
                off = [float((a.double() - b).abs().max()) for a, b in zip(found, expected, strict=True)]
                shown = ", ".join(f"{x:.1e}" for x in off)
                time, memory = milliseconds(way, leaves)
                print(f"{str(dtype)[6:]}, {rule}, {name}: off by {shown}; {time:.2f} ms, {memory:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
