"""What layers with a state of fixed size share: a short convolution, a scan, a memory that does not grow."""

# Shape suffixes: B batch, T new positions, E convolved channels, R remembered inputs of the convolution, K taps,
# H heads, V width of an output, 1 one.

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.ops.conv import causal_conv, tail_of
from cirilla_cli.model.parts import Exact, Fused, Mixer, OwnInit, Uncompiled
from cirilla_cli.model.state_cache import StateCache


class Signals(Protocol):
    """What drives a scan."""

    def part(self, span: slice) -> Self:
        """The signals at some of the positions."""
        ...


S = TypeVar("S", bound=Signals)


class Recurrent(Mixer, OwnInit, Exact, Fused, Uncompiled, Generic[S]):
    """A layer that remembers the last inputs of its convolution and the state of its scan."""

    least_rate: ClassVar[float]
    """Of the rates of decay that heads begin with, which go up to 16."""

    def _hold(self, channels: int, taps: int, n_heads: int, *, conv_bias: bool) -> None:
        """The parameters that such layers have in common."""
        self.needs = Needs()
        self.conv1d = nn.Conv1d(channels, channels, taps, groups=channels, bias=conv_bias)
        self.dt_bias = nn.Parameter(torch.ones(n_heads))
        self.A_log = nn.Parameter(torch.ones(n_heads))

    @abstractmethod
    def scan(self, signals: S, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, T, H, V]`` from the state before the first position (None for zeros), and the state after."""

    def scanned_BTHV(
        self, inputs_BTE: Tensor, layout: SequenceLayout, cache: LayerCache | None, signals_of: Callable[[Tensor], S]
    ) -> Tensor:
        """The scan's outputs, going on from what ``cache`` remembers.

        Args:
            inputs_BTE: inputs of the convolution at the new positions.
            layout: where those are.
            cache: the memory, extended in place; None to begin with nothing and keep nothing.
            signals_of: what drives the scan, of the convolution's outputs ``[B, T, E]``.
        """
        if cache is None:
            return self.scan(signals_of(self._convolved_BTE(inputs_BTE, layout, None)), None)[0]
        assert isinstance(cache, StateCache)
        tail_BRE, state = cache.state or (None, None)
        signals, outputs = signals_of(self._convolved_BTE(inputs_BTE, layout, tail_BRE)), []
        for span in cache.spans(layout.length):
            y_BTHV, state = self.scan(signals.part(span), state)
            tail_BRE = tail_of(tail_BRE, inputs_BTE[:, span], self.conv1d.kernel_size[0])
            cache.keep(span.stop - span.start, tail_BRE, state)
            outputs.append(y_BTHV)
        return torch.cat(outputs, dim=1)

    def _convolved_BTE(self, inputs_BTE: Tensor, layout: SequenceLayout, tail_BRE: Tensor | None) -> Tensor:
        return self._convolve(inputs_BTE, layout, tail_BRE, inputs_BTE.dtype)

    def _convolve(
        self, inputs_BTE: Tensor, layout: SequenceLayout, tail_BRE: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """The convolution in ``dtype``, its taps rounded as the inputs are."""
        rounded, bias_E = inputs_BTE.dtype, self.conv1d.bias
        return causal_conv(
            inputs_BTE.to(dtype), self.conv1d.weight.to(rounded).to(dtype),
            None if bias_E is None else bias_E.to(rounded).to(dtype),
            tail_BRE=None if tail_BRE is None else tail_BRE.to(dtype),
            positions_BT=None if layout.documents_BT is None else layout.positions_BT,
        )  # fmt: skip

    def make_cache(self, capacity: int, rollback: int = 0) -> StateCache:
        """An empty memory; its size does not depend on ``capacity``."""
        return StateCache(rollback)

    def initialise(self, generator: torch.Generator) -> None:
        """Decay rates uniform from ``least_rate`` to 16, step sizes log-uniform in 0.001 to 0.1, taps as PyTorch's.

        As the code of Mamba-2 draws them (arXiv:2405.21060): at first half of a state is forgotten after one step in
        the quickest heads and after hundreds in the slowest. ``dt_bias`` is what softplus turns into the step size.
        """
        rates = torch.empty(self.A_log.shape).uniform_(self.least_rate, 16, generator=generator)
        self.A_log.copy_(rates.log())
        steps = torch.empty(self.dt_bias.shape).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        self.dt_bias.copy_(steps + torch.log(-torch.expm1(-steps)))
        taps = self.conv1d.weight
        bound = self.conv1d.kernel_size[0] ** -0.5
        taps.copy_(torch.empty(taps.shape).uniform_(-bound, bound, generator=generator))


def begins_BT(layout: SequenceLayout) -> Tensor | None:
    """Where a document begins and the state with it; None for rows of one document, whose cache says so."""
    return None if layout.documents_BT is None else layout.positions_BT == 0
