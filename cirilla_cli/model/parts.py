"""What the pieces of a block owe each other: the protocols that mixers and feed-forwards are written to."""

# Shape suffixes: B batch, T positions, D model width, N heads.

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import Needs, SequenceLayout

if TYPE_CHECKING:
    from cirilla_cli.model.ops.attention import Attend


class OwnInit(nn.Module, ABC):
    """A module whose parameters do not begin as matrices and norms do (see `init.initialise`)."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Set the parameters that want something of their own; called without gradient, after all others are drawn."""


class Exact(nn.Module):
    """A module whose own parameters stay in float32 where the training forward runs in less, such as a router."""


class Uncompiled(nn.Module):
    """A module that stays as it is where blocks are compiled: it has kernels of its own, or its shapes follow data."""


class Fused(nn.Module, ABC):
    """A module in which one parameter holds several matrices, which an optimizer of matrices must tell apart."""

    @abstractmethod
    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Rows of the matrices that stand one above the other in a parameter ``[..., M, N]``, by its name in here.

        Leading dimensions are stacks: of experts, say.
        """


class Clippable(nn.Module, ABC):
    """A mixer whose attention logits can be made smaller, head by head: QK-clip (Kimi K2, 2025, arXiv:2507.20534)."""

    n_heads: int
    attend: "Attend"
    """Through which all of its scores go."""

    @property
    def clips(self) -> bool:
        """Whether changing the matrices changes the logits."""
        return True

    @abstractmethod
    def row_factors(self, factor_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters, each with what its rows are to be multiplied by, so that each head's logits are by its factor.

        The rows of a parameter may lie spread over processes, so nothing is multiplied here.
        """


class AfterStep(nn.Module, ABC):
    """A module that acts on what it saw in a whole optimizer step, such as a router that balances its experts."""

    watching: bool = True
    """False while a forward pass is repeated for the backward pass: what it holds has been seen."""

    @abstractmethod
    def after_step(self, reduce: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Act, and forget what was seen; called once after each optimizer step, on every rank.

        Args:
            reduce: sums a tensor over the ranks that share the step; what it is given may be overwritten.

        Returns:
            Figures for the log, each ``[]``, by name.
        """


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


class Sum(NamedTuple):
    """One sum of a tally, as an objective takes it."""

    total: Tensor
    """``[]`` in float32 at least."""
    unit: str
    """What it runs over, and is divided by the whole step's number of: ``rows`` that hold a token, or ``positions``."""
    scale: float
    """Weight in the loss."""


class Tally:
    """Sums that layers leave beside their output in one forward pass, such as balance losses of routers.

    No dataclass: FSDP2 gives a block a copy of a dataclass that holds tensors, and what is added to that is lost.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Sum] = {}
        """By name; layers' sums of one name are added."""

    def add(self, name: str, total: Tensor, *, unit: str, scale: float) -> None:
        """Add to the sum called ``name``.

        Raises:
            ValueError: the sum of that name has another unit or weight.
        """
        before = self.sums.get(name, Sum(torch.zeros_like(total), unit, scale))
        if before[1:] != (unit, scale):
            raise ValueError(f"{name} is summed over {before.unit} by {before.scale}, not over {unit} by {scale}")
        self.sums[name] = Sum(before.total + total, unit, scale)


class FeedForward(Protocol):
    """The part of a block that works on each position alone."""

    def __call__(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The output ``[B, T, D]`` for hidden states ``[B, T, D]``; losses of its own go into ``tally``."""
        ...
