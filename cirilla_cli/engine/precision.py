"""The forward pass runs in a copy of the parameters that is cast once a step, where they are of another format."""

# Shape suffixes: B rows, T positions.

from collections.abc import Callable
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

    Args:
        whole: called with each parameter as soon as all of its gradient is in ``.grad``, while the backward pass goes
            on; None where the gradients are taken when it is over.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, whole: Callable[[Tensor], None] | None = None) -> None:
        self._model = model
        # What is in float64, as a test has it, stays so where others are not cast down.
        same = {dtype, torch.float64} if dtype == torch.float32 else {dtype}
        kept = exact_parameters(model) | {id(p) for p in model.parameters() if p.dtype in same}
        named = dict(model.named_parameters())
        casts = {n: p if id(p) in kept else cast(p, dtype, whole) for n, p in named.items()}
        self._cast = casts if any(casts[n] is not p for n, p in named.items()) else None

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


def exact_parameters(model: nn.Module) -> set[int]:
    """The parameters, by identity, that are float32 whatever others are."""
    return {id(p) for m in model.modules() if isinstance(m, Exact) for p in m.parameters(recurse=False)}


def cast(parameter: Tensor, dtype: torch.dtype, whole: Callable[[Tensor], None] | None) -> Tensor:
    """A copy of a parameter to reckon with, whose gradient becomes that of the parameter.

    Autograd turns to its oldest operations last: through a cast as one of them, every gradient would wait in ``dtype``
    for the end of the backward pass. Where gradients are wanted before, the copy is a leaf of its own.
    """
    if whole is None:
        return parameter.to(dtype)
    copy = parameter.detach().to(dtype).requires_grad_()

    def hand_over(copy: Tensor) -> None:
        assert copy.grad is not None
        parameter.grad, copy.grad = copy.grad.float(), None
        whole(parameter)

    copy.register_post_accumulate_grad_hook(hand_over)  # type: ignore[no-untyped-call]
    return copy


def forward_of(model: nn.Module, dtype: torch.dtype, whole: Callable[[Tensor], None] | None = None) -> Forward:
    """`CastForward` as the objectives see it."""
    return CastForward(model, dtype, whole)
