"""Running text in which some tokens are hidden or changed, and are to be restored."""

# Shape suffixes: B rows, T positions.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from cirilla_cli.data.batches import IGNORE, PackedText, TokenBatch
from cirilla_cli.data.config import MaskedTextConfig
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.errors import CirillaError

_TRAIN, _VAL = 0, 1


@dataclass(frozen=True, slots=True)
class Masking:
    """Which tokens are to be restored, and what stands in their place (Devlin et al., 2018, arXiv:1810.04805)."""

    config: MaskedTextConfig
    mask_id: int
    plain: NDArray[np.int64]
    """Ids that stand for text; the others are control tokens, which are neither hidden nor put in."""
    is_plain: NDArray[np.bool_]
    """The same by id."""

    @classmethod
    def of(cls, config: MaskedTextConfig, tokenizer: Tokenizer) -> Self:
        """The masking of texts in this tokenizer's ids.

        Raises:
            CirillaError: it has no token that stands for a hidden one.
        """
        if tokenizer.mask is None:
            raise CirillaError(
                "`data.kind` is 'masked_text', but the tokenizer has no mask token",
                hint="tokenizer.kind=sentencepiece trains one that has; an imported one names it as mask_token",
            )
        is_plain = np.array([tokenizer.piece_bytes(id) != b"" for id in range(tokenizer.vocab_size)])
        return cls(config, tokenizer.mask.id, np.flatnonzero(is_plain), is_plain)

    def row(self, ids_T: NDArray[np.int64], seed: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the model sees of a row, and what it is to say: the token where it was chosen, else `IGNORE`.

        Each token is chosen by itself, so that a row's number of targets varies; ``seed`` alone decides.
        """
        draws = np.random.Generator(np.random.PCG64(seed))
        chosen_T = (draws.random(len(ids_T)) < self.config.share) & self.is_plain[ids_T]
        fate_T = draws.random(len(ids_T))
        others_T = self.plain[draws.integers(len(self.plain), size=len(ids_T))]
        hidden_T = chosen_T & (fate_T < self.config.as_mask)
        changed_T = chosen_T & ~hidden_T & (fate_T < self.config.as_mask + self.config.as_random)
        seen_T = np.where(hidden_T, self.mask_id, np.where(changed_T, others_T, ids_T))
        return seen_T, np.where(chosen_T, ids_T, IGNORE)


class MaskedText:
    """Rows of running text with tokens to restore; which ones is a function of the seed and the row's global number."""

    def __init__(self, text: PackedText, masking: Masking) -> None:
        self.text, self.masking, self.cut = text, masking, text.cut
        self.rows_per_epoch = text.rows_per_epoch

    def step(self, index: int) -> list[TokenBatch]:
        """The micro-batches of step ``index``; a row met again in a later pass hides other tokens."""
        return list(self._masked(self.text.step(index), _TRAIN, index * self.cut.rows_per_step))

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """The held-out text, the same tokens hidden each time."""
        return self._masked(self.text.validation(most_tokens), _VAL, 0)

    def _masked(self, batches: Iterator[TokenBatch] | list[TokenBatch], split: int, first: int) -> Iterator[TokenBatch]:
        for batch in batches:
            rows = range(first, first + len(batch.tokens_BT))
            pairs = [
                self.masking.row(ids_T, [self.cut.seed, split, row, len(ids_T)])
                for row, ids_T in zip(rows, batch.tokens_BT.numpy(), strict=True)
            ]
            seen_BT, targets_BT = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
            yield replace(batch, tokens_BT=seen_BT, targets_BT=targets_BT)
            first = rows.stop
