"""What stands on a trunk besides the matrix to the vocabulary: pooling, prediction, value and reward heads."""

# Shape suffixes: B batch, T positions, D model width, V rows of a head, P documents, C classes,
# R registers, S positions with registers among them.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.config import EncoderConfig, Pooling
from cirilla_cli.model.layout import PADDING, SequenceLayout

_ALIGNED = 8
"""Inputs that a bias adds to a product: one would do, but widths that are no multiple of this are slow on GPUs."""


def document_starts(layout: SequenceLayout) -> Tensor:
    """True for the first token of each document, ``[B, T]``; padding begins none."""
    starts_BT = layout.positions_BT == 0
    return starts_BT if layout.documents_BT is None else starts_BT & (layout.documents_BT != PADDING)


def document_numbers(layout: SequenceLayout) -> tuple[Tensor, int]:
    """Each token's document, numbered over the batch row by row, and how many there are; padding has their count."""
    starts_BT = document_starts(layout)
    count = int(starts_BT.sum())
    numbers_BT = starts_BT.flatten().cumsum(0).view_as(starts_BT) - 1
    if layout.documents_BT is None:
        return numbers_BT, count
    return torch.where(layout.documents_BT == PADDING, count, numbers_BT), count


def pool(hidden_BTD: Tensor, layout: SequenceLayout, pooling: Pooling) -> Tensor:
    """One vector for each document, ``[P, D]``, row by row, from hidden states ``[B, T, D]``."""
    if pooling == "first":
        return hidden_BTD[document_starts(layout)]
    numbers_BT, count = document_numbers(layout)
    if pooling == "last":
        following_BT = F.pad(numbers_BT[:, 1:], (0, 1), value=-1)
        return hidden_BTD[(numbers_BT != following_BT) & (numbers_BT != count)]
    # Padding is summed into a row of its own, which is dropped. Sums in bfloat16 are rounded at every addition on CUDA.
    wide = torch.promote_types(hidden_BTD.dtype, torch.float32)
    sums_PD = hidden_BTD.new_zeros(count + 1, hidden_BTD.shape[-1], dtype=wide)
    sums_PD = sums_PD.index_add(0, numbers_BT.flatten(), hidden_BTD.flatten(0, 1).to(wide))[:-1]
    sizes_P1 = numbers_BT.flatten().bincount(minlength=count + 1)[:count, None]
    return (sums_PD / sizes_P1).to(hidden_BTD.dtype)


