"""The gated delta rule: a memory that is corrected rather than added to, and its chunked form.

Of one head, the state S (K x V) maps keys to values. Each position lets it fade by exp(g), takes off what it then
answers to the position's key, and puts the position's value there, all by the share beta:

    S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - exp(g_t) S_{t-1}^T k_t)^T          y_t = S_t^T q_t

(Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464, section 3.1; section 3.3 is the chunked form.)
"""

# Shape suffixes: B batch, T positions, H heads (of values), G heads of queries and keys, each shared by H / G heads,
# K width of a key, V width of a value, C chunks, Q positions of a chunk, S positions of a chunk as keys, 1 one.

from dataclasses import dataclass

import torch
from torch import Tensor

from cirilla_cli.model.ops.chunks import Chunks
from cirilla_cli.model.ops.decays import decays


@dataclass(frozen=True)
class Signals:
    """What drives the recurrence, in float32 or float64."""

    q_BTGK: Tensor
    """Queries."""
    k_BTGK: Tensor
    """Keys; of length 1 or less, or states grow."""
    v_BTHV: Tensor
    """Values."""
    g_BTH: Tensor
    """Logarithms of how much of the state is left, at most 0."""
    beta_BTH: Tensor
    """How much of what the state answers to a key is replaced, 0 to 1."""
    starts_BT: Tensor | None = None
    """True where a document begins and the state with it; None for nowhere."""

    def part(self, span: slice) -> "Signals":
        """The signals at some of the positions."""
        starts_BT = None if self.starts_BT is None else self.starts_BT[:, span]
        q_BTGK, k_BTGK, v_BTHV = self.q_BTGK[:, span], self.k_BTGK[:, span], self.v_BTHV[:, span]
        return Signals(q_BTGK, k_BTGK, v_BTHV, self.g_BTH[:, span], self.beta_BTH[:, span], starts_BT)


