"""Numbers in 8 bits: in blocks of 256, each scaled by its largest, as places in a map that is fine near zero.

Dynamic quantisation by blocks: Dettmers et al., 2021, arXiv:2110.02861, sections 2.1 and 2.2.
"""

# Shape suffixes: K blocks, Q = 256 numbers of a block, V = 256 values of the map, W = 65,536 heads of float32 numbers.

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 256

_DECADES = 7
_LEAST_SCALE = 1e-12


class Coded(NamedTuple):
    """Numbers in 8 bits."""

    codes_KQ: Tensor
    """uint8."""
    scales_K: Tensor
    """float32."""


def dynamic_map(*, signed: bool) -> list[float]:
    """The 256 values between 0, or -1, and 1, rising.

    Seven decades below 1, the first of which is cut into 64 equal parts (128 without signs), the next into half as
    many, and so on; the middles of the parts, and 0 and 1 themselves.
    """
    made = [0.0, 1.0]
    for decade in range(_DECADES):
        parts = 2 ** (_DECADES - decade - signed)
        middles = [10.0**-decade * (0.1 + 0.9 * (i + 0.5) / parts) for i in range(parts)]
        made += middles + [-value for value in middles if signed]
    return sorted(made)


class Codebook:
    """A map in both directions, for tensors on one device.

    The nearest value is found without a search: the upper 16 bits of a float32 leave at most two values to choose from.
    """

    def __init__(self, device: torch.device, *, signed: bool) -> None:
        values_V = np.array(dynamic_map(signed=signed), dtype=np.float32)
        middles_V = np.append((values_V[1:].astype(np.float64) + values_V[:-1]) / 2, np.inf).astype(np.float32)
        heads_W = np.arange(1 << 16, dtype=np.uint32) << 16
        # The least number with these upper bits has all of the lower ones if it is negative, and none if not.
        least_W = (heads_W | np.where(heads_W >> 31, 0xFFFF, 0).astype(np.uint32)).view(np.float32)
        lows_W = np.minimum(np.searchsorted(middles_V, least_W, side="right"), 255).astype(np.int32)
        self._values_V, self._middles_V = torch.from_numpy(values_V).to(device), torch.from_numpy(middles_V).to(device)
        self._lows_W = torch.from_numpy(lows_W).to(device)
        self.zero = int(np.searchsorted(values_V, 0.0))
        """The code of 0."""

    def encode(self, numbers_KQ: Tensor) -> Coded:
        """Each of float32 numbers as the nearest of its block's values, the larger one of two that are as near."""
        scales_K = numbers_KQ.abs().amax(-1).clamp_(min=_LEAST_SCALE)
        within = (numbers_KQ / scales_K[:, None]).flatten()
        lows = self._lows_W.index_select(0, (within.view(torch.int32) >> 16) & 0xFFFF)
        codes = lows + (within >= self._middles_V.index_select(0, lows))
        return Coded(codes.to(torch.uint8).view(numbers_KQ.shape), scales_K)

    def decode(self, coded: Coded) -> Tensor:
        """float32 numbers ``[K, Q]``."""
        codes_KQ, scales_K = coded
        values_KQ = self._values_V.index_select(0, codes_KQ.flatten().int()).view(codes_KQ.shape)
        return values_KQ.mul_(scales_K[:, None])
