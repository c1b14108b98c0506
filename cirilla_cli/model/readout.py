"""What a forward pass ends in; run inside the model's `forward`, so that sharded weights are whole for the head."""

# Shape suffixes: B batch, T positions, D model width, V vocabulary, M counted positions.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cirilla_cli.model.ops.cross_entropy import Weights, linear_logp, linear_loss

IGNORE = -100
"""Target of a position that does not count: padding, a prompt, the last token of a document."""

LOGITS_BYTES = 268_435_456
"""Memory for logits at once, where the caller does not say."""

Out = TypeVar("Out", covariant=True)


class Readout(Protocol[Out]):
    """Turns final hidden states and the head's weight into the result of `forward`."""

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> Out:
        """The result, from hidden states ``[B, T, D]`` and head ``[V, D]``."""
        ...


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the counted positions, each ``[]`` in float32; only ``loss`` has a gradient."""

    loss: Tensor
    """What is minimised: the others by their weights."""
    nll: Tensor
    """Negative log-likelihood of the targets, natural log."""
    uniform: Tensor
    """Cross-entropy against the uniform distribution, which label smoothing mixes in; 0 where it has no weight."""
    z: Tensor
    """Squared log-partition."""


_ROUND = 256
"""Counted positions are filled up to a multiple of this, so that only a few shapes of product occur."""


def _counted(hidden_BTD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor, int]:
    """Hidden states and targets of the counted positions, filled up with the first position, and how many count."""
    places_M = (targets_BT != IGNORE).flatten().nonzero()[:, 0]
    count = len(places_M)
    if count == targets_BT.numel() and count % _ROUND == 0:
        return hidden_BTD.flatten(0, 1), targets_BT.flatten(), count
    filled_M = torch.nn.functional.pad(places_M, (0, -count % _ROUND))
    targets_M = torch.nn.functional.pad(targets_BT.flatten()[places_M], (0, -count % _ROUND))
    return hidden_BTD.flatten(0, 1).index_select(0, filled_M), targets_M, count


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Summed cross-entropy of ``targets_BT`` (already shifted; IGNORE does not count)."""

    targets_BT: Tensor
    logits_bytes: int = LOGITS_BYTES
    weights: Weights = Weights()

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> LossSums:
        """The sums, each ``[]``, from hidden states ``[B, T, D]`` and head ``[V, D]``."""
        hidden_MD, targets_M, count = _counted(hidden_BTD, self.targets_BT)
        loss, parts_3 = linear_loss(hidden_MD, head_VD, targets_M, count, self.weights, logits_bytes=self.logits_bytes)
        return LossSums(loss, *parts_3.unbind())


@dataclass(frozen=True, slots=True)
class TokenLogp:
    """Log-probability ``[B, T]`` of each target, 0 where it does not count."""

    targets_BT: Tensor
    logits_bytes: int = LOGITS_BYTES

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> Tensor:
        """The log-probabilities ``[B, T]``, from hidden states ``[B, T, D]`` and head ``[V, D]``."""
        hidden_MD, targets_M, count = _counted(hidden_BTD, self.targets_BT)
        logp_M = linear_logp(hidden_MD, head_VD, targets_M, logits_bytes=self.logits_bytes)
        logp_BT = torch.zeros(self.targets_BT.shape, dtype=logp_M.dtype, device=logp_M.device)
        return logp_BT.masked_scatter(self.targets_BT != IGNORE, logp_M[:count])


@dataclass(frozen=True, slots=True)
class LastLogits:
    """Logits ``[B, n, V]`` of the last ``n`` positions, in float32 at least."""

    n: int = 1

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> Tensor:
        """The logits ``[B, n, V]``, from hidden states ``[B, T, D]`` and head ``[V, D]``."""
        logits_BTV = hidden_BTD[:, -self.n :] @ head_VD.T
        return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class Hidden:
    """The final hidden states ``[B, T, D]`` themselves."""

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> Tensor:
        """The hidden states ``[B, T, D]`` as they are; the head is not used."""
        return hidden_BTD


@dataclass(frozen=True, slots=True)
class MultiToken:
    """Losses of the next token and of those after it, for a model with steps ahead (`mtp`).

    ``losses[k]`` holds the targets ``k + 1`` tokens on; its result is the sums of that distance.
    """

    losses: tuple[TokenLoss, ...]

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> list[LossSums]:
        """The next token's loss alone."""
        return self.of_all([hidden_BTD], head_VD)

    def of_all(self, hidden: Sequence[Tensor], head_VD: Tensor) -> list[LossSums]:
        """The sums of each distance, from hidden states ``[B, T, D]`` of each."""
        return [loss(hidden_BTD, head_VD) for loss, hidden_BTD in zip(self.losses, hidden, strict=False)]
