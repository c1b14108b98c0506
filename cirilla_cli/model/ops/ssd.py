"""State-space duality: the recurrence of Mamba-2, and its chunked form that is mostly matrix products.

Of one head, the state h (P x N) decays by a scalar and takes in an outer product:

    h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t^T          y_t = h_t c_t + d x_t

(Dao and Gu, 2024, arXiv:2405.21060; section 6 is the chunked form.)
"""

# Shape suffixes: B batch, T positions, H heads, P width of a head, G groups of heads that share b and c, N width of the
# state, C chunks, Q positions of a chunk, K positions of a chunk as keys, R = H / G heads of a group, F = R * P.

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.ops.ssd_kernels import kernel_for


@dataclass(frozen=True)
class Signals:
    """What drives the recurrence."""

    x_BTHP: Tensor
    """Inputs."""
    dt_BTH: Tensor
    """Step sizes, positive."""
    a_H: Tensor
    """Decay rates, negative."""
    b_BTGN: Tensor
    """Which parts of the state an input goes to."""
    c_BTGN: Tensor
    """Which parts of the state an output comes from."""
    d_H: Tensor
    """How much of each input goes straight to its output."""
    starts_BT: Tensor | None = None
    """True where a document begins and the state with it; None for nowhere."""

    def part(self, span: slice) -> "Signals":
        """The signals at some of the positions."""
        starts_BT = None if self.starts_BT is None else self.starts_BT[:, span]
        x_BTHP, dt_BTH = self.x_BTHP[:, span], self.dt_BTH[:, span]
        return Signals(x_BTHP, dt_BTH, self.a_H, self.b_BTGN[:, span], self.c_BTGN[:, span], self.d_H, starts_BT)

    def to(self, dtype: torch.dtype) -> "Signals":
        """The same in another precision."""
        x_BTHP, dt_BTH, a_H = self.x_BTHP.to(dtype), self.dt_BTH.to(dtype), self.a_H.to(dtype)
        b_BTGN, c_BTGN, d_H = self.b_BTGN.to(dtype), self.c_BTGN.to(dtype), self.d_H.to(dtype)
        return Signals(x_BTHP, dt_BTH, a_H, b_BTGN, c_BTGN, d_H, self.starts_BT)


