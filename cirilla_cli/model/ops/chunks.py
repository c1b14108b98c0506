"""Rows cut into chunks, which scans compute at once."""

# Shape suffixes: B batch, T positions, C chunks, Q positions of a chunk.

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Chunks:
    """A cut of T positions into chunks as equal as can be, so that little has to be filled up."""

    length: int
    """Positions of a row, T."""
    count: int
    """Chunks, C."""
    size: int
    """Positions of a chunk, Q."""

    @classmethod
    def of(cls, length: int, *, most: int) -> "Chunks":
        """The fewest chunks of at most ``most`` positions."""
        count = math.ceil(length / most)
        return cls(length, count, math.ceil(length / count))

    def cut(self, x: Tensor) -> Tensor:
        """``[B, T, ...]`` as ``[B, C, Q, ...]``; the last chunk is filled up with zeros."""
        fill = self.count * self.size - self.length
        filled = F.pad(x, (0, 0) * (x.ndim - 2) + (0, fill)) if fill else x
        return torch.unflatten(filled, 1, (self.count, self.size))

    def joined(self, x: Tensor) -> Tensor:
        """``[B, C, Q, ...]`` as ``[B, T, ...]``, without what was filled up."""
        return x.flatten(1, 2)[:, : self.length]
