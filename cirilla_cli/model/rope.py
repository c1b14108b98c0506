"""Rotary position embedding, in Hugging Face's rotate-half layout so that weights need no permutation."""

# Shape suffixes: B batch, T positions, N heads, H width of one head, R numbers of a head that turn, P = R / 2 pairs.

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cirilla_cli.model.ops.elementwise import rotate, takes_passes
from cirilla_cli.model.sections import (
    LinearRopeConfig,
    Llama3RopeConfig,
    NTKRopeConfig,
    RopeConfig,
    RopeSection,
    YarnRopeConfig,
)

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rotation:
    """Which rotation a layer needs: the same for layers that can share their angles."""

    rope: RopeSection
    turned: int
    """Numbers of a head that turn."""
    name: str = field(init=False)
    """What angles are found by: text, because a compiler cannot follow the hash of a section."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.rope!r} {self.turned}")


def angles_of(rotation: Rotation, positions_BT: Tensor, dtype: torch.dtype) -> Angles:
    """Cosines and sines, each ``[B, T, 1, R]``.

    Computed in float32 whatever ``dtype`` is, because positions times frequencies do not fit bfloat16, then cast.
    """
    frequencies_P = frequencies(rotation.rope, rotation.turned, positions_BT.device)
    angles = positions_BT[..., None].float() * frequencies_P
    angles = torch.cat([angles, angles], dim=-1)[:, :, None, :]
    scale = rotation.rope.attention_scale() if isinstance(rotation.rope, YarnRopeConfig) else 1.0
    if scale == 1.0:
        return angles.cos().to(dtype), angles.sin().to(dtype)
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def frequencies(rope: RopeSection, turned: int, device: torch.device | str = "cpu") -> Tensor:
    """Radians by which each pair turns at one step of position, ``[P]`` in float32."""
    match rope:
        case RopeConfig():
            return _plain(rope.theta, turned, device)
        case LinearRopeConfig():
            return _plain(rope.theta, turned, device) / rope.factor
        case NTKRopeConfig():
            # So that the slowest pair, whose exponent is (R - 2) / R, is divided by exactly the factor.
            return _plain(rope.theta * rope.factor ** (turned / max(1, turned - 2)), turned, device)
        case Llama3RopeConfig():
            return _llama3(rope, _plain(rope.theta, turned, device))
        case YarnRopeConfig():
            return _yarn(rope, turned, _plain(rope.theta, turned, device))


def _plain(theta: float, turned: int, device: torch.device | str) -> Tensor:
    exponents = torch.arange(0, turned, 2, device=device, dtype=torch.float32) / turned
    # As transformers rounds it: what the last bit of a frequency is wrong by grows with the position.
    return 1.0 / theta**exponents


def _llama3(rope: Llama3RopeConfig, plain_P: Tensor) -> Tensor:
    """Stretch pairs by how often they turn over the trained context."""
    turns_P = rope.original_context * plain_P / (2 * math.pi)
    kept_P = (turns_P - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept_P = kept_P.clamp(0, 1)
    return plain_P * kept_P + plain_P / rope.factor * (1 - kept_P)


def _yarn(rope: YarnRopeConfig, turned: int, plain_P: Tensor) -> Tensor:
    """Stretch the pairs past a ramp between two speeds; the ramp is linear in the pair's number (section 3.2)."""

    def pair_of(turns: float) -> float:
        return turned * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_of(rope.beta_fast), pair_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    pairs_P = torch.arange(turned // 2, device=plain_P.device, dtype=torch.float32)
    stretched_P = ((pairs_P - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain_P / rope.factor * stretched_P + plain_P * (1 - stretched_P)


def apply_rope(x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair ``(x[i], x[i + R/2])`` of the first R numbers by its position's angle; the rest stays."""
    R = cos.shape[-1]
    if x_BTNH.shape[-1] == R:
        return _turn(x_BTNH, cos, sin)
    return torch.cat([_turn(x_BTNH[..., :R], cos, sin), x_BTNH[..., R:]], dim=-1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if takes_passes(x):
        return rotate(x, cos, sin)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin
