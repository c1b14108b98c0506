"""Masked attention on a CPU in bfloat16: two batched products against PyTorch's fused kernel, in one run.

    python benchmarks/attention.py

Prints milliseconds, forward and backward, medians of 15, and the ratio.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.ops.attention import attend


def packed(rows: int, length: int, document: int) -> SequenceLayout:
    """Rows of documents of equal length, prepared."""
    documents = (torch.arange(length) // document).expand(rows, length)
    return SequenceLayout.packed(documents).prepared([], [None], torch.bfloat16)


def fused(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout) -> Tensor:
    """The fused kernel with the same mask."""
    mask = layout.visible[None][:, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def milliseconds(attention: object, rows: int, length: int, layout: SequenceLayout) -> float:
    """Median of forward and backward over 4 heads of width 32."""
    times = []
    for _ in range(18):
        q, k, v = (torch.randn(rows, length, 4, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        started = time.perf_counter()
        out = attention(q, k, v, layout)  # type: ignore[operator]
        out.backward(torch.ones_like(out))
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[3:])


if __name__ == "__main__":
    for rows, length in ((32, 128), (16, 256), (8, 512)):
        layout = packed(rows, length, 40)
        products = milliseconds(lambda q, k, v, at: attend(q, k, v, at, at, None), rows, length, layout)
        kernel = milliseconds(fused, rows, length, layout)
        print(
            f"{rows} x {length}: products {products:.1f} ms, fused kernel {kernel:.1f} ms, "
            f"ratio {kernel / products:.2f}"
        )
