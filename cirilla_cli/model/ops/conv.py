"""Causal convolution of each channel on its own, over documents that know nothing of each other."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, R remembered positions, E channels,
# K taps, 1 one.

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv(
    x_BTE: Tensor,
    weight_E1K: Tensor,
    bias_E: Tensor | None = None,
    *,
    tail_BRE: Tensor | None = None,
    positions_BT: Tensor | None = None,
) -> Tensor:
    """Each channel's last K inputs, weighted: ``[B, T, E]``.

    The last tap is that of the position itself, as in ``nn.Conv1d(E, E, K, groups=E)``. Written as K shifted products,
    because a depthwise kernel wants time innermost and cannot leave out taps by position.

    Args:
        x_BTE: the new inputs.
        weight_E1K: the taps, oldest first.
        bias_E: added to every output.
        tail_BRE: the K - 1 inputs before the first new one, as `tail_of` gives them; None for zeros.
        positions_BT: place of each input in its document, where a row holds several: no output sees further back than
            to the first. None for rows of one document.
    """
    taps_KE = weight_E1K[:, 0].T
    if x_BTE.shape[1] == 1 and positions_BT is None and tail_BRE is not None:
        out_BTE = (torch.cat([tail_BRE, x_BTE], dim=1) * taps_KE).sum(1, keepdim=True)
        return out_BTE if bias_E is None else out_BTE + bias_E
    return _by_shifts(x_BTE, taps_KE, bias_E, tail_BRE, positions_BT)


def _by_shifts(
    x_BTE: Tensor, taps_KE: Tensor, bias_E: Tensor | None, tail_BRE: Tensor | None, positions_BT: Tensor | None
) -> Tensor:
    """The outputs ``[B, T, E]`` as K products of the taps with the inputs, each shifted by one more."""
    K = len(taps_KE)
    seen_BSE = _behind(tail_BRE, x_BTE, K)
    out_BTE = x_BTE * taps_KE[-1] if bias_E is None else torch.addcmul(bias_E, x_BTE, taps_KE[-1])
    for back in range(1, K):
        part_BTE = seen_BSE[:, K - 1 - back : seen_BSE.shape[1] - back]
        if positions_BT is not None:
            part_BTE = part_BTE * (positions_BT >= back).to(part_BTE.dtype)[..., None]
        out_BTE = torch.addcmul(out_BTE, part_BTE, taps_KE[-1 - back])
    return out_BTE


def tail_of(tail_BRE: Tensor | None, x_BTE: Tensor, taps: int) -> Tensor:
    """The ``taps - 1`` inputs that the next call wants to know of, ``[B, K - 1, E]``."""
    seen_BSE = _behind(tail_BRE, x_BTE[:, max(0, x_BTE.shape[1] - (taps - 1)) :], taps)
    return seen_BSE[:, seen_BSE.shape[1] - (taps - 1) :]


def _behind(tail_BRE: Tensor | None, x_BTE: Tensor, taps: int) -> Tensor:
    """The new inputs behind the ``taps - 1`` remembered ones, ``[B, K - 1 + T, E]``."""
    return F.pad(x_BTE, (0, 0, taps - 1, 0)) if tail_BRE is None else torch.cat([tail_BRE, x_BTE], dim=1)
