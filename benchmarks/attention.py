"""Packed rows on a CPU: one call under a mask against the short calls that attention takes apart into, in one run.

    python benchmarks/attention.py

Prints milliseconds of the thread, forward and backward over 4 heads of width 32, the least of nine taken in turn.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops.attention import attend

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


def milliseconds(attention: Attention, rows: int, length: int, dtype: torch.dtype) -> float:
    """One call, forward and backward."""
    q, k, v = (torch.randn(rows, length, 4, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    started = time.thread_time()
    attention(q, k, v).sum().backward()
    return 1000 * (time.thread_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, length, document in ((32, 128, 40), (16, 256, 40), (8, 512, 200), (2, 2048, 500)):
            every = ways(packed(rows, length, document), dtype)
            taken: dict[str, list[float]] = {name: [] for name in every}
            for _ in range(10):
                for name, way in every.items():
                    taken[name].append(milliseconds(way, rows, length, dtype))
            shown = ", ".join(f"{name} {min(times[1:]):.1f}" for name, times in taken.items())
            spread = statistics.median(taken["attend"][1:])
            print(f"{str(dtype)[6:]} {rows} x {length}, documents of {document}: {shown} (median {spread:.1f}) ms")


if __name__ == "__main__":
    main()
