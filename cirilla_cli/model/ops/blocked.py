"""Causal attention on a CPU in blocks of queries: scores that causality forbids are never computed.

PyTorch's fused kernel for CPUs computes them, and is slow in bfloat16. Here a block of queries meets the keys up to its
last one in two batched products, and the gradient is written out, so that of all that is made in between only the
probabilities are kept, and in long rows not even those.
"""

# Shape suffixes: B batch, T queries, S keys, N query heads, K key/value heads, G = N / K query heads that share one,
# H width of one head, V of one value; P = B * K groups, C queries of a block, R = G * C rows of it, E keys up to its
# end.

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK, _BLOCKS = 128, 8
"""Queries of the smallest block, and most blocks of a row: more would compute fewer scores in products that run slower,
and round the sums of gradients of keys and values more often (benchmarks/attention.py)."""

_KEPT = 1024
"""Keys up to which probabilities are kept for the backward pass, which makes them again beyond."""


def takes_blocks(q_BTNH: Tensor, k_BSKH: Tensor) -> bool:
    """Whether a causal call is faster here than in one piece (benchmarks/attention.py); only where all of a row is new.

    That is from one block on in bfloat16; in float32 between two blocks and the rows whose probabilities are kept, and
    only with a gradient to come.
    """
    T = q_BTNH.shape[1]
    if q_BTNH.device.type != "cpu" or k_BSKH.shape[1] != T or torch.compiler.is_compiling():
        return False
    learns = torch.is_grad_enabled() and q_BTNH.requires_grad
    return T >= _BLOCK if q_BTNH.dtype == torch.bfloat16 else learns and 2 * _BLOCK <= T <= _KEPT


def attend_blocked(
    q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, bias_BTS: Tensor | None, scale: float, *, block: int | None = None
) -> Tensor:
    """Causal attention ``[B, T, N, V]`` among all positions of each row, in blocks of ``block`` queries (for tests).

    ``bias_BTS`` is added to the scores up to each query's own position; later ones are never looked at.
    """
    block = block or max(_BLOCK, -(-q_BTNH.shape[1] // _BLOCKS))
    out_BTNV: Tensor = _Blocked.apply(q_BTNH, k_BSKH, v_BSKV, bias_BTS, scale, block)  # type: ignore[no-untyped-call]
    return out_BTNV


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, bias_BTS: Tensor | None, scale: float, block: int
    ) -> Tensor:
        B, T, N, _ = q_BTNH.shape
        K, V = v_BSKV.shape[2:]
        q_PGTH, k_PSH, v_PSV = _grouped(q_BTNH * scale, K), _heads(k_BSKH), _heads(v_BSKV)
        # Laid out position by position, as the matrix behind it wants it.
        out_BTNV, kept = q_BTNH.new_empty(B, T, N, V), []
        for start in range(0, T, block):
            p_PRE, end = _probabilities(q_PGTH, k_PSH, bias_BTS, start, block), min(start + block, T)
            out_BTNV[:, start:end] = _positions_first(_split(p_PRE @ v_PSV[:, :end], N // K), B)
            kept.append(p_PRE if T <= _KEPT else None)
        ctx.save_for_backward(q_PGTH, k_PSH, v_PSV, bias_BTS, *kept)
        ctx.scale, ctx.block = scale, block
        return out_BTNV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With P the probabilities: dV = P' dO, dS = P (dO V' - sum(P dO V')), dQ = dS K, dK = dS' Q."""
        q_PGTH, k_PSH, v_PSV, bias_BTS, *kept = ctx.saved_tensors
        B, (P, G, T, _) = len(grads[0]), q_PGTH.shape
        d_out_PGTV = _grouped(grads[0], P // B)
        d_q_PGTH, d_k_PSH, d_v_PSV = torch.empty_like(q_PGTH), torch.zeros_like(k_PSH), torch.zeros_like(v_PSV)
        for start, p_PRE in zip(range(0, T, ctx.block), kept, strict=True):
            end = min(start + ctx.block, T)
            if p_PRE is None:
                p_PRE = _probabilities(q_PGTH, k_PSH, bias_BTS, start, ctx.block)
            q_PRH, d_out_PRV = (x[:, :, start:end].flatten(1, 2) for x in (q_PGTH, d_out_PGTV))
            d_p_PRE = d_out_PRV @ v_PSV[:, :end].mT
            d_scores_PRE = torch._softmax_backward_data(d_p_PRE, p_PRE, -1, p_PRE.dtype)
            d_v_PSV[:, :end].baddbmm_(p_PRE.mT, d_out_PRV)
            d_k_PSH[:, :end].baddbmm_(d_scores_PRE.mT, q_PRH)
            d_q_PGTH[:, :, start:end] = _split(d_scores_PRE @ k_PSH[:, :end], G)
        d_q_PGTH *= ctx.scale
        found = (_positions_first(x, B) for x in (d_q_PGTH, d_k_PSH[:, None], d_v_PSV[:, None]))
        return (*found, None, None, None)


def _probabilities(q_PGTH: Tensor, k_PSH: Tensor, bias_BTS: Tensor | None, start: int, block: int) -> Tensor:
    """How much each query of the block at ``start`` takes from each key up to its last, ``[P, R, E]``."""
    end = min(start + block, q_PGTH.shape[2])
    scores_PRE = q_PGTH[:, :, start:end].flatten(1, 2) @ k_PSH[:, :end].mT
    later_CC = q_PGTH.new_full((end - start, end - start), float("-inf")).triu(1)
    scores = scores_PRE.view(1 if bias_BTS is None else len(bias_BTS), -1, end - start, end)
    scores[..., start:] += later_CC
    if bias_BTS is not None:
        scores += bias_BTS[:, None, start:end, :end]
    return scores_PRE.softmax(-1)


def _heads(x_BTKH: Tensor) -> Tensor:
    """``[P, T, H]``, contiguous."""
    return x_BTKH.transpose(1, 2).contiguous().flatten(0, 1)


def _grouped(x_BTNH: Tensor, K: int) -> Tensor:
    """``[P, G, T, H]``, contiguous."""
    B, T, N, H = x_BTNH.shape
    return x_BTNH.transpose(1, 2).contiguous().view(B * K, N // K, T, H)


def _split(x_PRH: Tensor, G: int) -> Tensor:
    """``[P, G, C, H]``."""
    P, R, H = x_PRH.shape
    return x_PRH.view(P, G, R // G, H)


def _positions_first(x_PGTH: Tensor, B: int) -> Tensor:
    """``[B, T, N, H]``, not copied."""
    P, G, T, H = x_PGTH.shape
    return x_PGTH.view(B, P // B * G, T, H).transpose(1, 2)
