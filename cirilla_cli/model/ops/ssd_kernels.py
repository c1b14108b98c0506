"""The Mamba-2 scan of the `mamba-ssm` package, where it is installed: one optional kernel behind `ops.ssd.scan`."""

# Shape suffixes: B batch, T positions, H heads, P width of a head, G groups, N width of the state.

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., tuple[Tensor, Tensor]]

_HALF = (torch.bfloat16, torch.float16)


def kernel_for(x_BTHP: Tensor) -> Kernel | None:
    """What scans inputs like these in one kernel; None where there is nothing, or where it would be less exact.

    Its matrix products of float32 are rounded to TensorFloat-32, so only half precision is given to it.
    """
    if x_BTHP.device.type != "cuda" or x_BTHP.dtype not in _HALF:
        return None
    return installed()


@cache
def installed() -> Kernel | None:
    """The scan of `mamba-ssm`; None where the package, or an extension that it wants, cannot be imported."""
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined  # type: ignore[import-not-found]
    except ImportError:
        return None
    return adapted(mamba_chunk_scan_combined)


def adapted(combined: Callable[..., Any]) -> Kernel:
    """`mamba_chunk_scan_combined` with our arguments.

    It numbers documents (``seq_idx``) and hands the initial state to the one numbered 0: a row that goes on with a
    document begins with 0, one that begins with a start begins with 1.
    """

    def scan(
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        a_H: Tensor,
        b_BTGN: Tensor,
        c_BTGN: Tensor,
        d_H: Tensor,
        starts_BT: Tensor | None,
        state_BHPN: Tensor | None,
        *,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        # The kernel wants a power of two.
        chunk_size = max(16, 1 << (chunk_size - 1).bit_length())
        numbers_BT = None if starts_BT is None else starts_BT.cumsum(1).to(torch.int32)
        y_BTHP, last_BHPN = combined(
            x_BTHP, dt_BTH, a_H, b_BTGN, c_BTGN, chunk_size, D=d_H, initial_states=state_BHPN, seq_idx=numbers_BT,
            return_final_states=True,
        )  # fmt: skip
        return y_BTHP.float(), last_BHPN.float()

    return scan