def scan(signals: Signals, state_BHKV: Tensor | None = None, *, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Run the recurrence by the fastest way there is here: one position is one step, more are run through in chunks.

    Args:
        signals: what drives it.
        state_BHKV: the state before the first position; None for zeros.
        chunk_size: most positions of a chunk. Changes the time it takes, not the result.

    Returns:
        Outputs ``[B, T, H, V]`` and the state after the last position ``[B, H, K, V]``.
    """
    if signals.v_BTHV.shape[1] == 1:
        return recurrence(signals, state_BHKV)
    return chunked(signals, state_BHKV, chunk_size=chunk_size)


def recurrence(signals: Signals, state_BHKV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, one position after another: how a model decodes, and what `chunked` is tested against."""
    if state_BHKV is None:
        state_BHKV = _no_state_BHKV(signals)
    outputs, share = [], signals.v_BTHV.shape[2] // signals.k_BTGK.shape[2]
    for t in range(signals.v_BTHV.shape[1]):
        left_BH = torch.exp(signals.g_BTH[:, t])
        if signals.starts_BT is not None:
            left_BH = left_BH.masked_fill(signals.starts_BT[:, t, None], 0.0)
        q_BH1K = signals.q_BTGK[:, t].repeat_interleave(share, dim=1)[:, :, None]
        k_BH1K = signals.k_BTGK[:, t].repeat_interleave(share, dim=1)[:, :, None]
        state_BHKV = state_BHKV * left_BH[..., None, None]
        written_BH1V = (signals.v_BTHV[:, t, :, None] - k_BH1K @ state_BHKV) * signals.beta_BTH[:, t, :, None, None]
        state_BHKV = torch.addcmul(state_BHKV, k_BH1K.transpose(2, 3), written_BH1V)
        outputs.append((q_BH1K @ state_BHKV)[:, :, 0])
    return torch.stack(outputs, dim=1), state_BHKV


def chunked(signals: Signals, state_BHKV: Tensor | None = None, *, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The same by chunks: what each position writes comes out of one triangular system a chunk.

    What a position writes depends on what earlier ones of its chunk wrote (the system) and on the state that entered
    the chunk (linearly). Both parts are solved for at once, for all chunks; only the states pass from one to the next.
    """
    if state_BHKV is None:
        state_BHKV = _no_state_BHKV(signals)
    chunks = Chunks.of(signals.v_BTHV.shape[1], most=chunk_size)
    cut = _cut(signals, chunks)
    before_BCHKV, written_BCHQV, state_BHKV = _passed_on(cut, *_solved(cut), state_BHKV)
    return chunks.joined(_read_BCHQV(cut, before_BCHKV, written_BCHQV).transpose(2, 3)), state_BHKV


@dataclass(frozen=True)
class _Cut:
    """Signals in chunks, and what is left of what by the end of each position."""

    q_BCGQK: Tensor
    k_BCGQK: Tensor
    k_BCHQK: Tensor
    """The keys once more, for each head of values."""
    v_BCHQV: Tensor
    beta_BCHQ1: Tensor
    left_BCHQS: Tensor
    """Of what position S of the chunk wrote, at its position Q."""
    entering_BCHQ1: Tensor
    """Of the state that entered the chunk."""


def _cut(signals: Signals, chunks: Chunks) -> _Cut:
    # Filled-up positions have g = 0 and beta = 0: the state neither fades there nor is written to.
    starts_BCQ = None if signals.starts_BT is None else chunks.cut(signals.starts_BT)
    left_BCHQS, entering_BCQH = decays(chunks.cut(signals.g_BTH), starts_BCQ)
    q_BCGQK, k_BCGQK = chunks.cut(signals.q_BTGK).transpose(2, 3), chunks.cut(signals.k_BTGK).transpose(2, 3)
    return _Cut(
        q_BCGQK, k_BCGQK, _of_heads(k_BCGQK, left_BCHQS.shape[2]), chunks.cut(signals.v_BTHV).transpose(2, 3),
        chunks.cut(signals.beta_BTH).transpose(2, 3)[..., None], left_BCHQS, entering_BCQH.transpose(2, 3)[..., None],
    )  # fmt: skip


def _of_heads(x_BCGQK: Tensor, heads: int) -> Tensor:
    """Queries or keys of each head of values, ``[B, C, H, Q, K]``."""
    return x_BCGQK.repeat_interleave(heads // x_BCGQK.shape[2], dim=2)


def _no_state_BHKV(signals: Signals) -> Tensor:
    B, _, H, V = signals.v_BTHV.shape
    return signals.v_BTHV.new_zeros(B, H, signals.k_BTGK.shape[-1], V)


def _scores_BCHQS(to_BCGQK: Tensor, from_BCGSK: Tensor, left_BCHQS: Tensor) -> Tensor:
    """How like each other positions of a chunk are, by what is left of the earlier one at the later."""
    scores_BCGQS = to_BCGQK @ from_BCGSK.transpose(-1, -2)
    return (torch.unflatten(left_BCHQS, 2, (scores_BCGQS.shape[2], -1)) * scores_BCGQS[:, :, :, None]).flatten(2, 3)


def _solved(cut: _Cut) -> tuple[Tensor, Tensor]:
    """What positions write where no state enters the chunk; and the keys by which what they write falls with it.

    With A = beta k k^T below the diagonal they are (1 + A)^-1 beta v and (1 + A)^-1 beta k: the U and W of the paper,
    by substitution, since powers of A may grow beyond what float32 holds to.
    """
    sides = cut.beta_BCHQ1 * torch.cat([cut.v_BCHQV, cut.k_BCHQK * cut.entering_BCHQ1], dim=-1)
    # Transposed on both sides, which is how the routine wants its operands in memory: nothing is copied.
    system_BCHSQ = (cut.beta_BCHQ1 * _scores_BCHQS(cut.k_BCGQK, cut.k_BCGQK, cut.left_BCHQS)).mT
    solution = torch.linalg.solve_triangular(system_BCHSQ, sides.mT, upper=True, left=False, unitriangular=True).mT
    written_BCHQV, recalled_BCHQK = torch.split(solution, [cut.v_BCHQV.shape[-1], cut.k_BCHQK.shape[-1]], dim=-1)
    return written_BCHQV, recalled_BCHQK


def _passed_on(
    cut: _Cut, written_BCHQV: Tensor, recalled_BCHQK: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state before each chunk, what is written in each given that state, and the state after the last."""
    leaving_BCHQK, left_BCH11 = cut.k_BCHQK * cut.left_BCHQS[..., -1, :, None], cut.entering_BCHQ1[:, :, :, -1:]
    before, written = [], []
    for c in range(written_BCHQV.shape[1]):
        before.append(state_BHKV)
        written.append(written_BCHQV[:, c] - recalled_BCHQK[:, c] @ state_BHKV)
        state_BHKV = torch.addcmul(leaving_BCHQK[:, c].transpose(2, 3) @ written[-1], state_BHKV, left_BCH11[:, c])
    return torch.stack(before, dim=1), torch.stack(written, dim=1), state_BHKV


def _read_BCHQV(cut: _Cut, before_BCHKV: Tensor, written_BCHQV: Tensor) -> Tensor:
    """What queries recall of their own chunk and of the state that entered it."""
    within_BCHQV = _scores_BCHQS(cut.q_BCGQK, cut.k_BCGQK, cut.left_BCHQS) @ written_BCHQV
    q_BCHQK = _of_heads(cut.q_BCGQK, cut.v_BCHQV.shape[2])
    return within_BCHQV + (q_BCHQK * cut.entering_BCHQ1) @ before_BCHKV
