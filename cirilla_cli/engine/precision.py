"""Parameters stay in float32; the forward pass runs in a copy cast once a step."""

# Shape suffixes: B rows, T positions.

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.engine.config import PrecisionConfig
from cirilla_cli.engine.objectives.base import Forward
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import Exact, Tally
from cirilla_cli.model.readout import Readout

Out = TypeVar("Out")


def compute_dtype(config: PrecisionConfig, device: torch.device) -> torch.dtype:
    """The format of the forward and backward pass."""
    if config.compute != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.compute]
    if has_fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


class CastForward:
    """The model's forward pass with its parameters cast to ``dtype``; make a new one after each optimizer step.

    Gradients flow through the cast into the float32 parameters, where several micro-batches add up without rounding.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._model = model
        self._cast: dict[str, Tensor] | None = None
        if dtype != torch.float32:
            exact = {id(p) for m in model.modules() if isinstance(m, Exact) for p in m.parameters(recurse=False)}
            self._cast = {n: p if id(p) in exact else p.to(dtype) for n, p in model.named_parameters()}

    def __call__(
        self, tokens_BT: Tensor, documents_BT: Tensor, readout: Readout[Out], tally: Tally | None = None
    ) -> Out:
        """What ``readout`` makes of the hidden states of the rows ``[B, T]``, no document seeing another."""
        layout = SequenceLayout.packed(documents_BT)
        if self._cast is None:
            out: Out = self._model(tokens_BT, layout, readout=readout, tally=tally)
            return out
        keys = {"readout": readout, "tally": tally}
        called: Out = functional_call(self._model, self._cast, (tokens_BT, layout), keys)
        return called


def forward_of(model: nn.Module, dtype: torch.dtype) -> Forward:
    """`CastForward` as the objectives see it."""
    return CastForward(model, dtype)
