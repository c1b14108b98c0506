"""Log-probabilities of target tokens straight from hidden states, never holding all logits at once."""

# Shape suffixes: M counted positions, D model width, V vocabulary.

from typing import Any

import torch
from torch import Tensor


def linear_logp(hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, *, logits_bytes: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and log-partition of each position, both ``[M]`` float32 (float64 for float64).

    The logits are made in chunks of at most ``logits_bytes``. One chunk is kept for the backward pass; where there are
    several, they are made again, which trades a third more work on the head for the memory.
    """
    rows = max(1, logits_bytes // (4 * head_VD.shape[0]))
    logp_M, lse_M = _LinearLogp.apply(hidden_MD, head_VD, targets_M, rows)  # type: ignore[no-untyped-call]
    return logp_M, lse_M


def _logits(hidden_MD: Tensor, head_VD: Tensor) -> Tensor:
    logits_MV = hidden_MD @ head_VD.T
    return logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()


class _LinearLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        logps, partitions, logits_MV = [], [], None
        for hidden, targets in zip(torch.split(hidden_MD, rows), torch.split(targets_M, rows), strict=True):
            logits_MV = _logits(hidden, head_VD)
            partitions.append(logits_MV.logsumexp(dim=1))
            logps.append(logits_MV.gather(1, targets[:, None])[:, 0] - partitions[-1])
        keep = logits_MV if len(logps) == 1 else None
        lse_M = torch.cat(partitions) if partitions else hidden_MD.new_zeros(0, dtype=torch.float32)
        logp_M = torch.cat(logps) if logps else lse_M.clone()
        ctx.save_for_backward(hidden_MD, head_VD, targets_M, lse_M, keep)
        ctx.rows = rows
        return logp_M, lse_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """d logp / d logits = onehot - p and d lse / d logits = p, with p the softmax."""
        hidden_MD, head_VD, targets_M, lse_M, kept_MV = ctx.saved_tensors
        d_logp_M, d_lse_M = grads
        d_hidden_MD = torch.empty_like(hidden_MD)
        wide = torch.promote_types(head_VD.dtype, torch.float32)
        d_head_VD = torch.zeros_like(head_VD, dtype=wide)
        for start in range(0, len(targets_M), ctx.rows):
            now = slice(start, start + ctx.rows)
            logits_MV = kept_MV if kept_MV is not None else _logits(hidden_MD[now], head_VD)
            d_logits_MV = (logits_MV - lse_M[now, None]).exp_().mul_((d_lse_M[now] - d_logp_M[now])[:, None])
            d_logits_MV.scatter_add_(1, targets_M[now, None], d_logp_M[now, None])
            d_logits_MV = d_logits_MV.to(hidden_MD.dtype)
            d_hidden_MD[now] = d_logits_MV @ head_VD
            d_head_VD += d_logits_MV.T @ hidden_MD[now]
        return d_hidden_MD, d_head_VD.to(head_VD.dtype), None, None
