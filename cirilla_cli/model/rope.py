"""Rotary position embedding, in Hugging Face's rotate-half layout so that weights need no permutation."""

# Shape suffixes: B batch, T positions, N heads, H width of one head.

import torch
from torch import Tensor


def rope_angles(positions_BT: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each ``[B, T, 1, head_dim]`` (Su et al., 2021, arXiv:2104.09864).

    Computed in float32 whatever ``dtype`` is, because positions times frequencies do not fit bfloat16, then cast.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions_BT.device, dtype=torch.float32) / head_dim
    angles = positions_BT[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)[:, :, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair ``(x[i], x[i + H/2])`` by its position's angle."""
    left, right = x_BTNH.chunk(2, dim=-1)
    return x_BTNH * cos + torch.cat([-right, left], dim=-1) * sin
