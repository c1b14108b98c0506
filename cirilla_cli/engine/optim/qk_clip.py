"""QK-clip: heads whose attention logits grow beyond a limit get smaller queries and keys (arXiv:2507.20534)."""

# Shape suffixes: N heads of one layer, M rows of one parameter.

import torch
from torch import Tensor, nn

from cirilla_cli.engine.optim.spread import local, own_rows
from cirilla_cli.engine.parallel import Ranks
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.ops.logits import LargestLogits
from cirilla_cli.model.parts import Clippable


class QKClip:
    """Looks on while a step is computed, and shrinks queries and keys after it (section 2.1, algorithm 1).

    A head whose largest logit of the whole step, over all processes, is S > limit has its logits multiplied by
    limit / S; the others are not touched.

    Raises:
        CirillaError: the model has no such layer.
    """

    def __init__(self, model: nn.Module, limit: float) -> None:
        self._limit = limit
        self._layers = [module for module in model.modules() if isinstance(module, Clippable) and module.clips]
        if not self._layers:
            raise CirillaError(
                f"`optim.qk_clip` is {limit:g}, but no layer of this model has logits that its matrices alone decide "
                "(attention without qk_norm, or mla)",
                hint="optim.qk_clip=null",
            )
        for layer in self._layers:
            layer.attend.largest = LargestLogits(layer.n_heads)
        self.figures: dict[str, Tensor] = {}
        """Of the last step: the largest logit, and the share of heads that were shrunk."""

    def forget(self) -> None:
        """Begin a step anew: weights were left as they are."""
        self._taken()

    @torch.no_grad()
    def apply(self, ranks: Ranks) -> None:
        """Shrink what is too large."""
        largest = self._taken()
        every = ranks.largest(torch.cat(largest))
        # What is not a number at all is for those to judge who watch the loss.
        factors = torch.where(every.isfinite() & (every > self._limit), self._limit / every, torch.ones_like(every))
        parts = torch.split(factors, [len(each) for each in largest])
        for layer, factor_N in zip(self._layers, parts, strict=True):
            for parameter, rows_M in layer.row_factors(factor_N):
                here = local(parameter)
                here.mul_(own_rows(rows_M, parameter).view(-1, *[1] * (here.dim() - 1)))
        self.figures = {"qk_clip/largest": every.max(), "qk_clip/shrunk": (factors < 1).float().mean()}

    def _taken(self) -> list[Tensor]:
        found = []
        for layer in self._layers:
            assert layer.attend.largest is not None
            found.append(layer.attend.largest.taken(next(layer.parameters()).device))
        return found