def scan(signals: Signals, state_BHPN: Tensor | None = None, *, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Run the recurrence by the fastest way there is here.

    One position is one step; more are scanned in chunks, on CUDA in half precision by `mamba-ssm`'s kernel where that
    is installed. Everything else is computed in float32, or in float64 for float64.

    Args:
        signals: what drives it.
        state_BHPN: the state before the first position; None for zeros.
        chunk_size: most positions of a chunk. Changes the time it takes, not the result.

    Returns:
        Outputs ``[B, T, H, P]`` and the state after the last position ``[B, H, P, N]``, in float32 at least.
    """
    length = signals.x_BTHP.shape[1]
    kernel = kernel_for(signals.x_BTHP) if length > 1 else None
    if kernel is not None:
        s = signals
        return kernel(
            s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H, s.starts_BT, state_BHPN, chunk_size=chunk_size
        )
    signals = signals.to(torch.promote_types(signals.x_BTHP.dtype, torch.float32))
    return recurrence(signals, state_BHPN) if length == 1 else chunked(signals, state_BHPN, chunk_size=chunk_size)


def recurrence(signals: Signals, state_BHPN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, one position after another: how a model decodes, and what `chunked` is tested against."""
    if state_BHPN is None:
        state_BHPN = _no_state_BHPN(signals)
    groups, outputs = signals.b_BTGN.shape[2], []
    for t in range(signals.x_BTHP.shape[1]):
        decay_BH = torch.exp(signals.dt_BTH[:, t] * signals.a_H)
        if signals.starts_BT is not None:
            decay_BH = decay_BH.masked_fill(signals.starts_BT[:, t, None], 0.0)
        taken_BHP = signals.x_BTHP[:, t] * signals.dt_BTH[:, t, :, None]
        taken_BGF1 = torch.unflatten(taken_BHP, 1, (groups, -1)).flatten(2)[..., None]
        taken = (taken_BGF1 * signals.b_BTGN[:, t, :, None]).view_as(state_BHPN)
        state_BHPN = torch.addcmul(taken, state_BHPN, decay_BH[..., None, None])
        read_BGF1 = torch.unflatten(state_BHPN, 1, (groups, -1)).flatten(2, 3) @ signals.c_BTGN[:, t, ..., None]
        outputs.append(read_BGF1.view_as(taken_BHP) + signals.d_H[:, None] * signals.x_BTHP[:, t])
    return torch.stack(outputs, dim=1), state_BHPN


def chunked(signals: Signals, state_BHPN: Tensor | None = None, *, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The same by chunks: inside one, attention with decaying weights; between them, the recurrence of their states.

    The length is cut into chunks as equal as can be, so that little has to be filled up.
    """
    B, T, H, P = signals.x_BTHP.shape
    if state_BHPN is None:
        state_BHPN = _no_state_BHPN(signals)
    chunks = math.ceil(T / chunk_size)
    size = math.ceil(T / chunks)
    fill = chunks * size - T

    def cut(x: Tensor) -> Tensor:
        return torch.unflatten(F.pad(x, (0, 0) * (x.ndim - 2) + (0, fill)) if fill else x, 1, (chunks, size))

    # Filled-up positions have dt = 0: they neither decay the state nor add to it.
    dt_BCQH, starts_BT = cut(signals.dt_BTH), signals.starts_BT
    starts_BCQ = None if starts_BT is None else cut(starts_BT)
    taken_BCQHP = cut(signals.x_BTHP * signals.dt_BTH[..., None])
    decay_BCHQK, entering_BCQH = decays(dt_BCQH * signals.a_H, starts_BCQ)
    b_BCGQN, c_BCGQN = cut(signals.b_BTGN).transpose(2, 3), cut(signals.c_BTGN).transpose(2, 3)
    within_BCHQP = _within_BCHQP(decay_BCHQK, taken_BCQHP, b_BCGQN, c_BCGQN)
    left_BCHPN = _left_BCHPN(decay_BCHQK[..., -1, :], taken_BCQHP, b_BCGQN)
    before_BCHPN, state_BHPN = _passed_on(left_BCHPN, entering_BCQH[:, :, -1], state_BHPN)
    read_BCQHP = _read_BCQHP(before_BCHPN, c_BCGQN)
    y_BCQHP = torch.addcmul(cut(signals.x_BTHP * signals.d_H[:, None]), read_BCQHP, entering_BCQH[..., None])
    return (y_BCQHP + within_BCHQP.transpose(2, 3)).flatten(1, 2)[:, :T], state_BHPN


def _no_state_BHPN(signals: Signals) -> Tensor:
    B, _, H, P = signals.x_BTHP.shape
    return signals.x_BTHP.new_zeros(B, H, P, signals.b_BTGN.shape[-1])


def decays(a_BCQH: Tensor, starts_BCQ: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is left, at each position, of each input of its chunk, and of the state that entered the chunk.

    Logarithms are summed from the start of the chunk or document; of documents by a product with zeros and ones, so
    that nothing of an earlier one gets in, not even by rounding. A difference of two sums in float32 would lose what is
    small beside what came before it; with what rounding took off both sums added, it does not.
    """
    Q = a_BCQH.shape[2]
    same = torch.ones(1, 1, Q, Q, dtype=torch.bool, device=a_BCQH.device).tril()
    number_BCQ = None if starts_BCQ is None else starts_BCQ.cumsum(2)
    if number_BCQ is not None:
        same = same & (number_BCQ[..., :, None] == number_BCQ[..., None, :])
    exact_BCQH = a_BCQH.double().cumsum(2) if number_BCQ is None else same.double() @ a_BCQH.double()
    sums_BCQH = exact_BCQH.to(a_BCQH.dtype)
    rest_BCHQ = (exact_BCQH - sums_BCQH).to(a_BCQH.dtype).detach().transpose(2, 3)
    sums_BCHQ = sums_BCQH.transpose(2, 3)
    decay_BCHQK = sums_BCHQ[..., :, None] - sums_BCHQ[..., None, :]
    decay_BCHQK.add_(rest_BCHQ[..., :, None]).sub_(rest_BCHQ[..., None, :])
    hidden_BCQK = torch.zeros(same.shape, dtype=decay_BCHQK.dtype, device=same.device).masked_fill_(~same, -math.inf)
    decay_BCHQK.add_(hidden_BCQK[:, :, None]).exp_()
    entering_BCQH = sums_BCQH.exp()
    if number_BCQ is not None:
        entering_BCQH = entering_BCQH.masked_fill(number_BCQ[..., None] > 0, 0.0)
    return decay_BCHQK, entering_BCQH


def _within_BCHQP(decay_BCHQK: Tensor, taken_BCQHP: Tensor, b_BCGQN: Tensor, c_BCGQN: Tensor) -> Tensor:
    """What outputs have of inputs of their own chunk."""
    scores_BCGQK = c_BCGQN @ b_BCGQN.transpose(-1, -2)
    weights = torch.unflatten(decay_BCHQK, 2, (scores_BCGQK.shape[2], -1)) * scores_BCGQK[:, :, :, None]
    return weights.flatten(2, 3) @ taken_BCQHP.transpose(2, 3)


def _left_BCHPN(decay_BCHK: Tensor, taken_BCKHP: Tensor, b_BCGKN: Tensor) -> Tensor:
    """What each chunk adds to the state by its end."""
    weighted_BCKHP = taken_BCKHP * decay_BCHK.transpose(2, 3)[..., None]
    weighted_BCKGF = torch.unflatten(weighted_BCKHP, 3, (b_BCGKN.shape[2], -1)).flatten(4)
    left_BCGFN = weighted_BCKGF.permute(0, 1, 3, 4, 2) @ b_BCGKN
    return torch.unflatten(left_BCGFN, 3, (-1, taken_BCKHP.shape[-1])).flatten(2, 3)


def _passed_on(left_BCHPN: Tensor, decay_BCH: Tensor, state_BHPN: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, and after the last."""
    before = []
    for left_BHPN, decay_BH in zip(left_BCHPN.unbind(1), decay_BCH.unbind(1), strict=True):
        before.append(state_BHPN)
        state_BHPN = torch.addcmul(left_BHPN, state_BHPN, decay_BH[..., None, None])
    return torch.stack(before, dim=1), state_BHPN


def _read_BCQHP(before_BCHPN: Tensor, c_BCGQN: Tensor) -> Tensor:
    """What outputs would have of the state before their chunk if nothing decayed."""
    before_BCGFN = torch.unflatten(before_BCHPN, 2, (c_BCGQN.shape[2], -1)).flatten(3, 4)
    read_BCGQF = c_BCGQN @ before_BCGFN.transpose(-1, -2)
    return torch.unflatten(read_BCGQF.transpose(2, 3), 4, (-1, before_BCHPN.shape[3])).flatten(3, 4)
