"""Activation checkpointing: blocks that keep their input alone, and are computed again in the backward pass."""

# Shape suffixes: B rows, T positions, D model width.

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from cirilla_cli.engine.config import FullCheckpointingConfig, SelectiveCheckpointingConfig
from cirilla_cli.model.block import Block, plainly
from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import AfterStep, Sum, Tally


def checkpoint_activations(model: nn.Module, config: FullCheckpointingConfig | SelectiveCheckpointingConfig) -> None:
    """Have a model's blocks computed again, those ahead of the next token too; its parameters and names stay.

    The gradient is the same to the bit where the forward pass repeats itself to the bit; dropout draws the same masks.
    """
    every = config.every if isinstance(config, SelectiveCheckpointingConfig) else 1
    for block in [module for module in model.modules() if isinstance(module, Block)][::every]:
        block.around = recomputed


def recomputed(
    block: Block, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None, tally: Tally | None
) -> Tensor:
    """What a block makes of its input, of which nothing else is kept for the backward pass (arXiv:1604.06174).

    What it leaves in the tally is taken from the first pass: the second has one of its own.
    """
    if cache is not None or not torch.is_grad_enabled():
        return plainly(block, x_BTD, layout, cache, tally)
    # Casts stand in for the parameters while the forward pass runs; in the backward pass they are to do so again.
    casts: dict[str, Tensor] = {name: p for name, p in block.named_parameters() if not isinstance(p, nn.Parameter)}

    def run(x_BTD: Tensor) -> tuple[Tensor, dict[str, Sum]]:
        own = None if tally is None else Tally()
        inputs = x_BTD, layout, None, own
        out_BTD: Tensor = functional_call(block, casts, inputs) if casts else block(*inputs)
        return out_BTD, {} if own is None else own.sums

    out_BTD: Tensor
    out_BTD, sums = checkpoint(run, x_BTD, use_reentrant=False, context_fn=lambda: (nullcontext(), unseen(block)))
    for name, part in sums.items():
        assert tally is not None
        tally.add(name, part.total, unit=part.unit, scale=part.scale)
    return out_BTD


@contextmanager
def unseen(part: nn.Module) -> Iterator[None]:
    """While a pass is repeated, nothing counts what it has counted before."""
    watching = [module for module in part.modules() if isinstance(module, AfterStep)]
    for module in watching:
        module.watching = False
    try:
        yield
    finally:
        for module in watching:
            module.watching = True
