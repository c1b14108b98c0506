"""Losses and log-probabilities of target tokens straight from hidden states, never holding all logits at once."""

# Shape suffixes: M counted positions, C positions of one chunk, D model width, V vocabulary.

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

_IN_CACHE = 1 << 22
"""Bytes of float32 logits that a CPU turns into probabilities at a time: what it has just read is still at hand."""


class Weights(NamedTuple):
    """What a loss is made of."""

    nll: float = 1.0
    """Of the negative log-likelihood."""
    uniform: float = 0.0
    """Of the cross-entropy against the uniform distribution, which label smoothing mixes in."""
    z: float = 0.0
    """Of the squared log-partition."""


def linear_loss(
    hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, count: int, weights: Weights, *, logits_bytes: int
) -> tuple[Tensor, Tensor]:
    """The weighted loss ``[]`` of the first ``count`` positions, and its three parts ``[3]`` without gradient.

    Sums in float32 (float64 for float64). Its gradient is made along with it, so that logits, in chunks of at most
    ``logits_bytes``, are made once and become gradients in place. Parts without a weight may be 0.
    """
    shape = count, weights, _chunk_rows(head_VD, logits_bytes), torch.is_grad_enabled()
    loss, parts_3 = _LinearLoss.apply(hidden_MD, head_VD, targets_M, *shape)  # type: ignore[no-untyped-call]
    return loss, parts_3


def linear_logp(hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, *, logits_bytes: int) -> Tensor:
    """Log-probability of each target, ``[M]`` in float32 (float64 for float64).

    The logits are made in chunks of at most ``logits_bytes``. One chunk is kept for the backward pass; where there are
    several, they are made again, which trades a third more work on the head for the memory.
    """
    rows = _chunk_rows(head_VD, logits_bytes)
    logp_M: Tensor = _LinearLogp.apply(hidden_MD, head_VD, targets_M, rows)  # type: ignore[no-untyped-call]
    return logp_M


