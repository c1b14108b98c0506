"""What an objective is: counts known beforehand, sums computed in the forward pass, one division by the whole step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cirilla_cli.data.batches import PADDING, TokenBatch
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import Readout

B = TypeVar("B", bound=TokenBatch, contravariant=True)
Out = TypeVar("Out")


class Forward(Protocol):
    """A forward pass of the model in the precision it is trained in."""

    def __call__(
        self, tokens_BT: Tensor, documents_BT: Tensor, readout: Readout[Out], tally: Tally | None = None
    ) -> Out:
        """What ``readout`` makes of the hidden states of the rows ``[B, T]``, no document seeing another.

        Sums that layers leave beside their output, such as balance losses, go into ``tally``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the loss, summed over everything of its ``unit`` in one micro-batch."""

    total: Tensor
    """``[]`` in float32, with gradient."""
    unit: str
    """What the sum runs over; the step's count of it is the denominator."""
    scale: float = 1.0
    """Weight in the loss; 0 for a figure that is only reported."""


class Objective(Protocol[B]):
    """What is minimised."""

    main: str
    """The term whose mean over held-out data is the validation loss."""

    def counts(self, batch: B) -> Mapping[str, float]:
        """How many of each unit a micro-batch holds, from CPU tensors, before the first forward pass."""

    def terms(self, forward: Forward, batch: B) -> Mapping[str, Term]:
        """The loss's parts on one micro-batch."""

    def backward(self, forward: Forward, batch: B, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of sum(scale * total / denominator); returns each term's share, without gradient."""


def sizes(batch: TokenBatch) -> dict[str, float]:
    """How many of each unit that layers sum over a micro-batch holds: rows with a token in them, and positions."""
    real_BT = batch.documents_BT != PADDING
    return {"rows": float(real_BT.any(1).sum()), "positions": float(real_BT.sum())}


def tallied(tally: Tally) -> dict[str, Term]:
    """What layers left beside their output, as parts of the loss."""
    return {name: Term(*part) for name, part in tally.sums.items()}


def accumulate(terms: Mapping[str, Term], denominators: Mapping[str, float]) -> dict[str, Tensor]:
    """The default `Objective.backward` once the terms are known."""
    shares = {name: term.total / denominators[term.unit] for name, term in terms.items()}
    loss = sum((terms[name].scale * share for name, share in shares.items() if terms[name].scale), torch.zeros(()))
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    return {**{name: share.detach() for name, share in shares.items()}, "loss": torch.as_tensor(loss).detach()}
