"""State-space duality: the recurrence of Mamba-2, and its chunked form that is mostly matrix products.

Of one head, the state h (P x N) decays by a scalar and takes in an outer product:

    h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t^T          y_t = h_t c_t + d x_t

(Dao and Gu, 2024, arXiv:2405.21060; section 6 is the chunked form.)
"""

# Shape suffixes: B batch, T positions, H heads, P width of a head, G groups of heads that share b and c, N width of the
# state, C chunks, Q positions of a chunk, K positions of a chunk as keys, R = H / G heads of a group, F = R * P.

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cirilla_cli.model.ops.chunks import Chunks
from cirilla_cli.model.ops.decays import Logs
from cirilla_cli.model.ops.ssd_kernels import kernel_for

CACHED_ELEMENTS = 2**17
"""Size of a tensor of which a dozen stay in the caches of one core of a CPU; each thread has its own."""


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
    if length > 1:
        return chunked(signals, state_BHPN, chunk_size=chunk_size)
    return recurrence(signals.to(_exact(signals)), state_BHPN)


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

    Computed in float32 at least, whatever the inputs are in. Its gradient is written out: differentiable once.
    """
    s = signals
    if state_BHPN is None:
        state_BHPN = _no_state_BHPN(signals)
    if torch.is_grad_enabled():
        found: tuple[Tensor, Tensor] = ChunkedScan.apply(  # type: ignore[no-untyped-call]
            s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H, s.starts_BT, state_BHPN, chunk_size
        )
        return found
    y_BTHP, state_BHPN, _ = _run(_Cut.of(signals, chunk_size), state_BHPN, keep=False)
    return y_BTHP, state_BHPN


def _no_state_BHPN(signals: Signals) -> Tensor:
    B, _, H, P = signals.x_BTHP.shape
    return signals.x_BTHP.new_zeros(B, H, P, signals.b_BTGN.shape[-1], dtype=_exact(signals))


def _exact(signals: Signals) -> torch.dtype:
    """What is computed in."""
    return torch.promote_types(signals.x_BTHP.dtype, torch.float32)


class ChunkedScan(torch.autograd.Function):
    """`chunked` with its gradient.

    Autograd would keep a dozen tensors as large as the inputs or larger. Kept here are inputs, outputs, and of each
    stretch of chunks what is `_Between`; the rest is cheap enough to be made again.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Outputs and the last state."""
        *parts, state_BHPN, ctx.chunk_size = inputs
        y_BTHP, after_BHPN, kept = _run(_Cut.of(Signals(*parts), ctx.chunk_size), state_BHPN, keep=True)
        ctx.save_for_backward(*parts, y_BTHP, after_BHPN, *(x for between in kept for x in between))
        return y_BTHP, after_BHPN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what has one."""
        saved = ctx.saved_tensors  # once: where blocks are computed again, each tensor is there for one look
        *parts, y_BTHP, after_BHPN = saved[:9]
        kept = [_Between(*saved[i : i + 2]) for i in range(9, len(saved), 2)]
        cut = _Cut.of(Signals(*parts), ctx.chunk_size)
        *grads, state_grad_BHPN = _gradients(cut, kept, y_BTHP, after_BHPN, *output_grads)
        inputs = (grad.to(part.dtype) for grad, part in zip(grads, parts[:6], strict=True))
        return (*inputs, None, state_grad_BHPN, None)


class _Between(NamedTuple):
    """What the gradient needs of a stretch, beside inputs and outputs."""

    scores_BCGQK: Tensor
    """Products of c and b."""
    before_BCGFN: Tensor
    """The state before each chunk."""