def _chunk_rows(head_VD: Tensor, logits_bytes: int) -> int:
    """Positions whose logits fit; elsewhere than on a CPU their probabilities in float32 stand beside them."""
    wide = 0 if head_VD.device.type == "cpu" else 2 * 4
    return max(1, logits_bytes // ((head_VD.element_size() + wide) * head_VD.shape[0]))


def _chunks(rows: int, *parts: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Runs of ``rows`` positions of each, and where they begin."""
    for i, now in enumerate(zip(*(torch.split(part, rows) for part in parts), strict=True)):
        yield i * rows, now


def _wide(logits_CV: Tensor) -> Tensor:
    return logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()


def _cache_rows(logits_CV: Tensor) -> int:
    C, V = logits_CV.shape
    return max(1, _IN_CACHE // (4 * V)) if logits_CV.device.type == "cpu" else C


def _softmax(wide_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, log-probability of the targets, log-partition."""
    p_CV = wide_CV.softmax(1)
    # The likeliest token's probability is never too small for a logarithm.
    lse_C = wide_CV.amax(1) - p_CV.amax(1).log()
    return p_CV, wide_CV.gather(1, targets_C[:, None])[:, 0] - lse_C, lse_C


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, count: int, weights: Weights, rows: int,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wide = torch.promote_types(head_VD.dtype, torch.float32)
        parts_3 = torch.zeros(3, dtype=wide, device=hidden_MD.device)
        d_hidden_MD = torch.empty_like(hidden_MD) if learns else None
        d_head_VD: Tensor | None = None
        for start, (hidden, targets) in _chunks(rows, hidden_MD, targets_M):
            logits_CV = hidden @ head_VD.T
            parts_3 += _into_gradient(logits_CV, targets, count - start, weights)
            if d_hidden_MD is not None:
                torch.mm(logits_CV, head_VD, out=d_hidden_MD[start : start + rows])
                d_part_VD = logits_CV.T @ hidden
                whole = rows >= len(hidden_MD)
                d_head_VD = d_part_VD if whole else _sum(d_head_VD, d_part_VD, wide)
            del logits_CV
        ctx.save_for_backward(d_hidden_MD, d_head_VD)
        ctx.dtype = head_VD.dtype
        ctx.mark_non_differentiable(parts_3)
        return parts_3 @ parts_3.new_tensor(weights), parts_3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden_MD, d_head_VD = ctx.saved_tensors
        scaled = _times(d_hidden_MD, grads[0], ctx.dtype), _times(d_head_VD, grads[0], ctx.dtype)
        return (*scaled, None, None, None, None, None)


def _sum(total: Tensor | None, part: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum so far in ``dtype``, in place."""
    return part.to(dtype) if total is None else total.add_(part)


def _times(x: Tensor | None, factor: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Times a factor that is not rounded to ``dtype`` before; a CPU need not ask anybody for its value."""
    if x is None:
        return None
    return (x * float(factor) if x.device.type == "cpu" else _wide(x) * factor).to(dtype)


def _into_gradient(logits_CV: Tensor, targets_C: Tensor, count: int, weights: Weights) -> Tensor:
    """Turn logits into the gradient of the weighted loss of the first ``count`` positions; returns its parts ``[3]``.

    With p the softmax: p - onehot for nll, p - 1/V for uniform, 2 lse p for z.
    """
    V, parts = logits_CV.shape[1], []
    for start, (logits, targets) in _chunks(_cache_rows(logits_CV), logits_CV, targets_C):
        wide, real = _wide(logits), max(0, count - start)
        p, logp, lse = _softmax(wide, targets)
        uniform = (lse - wide.mean(1))[:real].sum() if weights.uniform else lse.new_zeros(())
        parts.append(torch.stack([-logp[:real].sum(), uniform, lse[:real].square().sum()]))
        if weights != Weights():
            p *= (weights.nll + weights.uniform + 2 * weights.z * lse)[:, None]
            p -= weights.uniform / V
        p.scatter_add_(1, targets[:, None], torch.full_like(lse, -weights.nll)[:, None])
        p[real:] = 0
        logits.copy_(p)
    return torch.stack(parts).sum(0)


class _LinearLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, rows: int) -> Tensor:
        logits_CV, logps = None, [hidden_MD.new_zeros(0, dtype=torch.promote_types(head_VD.dtype, torch.float32))]
        for _, (hidden, targets) in _chunks(rows, hidden_MD, targets_M):
            logits_CV = hidden @ head_VD.T
            for _, now in _chunks(_cache_rows(logits_CV), logits_CV, targets):
                logps.append(_softmax(_wide(now[0]), now[1])[1])
        ctx.save_for_backward(hidden_MD, head_VD, targets_M, logits_CV if rows >= len(hidden_MD) else None)
        ctx.rows = rows
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """d logp / d logits = onehot - p, with p the softmax."""
        hidden_MD, head_VD, targets_M, kept_MV = ctx.saved_tensors
        d_hidden_MD = torch.empty_like(hidden_MD)
        d_head_VD: Tensor | None = None
        for start, (hidden, targets, d_logp_C) in _chunks(ctx.rows, hidden_MD, targets_M, grads[0]):
            logits_CV = hidden @ head_VD.T if kept_MV is None else kept_MV
            d_logits_CV = torch.empty_like(logits_CV)
            for _, now in _chunks(_cache_rows(logits_CV), logits_CV, targets, d_logp_C, d_logits_CV):
                _logp_gradient(*now)
            torch.mm(d_logits_CV, head_VD, out=d_hidden_MD[start : start + ctx.rows])
            wide = torch.promote_types(head_VD.dtype, torch.float32)
            d_head_VD = _sum(d_head_VD, d_logits_CV.T @ hidden, wide)
        return d_hidden_MD, torch.zeros_like(head_VD) if d_head_VD is None else d_head_VD.to(head_VD.dtype), None, None


def _logp_gradient(logits_CV: Tensor, targets_C: Tensor, d_logp_C: Tensor, d_logits_CV: Tensor) -> None:
    """(onehot - p) times the gradient of each position's log-probability, into ``d_logits_CV``."""
    p_CV = _wide(logits_CV).softmax(1).mul_(-d_logp_C[:, None])
    d_logits_CV.copy_(p_CV.scatter_add_(1, targets_C[:, None], d_logp_C[:, None]))
