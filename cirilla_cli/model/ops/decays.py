"""How much is left, within chunks of positions, of what was remembered at each.

Shared by scans whose states decay by a scalar of each head and position.
"""

# Shape suffixes: B batch, C chunks, H heads, Q positions of a chunk, K positions of a chunk as keys.

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def decays(a_BCQH: Tensor, starts_BCQ: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is left, at each position, of each input of its chunk, and of the state that entered the chunk.

    Args:
        a_BCQH: logarithms of how much each position leaves.
        starts_BCQ: True where a document begins; None for nowhere.

    Returns:
        ``[B, C, H, Q, K]``, at Q of the input at K, and ``[B, C, Q, H]``.
    """
    logs = Logs.of(a_BCQH, starts_BCQ)
    return logs.decay_BCHQK(), logs.entering_BCQH


@dataclass(frozen=True)
class Logs:
    """Logarithms of decays, summed from the start of the chunk or document.

    A difference of two sums would lose what is small beside what came before it; with what rounding took off both sums
    added, it does not.
    """

    sums_BCHQ: Tensor
    rest_BCHQ: Tensor
    """What rounding took off the sums."""
    entering_BCQH: Tensor
    """What is left of the state that entered the chunk."""
    hidden: Tensor
    """-inf where K is after Q or in another document, else 0: ``[B, C, Q, K]``, ``[1, 1, Q, K]`` of one document."""
    documents: bool
    """Whether there may be several."""

    @classmethod
    def of(cls, a_BCQH: Tensor, starts_BCQ: Tensor | None) -> "Logs":
        """Those of logarithms ``a_BCQH``."""
        Q = a_BCQH.shape[2]
        same = torch.ones(1, 1, Q, Q, dtype=torch.bool, device=a_BCQH.device).tril()
        if starts_BCQ is None:
            sums_BCQH = a_BCQH.cumsum(2)
            rest_BCQH = _lost_BCQH(a_BCQH.detach(), sums_BCQH.detach(), None).cumsum(2)
            sums_BCHQ, rest_BCHQ = sums_BCQH.transpose(2, 3), rest_BCQH.transpose(2, 3)
            return cls(sums_BCHQ, rest_BCHQ, sums_BCQH.exp(), _hidden(same, a_BCQH), False)
        number_BCQ = starts_BCQ.cumsum(2)
        same = same & (number_BCQ[..., :, None] == number_BCQ[..., None, :])
        # A product with zeros and ones, so that nothing of an earlier document gets in, not even by rounding.
        sums_BCQH = same.to(a_BCQH.dtype) @ a_BCQH
        rest_BCQH = same.to(a_BCQH.dtype) @ _lost_BCQH(a_BCQH.detach(), sums_BCQH.detach(), starts_BCQ)
        entering_BCQH = sums_BCQH.exp().masked_fill(number_BCQ[..., None] > 0, 0.0)
        sums_BCHQ, rest_BCHQ = sums_BCQH.transpose(2, 3), rest_BCQH.transpose(2, 3)
        return cls(sums_BCHQ, rest_BCHQ, entering_BCQH, _hidden(same, a_BCQH), True)

    def part(self, span: slice) -> "Logs":
        """Those of some chunks."""
        hidden = self.hidden[:, span] if self.documents else self.hidden
        sums_BCHQ, rest_BCHQ = self.sums_BCHQ[:, span], self.rest_BCHQ[:, span]
        return Logs(sums_BCHQ, rest_BCHQ, self.entering_BCQH[:, span], hidden, self.documents)

    def decay_BCHQK(self) -> Tensor:
        """What is left at Q of the input at K."""
        decay_BCHQK = self.sums_BCHQ[..., :, None] - self.sums_BCHQ[..., None, :]
        decay_BCHQK.add_(self.rest_BCHQ[..., :, None]).sub_(self.rest_BCHQ[..., None, :])
        return decay_BCHQK.add_(self.hidden[:, :, None]).exp_()

    def sums_from_the_end(self, x_BCQH: Tensor) -> Tensor:
        """Of x at each position and those after it in its chunk and document, ``[B, C, Q, H]``."""
        if not self.documents:
            return x_BCQH.flip(2).cumsum(2).flip(2)
        return (self.hidden == 0).mT.to(x_BCQH.dtype) @ x_BCQH


def _hidden(same: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(same.shape, dtype=like.dtype, device=like.device).masked_fill_(~same, -math.inf)


def _lost_BCQH(a_BCQH: Tensor, sums_BCQH: Tensor, starts_BCQ: Tensor | None) -> Tensor:
    """What each step of the sums should have added and did not.

    The error of a difference is a number of the same format (Knuth, The Art of Computer Programming, volume 2, section
    4.2.2, theorem B), so there is no need of float64, which not every device has.
    """
    earlier_BCQH = F.pad(sums_BCQH[:, :, :-1], (0, 0, 1, 0))
    if starts_BCQ is not None:
        earlier_BCQH = earlier_BCQH.masked_fill(starts_BCQ[..., None], 0.0)
    step_BCQH = sums_BCQH - earlier_BCQH
    back_BCQH = step_BCQH - sums_BCQH
    error_BCQH = (sums_BCQH - (step_BCQH - back_BCQH)) - (earlier_BCQH + back_BCQH)
    return (a_BCQH - step_BCQH) - error_BCQH
