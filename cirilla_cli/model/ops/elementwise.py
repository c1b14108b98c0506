"""Norm, rotation and gate with gradients written out, for training on a CPU.

PyTorch composes them of many passes over memory there, and keeps what lies between for the backward pass. Here passes
are few and in place; of what lies between, a norm keeps one number a row, and a gate nothing. A norm in bfloat16 is
computed in float32 and rounded once. These gradients have no gradients of their own.
"""

# Shape suffixes: B batch, T positions, N heads, H width of one head, all of which turns here; D width of a norm or of
# the model, F inner width of a feed-forward, M all positions.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def takes_passes(x: Tensor) -> bool:
    """Whether the functions below are taken: on a CPU with a gradient to come, where no compiler joins passes."""
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and torch.is_grad_enabled() and x.dtype != torch.float16


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis, like `torch.nn.functional.rms_norm`; same shape and type as ``x``."""
    out: Tensor = _RMSNorm.apply(x, weight_D, eps)  # type: ignore[no-untyped-call]
    return out


def rotate(x_BTNH: Tensor, cos_BT1H: Tensor, sin_BT1H: Tensor) -> Tensor:
    """Each pair ``(x[i], x[i + H/2])`` turned by its position's angle, ``[B, T, N, H]``.

    Laid out in memory head by head, as batched products want it.
    """
    out_BTNH: Tensor = _Rotate.apply(x_BTNH, cos_BT1H, sin_BT1H)  # type: ignore[no-untyped-call]
    return out_BTNH


def gated_down(gate: Tensor, up: Tensor, down_DF: Tensor, bias_D: Tensor | None) -> Tensor:
    """(silu(gate) * up) @ down.T + bias, ``[..., D]``, from gate and up ``[..., F]``.

    Both factors and what is multiplied with ``down`` are made again in the backward pass: a pass over memory, where
    keeping them would take half as much again as gate and up do.
    """
    out: Tensor = _GatedDown.apply(gate, up, down_DF, bias_D)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        # What stays is asked for first, so that what is freed beside it becomes one hole with what is free behind it.
        out, wide = torch.empty_like(x), x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        return out.copy_((wide * scale if wide is x else wide.mul_(scale)).mul_(weight_D))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With n = x / rms(x): dweight = sum of dy n, dx = (dy weight - n mean(dy weight n)) / rms(x)."""
        x, weight_D, scale = ctx.saved_tensors
        normed, d, weight = x.to(scale.dtype) * scale, grads[0].to(scale.dtype), weight_D.to(scale.dtype)
        product = d * normed
        d_weight_D = product.reshape(-1, len(weight)).sum(0).to(weight_D.dtype)
        along = (product @ weight).div_(len(weight))[..., None]
        d_x = (d * weight).addcmul_(normed, along, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_weight_D, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos_BT1H: Tensor, sin_BT1H: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1H, sin_BT1H)
        left, right = sin_BT1H.chunk(2, -1)
        return _turned(x_BTNH, cos_BT1H, torch.cat([-left, right], -1)).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Turned back: the transposed rotation."""
        cos_BT1H, sin_BT1H = ctx.saved_tensors
        left, right = sin_BT1H.chunk(2, -1)
        d_BNTH = _turned(grads[0], cos_BT1H, torch.cat([right, -left], -1))
        return d_BNTH.transpose(1, 2).contiguous(), None, None


def _turned(x_BTNH: Tensor, cos_BT1H: Tensor, across_BT1H: Tensor) -> Tensor:
    """x * cos, and its halves in each other's place times ``across``; ``[B, N, T, H]``."""
    x_BNTH = x_BTNH.transpose(1, 2).contiguous()
    left, right = x_BNTH.chunk(2, -1)
    out_BNTH = torch.cat([right, left], -1).mul_(across_BT1H.transpose(1, 2))
    return out_BNTH.addcmul_(x_BNTH, cos_BT1H.transpose(1, 2))


class _GatedDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, down_DF: Tensor, bias_D: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up, down_DF)
        return F.linear(F.silu(gate).mul_(up), down_DF, bias_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With x = silu(gate) up: ddown = dy' x, dx = dy down, d up = dx silu(gate), d gate = dx up silu'(gate)."""
        gate, up, down_DF = ctx.saved_tensors
        _, _, matrix_learns, bias_learns = ctx.needs_input_grad
        d_out_MD, opened = grads[0].reshape(-1, len(down_DF)), F.silu(gate)
        d_down_DF = d_out_MD.T @ (opened * up).reshape(len(d_out_MD), -1) if matrix_learns else None
        d_inner = grads[0] @ down_DF
        d_gate = torch.ops.aten.silu_backward(d_inner * up, gate)
        return d_gate, opened.mul_(d_inner), d_down_DF, d_out_MD.sum(0) if bias_learns else None
