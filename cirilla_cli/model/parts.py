"""What the pieces of a block owe each other: the protocols that mixers and feed-forwards are written to."""

# Shape suffixes: B batch, T positions, D model width.

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import Needs, SequenceLayout


class OwnInit(nn.Module, ABC):
    """A module whose parameters do not begin as matrices and norms do (see `init.initialise`)."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Set the parameters that want something of their own; called without gradient, after all others are drawn."""


class Mixer(nn.Module, ABC):
    """A layer's sequence mixer: the only part of a block that sees other positions."""

    needs: Needs
    """What it wants prepared in the layout before the first block."""

    @abstractmethod
    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """Mix information across positions.

        Args:
            x_BTD: normalised residual stream at the T new positions.
            layout: where those positions are and what they may see, prepared.
            cache: what is remembered of earlier positions, of this mixer's own kind; extended in place.

        Returns:
            ``[B, T, D]``, to be added to the residual stream.
        """

    @abstractmethod
    def make_cache(self, capacity: int, rollback: int = 0) -> LayerCache:
        """An empty memory for up to ``capacity`` positions, the newest ``rollback`` of which `trim` may take back."""


@dataclass
class Tally:
    """Sums that layers leave beside their output in one forward pass, such as balance losses of routers."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    """Name of the sum to its total so far, ``[]`` in float32."""

    def add(self, name: str, total: Tensor) -> None:
        """Add to the sum called ``name``."""
        self.sums[name] = self.sums[name] + total if name in self.sums else total


class FeedForward(Protocol):
    """The part of a block that works on each position alone."""

    def __call__(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The output ``[B, T, D]`` for hidden states ``[B, T, D]``; losses of its own go into ``tally``."""
        ...