@dataclass(frozen=True)
class _Cut:
    """Signals cut into chunks, a stretch of which is computed at once."""

    signals: Signals
    chunks: Chunks
    dt_BCQH: Tensor
    logs: Logs

    @classmethod
    def of(cls, signals: Signals, chunk_size: int) -> "_Cut":
        """Chunks of at most ``chunk_size`` positions, as equal as can be."""
        exact, chunks = _exact(signals), Chunks.of(signals.x_BTHP.shape[1], most=chunk_size)
        # Filled-up positions have dt = 0: they neither decay the state nor add to it.
        dt_BCQH = chunks.cut(signals.dt_BTH.to(exact))
        starts_BCQ = None if signals.starts_BT is None else chunks.cut(signals.starts_BT)
        return cls(signals, chunks, dt_BCQH, Logs.of(dt_BCQH * signals.a_H.to(exact), starts_BCQ))

    def spans(self) -> list[slice]:
        """The chunks of each stretch: all, but on a CPU so few that what they need stays in its caches.

        There new memory for all of them takes longer than the products.
        """
        B, _, H, P = self.signals.x_BTHP.shape
        stride = self.chunks.count
        if self.dt_BCQH.device.type == "cpu" and not torch.compiler.is_compiling():
            elements = CACHED_ELEMENTS * torch.get_num_threads()
            stride = max(1, elements // (B * H * self.chunks.size * max(P, self.chunks.size)))
        starts = range(0, self.chunks.count, stride)
        return [slice(start, min(start + stride, self.chunks.count)) for start in starts]

    def positions(self, span: slice) -> slice:
        """Those of a stretch."""
        return slice(span.start * self.chunks.size, min(span.stop * self.chunks.size, self.chunks.length))

    def stretch(self, span: slice) -> "_Stretch":
        """These chunks."""
        positions = self.positions(span)
        s = self.signals.part(positions).to(_exact(self.signals))
        chunks = Chunks(positions.stop - positions.start, span.stop - span.start, self.chunks.size)
        logs = self.logs.part(span)
        return _Stretch(
            chunks, chunks.cut(s.x_BTHP), self.dt_BCQH[:, span, ..., None], chunks.cut(s.b_BTGN).transpose(2, 3),
            chunks.cut(s.c_BTGN).transpose(2, 3), s.d_H[:, None], logs.decay_BCHQK(), logs.entering_BCQH[..., None],
        )  # fmt: skip


def _run(cut: _Cut, state_BHPN: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, list[_Between]]:
    """Outputs ``[B, T, H, P]``, the state after the last position, and, to ``keep``, what is between."""
    kept, (B, _, H, P) = [], cut.signals.x_BTHP.shape
    y_BCQHP = state_BHPN.new_empty(B, cut.chunks.count, cut.chunks.size, H, P)
    state_BGFN = _grouped(state_BHPN, cut.signals.b_BTGN.shape[2])
    for span in cut.spans():
        state_BGFN, between = cut.stretch(span).run(state_BGFN, out_BCQHP=y_BCQHP[:, span])
        if keep:
            kept.append(between)
    return cut.chunks.joined(y_BCQHP), _restored(state_BGFN, P), kept


def _grouped(state_BHPN: Tensor, groups: int) -> Tensor:
    """States with the heads of a group one above the other, ``[B, G, F, N]``."""
    return torch.unflatten(state_BHPN, 1, (groups, -1)).flatten(2, 3)


def _restored(state_BGFN: Tensor, width: int) -> Tensor:
    """The same as ``[B, H, P, N]``."""
    return torch.unflatten(state_BGFN, 2, (-1, width)).flatten(1, 2)


@dataclass(frozen=True)
class _Stretch:
    """Some chunks, and how much is left of what in them."""

    chunks: Chunks
    x_BCQHP: Tensor
    dt_BCQH1: Tensor
    b_BCGQN: Tensor
    c_BCGQN: Tensor
    d_H1: Tensor
    decay_BCHQK: Tensor
    entering_BCQH1: Tensor

    def run(self, state_BGFN: Tensor, *, out_BCQHP: Tensor) -> tuple[Tensor, _Between]:
        """Writes the outputs; returns the state after the last position."""
        scores_BCGQK, taken_BCQHP = self.c_BCGQN @ self.b_BCGQN.mT, self.x_BCQHP * self.dt_BCQH1
        within_BCHQP = self.weights_BCHQK(scores_BCGQK) @ taken_BCQHP.transpose(2, 3)
        after_BCGFN = self.grouped(taken_BCQHP * self.leaving_BCQH1()).mT @ self.b_BCGQN
        before_BCGFN = self._passed_on(state_BGFN, after_BCGFN)
        read_BCQHP = self.heads(self.c_BCGQN @ before_BCGFN.mT)
        torch.mul(self.x_BCQHP, self.d_H1, out=out_BCQHP)
        out_BCQHP.addcmul_(read_BCQHP, self.entering_BCQH1).add_(within_BCHQP.transpose(2, 3))
        return after_BCGFN[:, -1], _Between(scores_BCGQK, before_BCGFN)

    def _passed_on(self, state_BGFN: Tensor, after_BCGFN: Tensor) -> Tensor:
        """Adds to what each chunk leaves what is left of the states before; returns the latter."""
        through_BCGF1 = self.through_BCGF1()
        for c in range(self.chunks.count):
            after_BCGFN[:, c].addcmul_(after_BCGFN[:, c - 1] if c else state_BGFN, through_BCGF1[:, c])
        if self.chunks.count == 1:
            return state_BGFN[:, None]
        return torch.cat([state_BGFN[:, None], after_BCGFN[:, :-1]], dim=1)

    def leaving_BCQH1(self) -> Tensor:
        """What is left of inputs when their chunk ends."""
        return self.decay_BCHQK[..., -1, :].transpose(2, 3)[..., None]

    def through_BCGF1(self) -> Tensor:
        """What is left then of the state that entered it."""
        return self.grouped(self.entering_BCQH1[:, :, -1:].expand(-1, -1, -1, -1, self.x_BCQHP.shape[4])).mT

    def weights_BCHQK(self, scores_BCGQK: Tensor) -> Tensor:
        """How much outputs have of inputs of their own chunk."""
        decay_BCGRQK = torch.unflatten(self.decay_BCHQK, 2, (scores_BCGQK.shape[2], -1))
        return (decay_BCGRQK * scores_BCGQK[:, :, :, None]).flatten(2, 3)

    def grouped(self, x_BCQHP: Tensor) -> Tensor:
        """Heads of a group side by side, ``[B, C, G, Q, F]``."""
        return torch.unflatten(x_BCQHP, 3, (self.b_BCGQN.shape[2], -1)).flatten(4).transpose(2, 3)

    def heads(self, x_BCGQF: Tensor) -> Tensor:
        """The same taken apart, ``[B, C, Q, H, P]``."""
        return torch.unflatten(x_BCGQF.transpose(2, 3), 4, (-1, self.x_BCQHP.shape[4])).flatten(3, 4)


class _StretchGrads(NamedTuple):
    """Gradients of x, b, c and the state before a stretch; and what those of dt, a and d are made of."""

    x_BTHP: Tensor
    b_BTGN: Tensor
    c_BTGN: Tensor
    state_BGFN: Tensor
    by_step_BCQH: Tensor
    """By dt, where it does not decay anything."""
    by_skip_BCQH: Tensor
    """By d."""
    by_logs_BCQH: Tensor
    """By the sum of logarithms of decays, from the chunk's or the document's start to here."""


@dataclass(frozen=True)
class _Back:
    """The way back through a stretch."""

    stretch: _Stretch
    between: _Between
    y_BCQHP: Tensor
    y_grad_BCQHP: Tensor

    def run(self, after_BGFN: Tensor, after_grad_BGFN: Tensor) -> _StretchGrads:
        """The gradients, from the state after the last position and its gradient."""
        s, taken_BCQHP = self.stretch, self.stretch.x_BCQHP * self.stretch.dt_BCQH1
        read_grad_BCGQF = s.grouped(self.y_grad_BCQHP * s.entering_BCQH1)
        state_grad_BCGFN, before_grad_BGFN = self._passed_back(read_grad_BCGQF.mT @ s.c_BCGQN, after_grad_BGFN)
        scores_grad_BCGQK, taken_grad_BCQHP = self._through_weights(taken_BCQHP)
        taken_grad_BCQHP.addcmul_(s.heads(s.b_BCGQN @ state_grad_BCGFN.mT), s.leaving_BCQH1())
        c_BCGQN = read_grad_BCGQF @ self.between.before_BCGFN + scores_grad_BCGQK @ s.b_BCGQN
        b_BCGQN = s.grouped(taken_BCQHP * s.leaving_BCQH1()) @ state_grad_BCGFN + scores_grad_BCGQK.mT @ s.c_BCGQN
        b_BTGN, c_BTGN = s.chunks.joined(b_BCGQN.transpose(2, 3)), s.chunks.joined(c_BCGQN.transpose(2, 3))
        by_step_BCQH, by_skip_BCQH = ((x * s.x_BCQHP).sum(-1) for x in (taken_grad_BCQHP, self.y_grad_BCQHP))
        by_logs_BCQH = self._by_logs_BCQH(by_step_BCQH, by_skip_BCQH, after_BGFN, state_grad_BCGFN)
        x_BCQHP = taken_grad_BCQHP.mul_(s.dt_BCQH1).addcmul_(self.y_grad_BCQHP, s.d_H1)
        x_BTHP = s.chunks.joined(x_BCQHP)
        return _StretchGrads(x_BTHP, b_BTGN, c_BTGN, before_grad_BGFN, by_step_BCQH, by_skip_BCQH, by_logs_BCQH)

    def _passed_back(self, by_reads_BCGFN: Tensor, grad_BGFN: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the state after each chunk, and of that before the first."""
        after, through_BCGF1 = [], self.stretch.through_BCGF1()
        for c in reversed(range(self.stretch.chunks.count)):
            after.append(grad_BGFN)
            grad_BGFN = torch.addcmul(by_reads_BCGFN[:, c], grad_BGFN, through_BCGF1[:, c])
        return torch.stack(after[::-1], dim=1), grad_BGFN

    def _through_weights(self, taken_BCQHP: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the products of c and b, and, within chunks, of what is taken ``[B, C, Q, H, P]``."""
        # Copied here, since the products would copy them transposed, which takes longer.
        y_grad_BCHQP, taken_BCHQP = (x.transpose(2, 3).contiguous() for x in (self.y_grad_BCQHP, taken_BCQHP))
        parts_BCHQK = (y_grad_BCHQP @ taken_BCHQP.mT).mul_(self.stretch.decay_BCHQK)
        scores_grad_BCGQK = torch.unflatten(parts_BCHQK, 2, (self.between.scores_BCGQK.shape[2], -1)).sum(3)
        taken_grad_BCHQP = self.stretch.weights_BCHQK(self.between.scores_BCGQK).mT @ y_grad_BCHQP
        return scores_grad_BCGQK, taken_grad_BCHQP.transpose(2, 3).contiguous()

    def _by_logs_BCQH(
        self, by_step_BCQH: Tensor, by_skip_BCQH: Tensor, after_BGFN: Tensor, state_grad_BCGFN: Tensor
    ) -> Tensor:
        """Gradients of the sums of logarithms.

        With L such a sum, each term of an output or of a chunk's last state is in proportion to exp(L) of its own
        position and exp(-L) of the input's: products of what is at hand anyway, and none with the weights.
        """
        s = self.stretch
        by_logs_BCQH = (self.y_grad_BCQHP * self.y_BCQHP).sum(-1) - by_skip_BCQH * s.d_H1[:, 0]
        by_logs_BCQH.sub_(by_step_BCQH * s.dt_BCQH1[..., 0])
        after_BCGFN = torch.cat([self.between.before_BCGFN[:, 1:], after_BGFN[:, None]], dim=1)
        by_states_BCGF = (after_BCGFN * state_grad_BCGFN).sum(4)
        by_logs_BCQH[:, :, -1].add_(torch.unflatten(by_states_BCGF.flatten(2), 2, (s.d_H1.shape[0], -1)).sum(3))
        return by_logs_BCQH


def _gradients(
    cut: _Cut, kept: list[_Between], y_BTHP: Tensor, after_BHPN: Tensor, y_grad_BTHP: Tensor, after_grad_BHPN: Tensor
) -> tuple[Tensor, ...]:
    """Of x, dt, a, b, c, d and of the state before the first position, from the outputs and theirs."""
    s, groups, small = cut.signals, cut.signals.b_BTGN.shape[2], []
    x_BTHP, b_BTGN, c_BTGN = (x.new_empty(x.shape, dtype=y_BTHP.dtype) for x in (s.x_BTHP, s.b_BTGN, s.c_BTGN))
    after_BGFN, grad_BGFN = _grouped(after_BHPN, groups), _grouped(after_grad_BHPN, groups)
    for span, between in reversed(list(zip(cut.spans(), kept, strict=True))):
        stretch, here = cut.stretch(span), cut.positions(span)
        back = _Back(stretch, between, stretch.chunks.cut(y_BTHP[:, here]), stretch.chunks.cut(y_grad_BTHP[:, here]))
        x_BTHP[:, here], b_BTGN[:, here], c_BTGN[:, here], grad_BGFN, *logs = back.run(after_BGFN, grad_BGFN)
        after_BGFN = between.before_BCGFN[:, 0]
        small.append(logs)
    by_step_BCQH, by_skip_BCQH, by_logs_BCQH = (torch.cat(parts[::-1], dim=1) for parts in zip(*small, strict=True))
    log_grad_BCQH = cut.logs.sums_from_the_end(by_logs_BCQH)
    dt_BTH = cut.chunks.joined(torch.addcmul(by_step_BCQH, log_grad_BCQH, s.a_H.to(y_BTHP.dtype)))
    a_H, d_H = (log_grad_BCQH * cut.dt_BCQH).sum((0, 1, 2)), by_skip_BCQH.sum((0, 1, 2))
    return x_BTHP, dt_BTH, a_H, b_BTGN, c_BTGN, d_H, _restored(grad_BGFN, s.x_BTHP.shape[3])
