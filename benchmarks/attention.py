"""Attention on a CPU against its alternatives, in one run: packed rows in short calls, causal rows in blocks.

    python benchmarks/attention.py

Prints milliseconds of the thread, forward and backward over 4 heads of width 32 (8 of 64 where rows are one document),
the least of nine taken in turn.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops.attention import _by_products, attend

SIGHT = Sight()
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def packed(rows: int, length: int, document: int) -> SequenceLayout:
    """Rows of documents of equal length."""
    return SequenceLayout.packed((torch.arange(length) // document).expand(rows, length))


def ways(layout: SequenceLayout, dtype: torch.dtype) -> dict[str, Attention]:
    """PyTorch's kernel under a mask, what `attend` does under a mask, and what it does."""
    mask = visible_BTS(layout, layout, SIGHT)
    masked = dataclasses.replace(layout, masks={SIGHT: mask})
    chosen = layout.prepared(Needs(frozenset(), frozenset({SIGHT})), dtype)

    def kernel(*qkv: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in qkv)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None]).transpose(1, 2)

    return {
        "kernel, mask": kernel,
        "attend, mask": lambda *qkv: attend(*qkv, masked, masked, SIGHT),
        "attend": lambda *qkv: attend(*qkv, chosen, chosen, SIGHT),
    }


def causal_ways(rows: int, length: int) -> dict[str, Attention]:
    """PyTorch's kernel, two products, and what `attend` does where each row is one document."""
    layout = SequenceLayout.rows(rows, length)

    def kernel(*qkv: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv), is_causal=True).transpose(1, 2)

    return {
        "kernel": kernel,
        "products": lambda *qkv: _by_products(*qkv, None, True, None, None),
        "attend": lambda *qkv: attend(*qkv, layout, layout, SIGHT),
    }


def milliseconds(attention: Attention, shape: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    """One call, forward and backward."""
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    started = time.thread_time()
    attention(q, k, v).sum().backward()
    return 1000 * (time.thread_time() - started)


def least(every: dict[str, Attention], shape: tuple[int, int, int, int], dtype: torch.dtype) -> str:
    """Each way's least of nine."""
    taken: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(10):
        for name, way in every.items():
            taken[name].append(milliseconds(way, shape, dtype))
    shown = ", ".join(f"{name} {min(times[1:]):.1f}" for name, times in taken.items())
    return f"{shown} (median {statistics.median(taken['attend'][1:]):.1f}) ms"


def main() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, length, document in ((32, 128, 40), (16, 256, 40), (8, 512, 200), (2, 2048, 500)):
            found = least(ways(packed(rows, length, document), dtype), (rows, length, 4, 32), dtype)
            print(f"{str(dtype)[6:]} {rows} x {length}, documents of {document}: {found}")
        for rows, length in ((16, 128), (8, 256), (4, 512), (2, 1024), (1, 2048)):
            found = least(causal_ways(rows, length), (rows, length, 8, 64), dtype)
            print(f"{str(dtype)[6:]} {rows} x {length}, one document: {found}")


if __name__ == "__main__":
    main()
