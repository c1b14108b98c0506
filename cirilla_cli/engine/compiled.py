"""Regional compilation: the passes of each block by itself through `torch.compile`, and nothing else.

Blocks of one kind share what is compiled. Inside them, what is `Uncompiled` keeps its own kernels. Every shape is
compiled by itself, so that a run's bits do not depend on the order in which shapes came up.
"""

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from cirilla_cli.compat import compiled_so_far, graph_breaks
from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.hooks import Quiet
from cirilla_cli.engine.recompute import unseen
from cirilla_cli.engine.step import accumulate_gradients
from cirilla_cli.engine.trainer import Metrics, Trainer
from cirilla_cli.model.block import Block
from cirilla_cli.model.parts import Uncompiled
from cirilla_cli.progress import Progress

_LEFT = "cirilla leaves this part to its own kernels"


def compile_blocks(model: nn.Module) -> None:
    """Have the training passes of a model's blocks compiled when they first run; parameters and names stay.

    Passes without a gradient, and those with a cache, run as they are: their shapes are many and their number is small.
    """
    fast: dict[type, Callable[..., Any]] = {}
    for module in model.modules():
        kind = type(module)
        if isinstance(module, Block):
            if kind not in fast:
                fast[kind] = torch.compile(kind.forward, dynamic=False)
            module.forward = _of(module, _where_learned(fast[kind], kind.forward))  # type: ignore[method-assign]
        elif isinstance(module, Uncompiled):
            module.forward = _of(module, torch.compiler.disable(kind.forward, reason=_LEFT))  # type: ignore[no-untyped-call]


def _where_learned(fast: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(block: Block, x_BTD: Any, layout: Any, cache: Any = None, tally: Any = None) -> Any:
        learns = cache is None and torch.is_grad_enabled()
        return (fast if learns else plain)(block, x_BTD, layout, cache, tally)

    return forward


def _of(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a method of ``module``, which it does not keep alive."""
    whose = weakref.ref(module)

    def method(*args: Any, **keys: Any) -> Any:
        return function(whose(), *args, **keys)

    return method


def rehearse(trainer: Trainer, progress: Progress) -> None:
    """Compile what the next step wants, by one pass of each shape of its batches, and say how long that took.

    Nothing of the pass stays. A run that moves its weights while the backward pass goes on cannot rehearse.

    Raises:
        CirillaError: a block cannot be compiled here (from `compat.compiling`).
    """
    if trainer.done or trainer.within is not None:
        return
    began, (graphs, _), breaks = time.perf_counter(), compiled_so_far(), set(graph_breaks())
    progress.say("compiling the blocks (compile: true)")
    trainer.model.train()
    with ExitStack() as stack:
        stack.enter_context(unseen(trainer.model))
        for batch in _shapes(trainer):
            accumulate_gradients(trainer.forward(), trainer.objective, [batch], trainer.device)
            trainer.optimizer.zero_grad(set_to_none=True)
    now, took = compiled_so_far()[0], time.perf_counter() - began
    progress.say(f"compiled {now - graphs} graphs in {took:.1f} s")
    for said in sorted(set(graph_breaks()) - breaks):
        if _LEFT not in said:
            progress.say(f"note: a block is compiled in pieces: {said}")


def _shapes(trainer: Trainer) -> Iterator[TokenBatch]:
    """One batch of each shape of the next step; several processes also meet a row of padding."""
    batches = trainer.source.step(trainer.state.watched.batch(trainer.state.step))
    if trainer.ranks.size > 1:
        batches = [*batches, batches[0].blank()]
    yield from {batch.tokens_BT.shape: batch for batch in batches}.values()


class SayCompiled(Quiet):
    """Says when a step compiled anew, which costs time that a reader of its speed should know of."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._graphs, self._seconds = progress, 0, 0.0

    def on_start(self, trainer: Trainer) -> None:
        """What has been compiled before the first step is not this hook's."""
        self._graphs, self._seconds = compiled_so_far()

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Compare."""
        graphs, seconds = compiled_so_far()
        if graphs > self._graphs:
            new, took = graphs - self._graphs, seconds - self._seconds
            metrics["compile_seconds"] = round(took, 1)
            self._progress.say(f"step {metrics['step']}: compiled {new} graphs in {took:.1f} s for other shapes")
        self._graphs, self._seconds = graphs, seconds