def biased(hidden_BTD: Tensor, head_VD: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden states and head whose product is that of the given ones plus the bias.

    A bias is the weight of an input that is always 1; a readout then need not know of it.
    """
    if bias_V is None:
        return hidden_BTD, head_VD
    one = F.one_hot(torch.zeros((), dtype=torch.long, device=hidden_BTD.device), _ALIGNED).to(hidden_BTD.dtype)
    hidden_wide = torch.cat([hidden_BTD, one.expand(*hidden_BTD.shape[:-1], _ALIGNED)], dim=-1)
    return hidden_wide, torch.cat([head_VD, F.pad(bias_V[:, None], (0, _ALIGNED - 1))], dim=1)


class Registers(nn.Module):
    """Learned vectors before each document, dropped again after the last block (arXiv:2309.16588, section 2.2).

    Every document of a packed row gets its own copies, for copies that two documents share would carry what the one
    says to the other. They are the document's first R positions; a layer with a window sees them as far as it reaches.
    """

    def __init__(self, count: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, d_model))

    def before(self, x_BTD: Tensor, layout: SequenceLayout, norm: nn.Module) -> tuple[Tensor, SequenceLayout, Tensor]:
        """Put each document's registers before it, and what makes rows equally long behind them.

        Args:
            x_BTD: embedded tokens, normalised where the model normalises its embedding.
            layout: their positions and documents.
            norm: the norm of the embedding, through which registers go too.

        Returns:
            The longer rows ``[B, S, D]``, where everything in them is, and the place of each token ``[B, T]``.
        """
        (R, D), B = self.weight.shape, len(x_BTD)
        spread = _Spread(layout, R)
        token_BT = torch.arange(1 + R, 1 + R + layout.length, device=x_BTD.device).expand(B, -1)
        which_BS = spread.rows(token_BT, torch.arange(1, 1 + R, device=x_BTD.device), 0)
        registers = norm(self.weight.to(x_BTD.dtype)).expand(B, R, D)
        choice = torch.cat([x_BTD.new_zeros(B, 1, D), registers, x_BTD], dim=1)
        x_BSD = choice.gather(1, which_BS[..., None].expand(-1, -1, D))
        return x_BSD, spread.layout(), spread.places_BT


class _Spread:
    """Rows of tokens with room for R registers before each document."""

    def __init__(self, layout: SequenceLayout, count: int) -> None:
        self._layout, self._count = layout, count
        starts_BT = document_starts(layout)
        begun_BT = starts_BT.cumsum(dim=1)
        index_T = torch.arange(layout.length, device=starts_BT.device)
        self.places_BT = index_T + count * begun_BT
        """Where each token goes."""
        self._length = layout.length + count * int(begun_BT[:, -1].max())
        # Tokens that begin no document put registers into a column more, which is dropped.
        room = self.places_BT[..., None] + torch.arange(-count, 0, device=starts_BT.device)
        self._room = torch.where(starts_BT[..., None], room, self._length).flatten(1)

    def rows(self, tokens_BT: Tensor, registers: Tensor, fill: int) -> Tensor:
        """Rows ``[B, S]`` of what belongs to tokens, to registers (``[R]`` or ``[B, T, R]``), and to neither."""
        B, T = tokens_BT.shape
        rows = tokens_BT.new_full((B, self._length + 1), fill)
        rows = rows.scatter(1, self.places_BT, tokens_BT)
        return rows.scatter(1, self._room, registers.expand(B, T, self._count).flatten(1))[:, :-1]

    def layout(self) -> SequenceLayout:
        """Registers count from 0 and tokens go on counting; both are of the document that begins there."""
        layout, R = self._layout, self._count
        order = torch.arange(R, device=layout.positions_BT.device)
        positions_BS = self.rows(layout.positions_BT + R, order, 0)
        registers_BS = self.rows(torch.zeros_like(layout.positions_BT), torch.ones_like(order), 0) > 0
        if layout.documents_BT is None:
            return SequenceLayout(positions_BS, registers_BT=registers_BS)
        documents_BS = self.rows(layout.documents_BT, layout.documents_BT[..., None], PADDING)
        return SequenceLayout(positions_BS, documents_BS, registers_BT=registers_BS)


class PredictionHead(nn.Module):
    """norm(gelu(dense(x))): what BERT and ModernBERT put before the matrix to the vocabulary, or to the classes."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.head_bias)
        self.norm: nn.Module = config.norm.build(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states ``[..., D]`` made ready for the head; same shape."""
        out: Tensor = self.norm(F.gelu(self.dense(x)))
        return out


class Scores(nn.Module):
    """The matrix to logits, where it is not the embedding, and a bias for each row of it."""

    def __init__(self, config: EncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.weight = None if config.tie_embeddings else nn.Parameter(torch.zeros(vocab_size, config.d_model))
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if config.decoder_bias else None


class ValueHead(nn.Module):
    """How much reward is still to come, at each position: the critic of policy-gradient methods (arXiv:1707.06347)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.value = nn.Linear(d_model, 1)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Values ``[B, T]`` of final hidden states ``[B, T, D]``, in float32 at least."""
        values_BT: Tensor = self.value(hidden_BTD)[..., 0]
        return values_BT.to(torch.promote_types(values_BT.dtype, torch.float32))


class RewardHead(nn.Module):
    """How good a whole document is, read off its last token (arXiv:2203.02155, section 3.5)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.score = nn.Linear(d_model, 1, bias=False)

    def forward(self, hidden_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """Rewards ``[P]`` of the documents, from final hidden states ``[B, T, D]``, in float32 at least."""
        rewards_P: Tensor = self.score(pool(hidden_BTD, layout, "last"))[:, 0]
        return rewards_P.to(torch.promote_types(rewards_P.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class LabelSums:
    """Sums over documents, each ``[]`` in float32."""

    nll: Tensor
    """Negative log-likelihood of the labels, natural log."""
    uniform: Tensor
    """Cross-entropy against the uniform distribution, which label smoothing mixes in."""
    correct: Tensor
    """Documents whose likeliest class is their label."""


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """Readout of a classifier: its loss on the documents' labels, and how many it gets right."""

    labels_P: Tensor

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> LabelSums:
        """The sums, from one row of pooled documents ``[1, P, D]`` and the classes' head ``[C, D]``."""
        logits_PC = hidden_BTD[0] @ head_VD.T
        logp_PC = logits_PC.to(torch.promote_types(logits_PC.dtype, torch.float32)).log_softmax(dim=-1)
        nll_P = -logp_PC.gather(1, self.labels_P[:, None])[:, 0]
        correct_P = logp_PC.argmax(dim=-1) == self.labels_P
        return LabelSums(nll_P.sum(), -logp_PC.mean(dim=-1).sum(), correct_P.to(logp_PC.dtype).sum())
