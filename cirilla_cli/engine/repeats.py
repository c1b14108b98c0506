"""Loops within a layer, walked once for each form of what they are given, and noted again from then on (`walk.py`).

A scan runs over dozens of stretches, one operation after another; a hybrid of many layers spent nine tenths of its walk
in them. What such a function allocates follows from the forms of its inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from cirilla_cli.engine.walk import Allocation, Form, Hollow, Ledger, form_of, key_of, mapped, storage_of, tensors_of
from cirilla_cli.model.ops.conv import ShiftedProducts
from cirilla_cli.model.ops.ssd import ChunkedScan

_LOOPS: tuple[type[torch.autograd.Function], ...] = (ChunkedScan, ShiftedProducts)
"""Functions whose allocations follow from the forms of what they are given."""


class _Kept(SimpleNamespace):
    """What a forward pass says to its backward pass."""

    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors


@dataclass(frozen=True)
class _Tape:
    """What a call allocated and returned."""

    events: Sequence[int]
    """Pieces of its own by number, from 1 on."""
    pieces: Sequence[tuple[int, str]]
    """Bytes of each and what it is for."""
    result: Any
    """With a `_Made` or the place of an input for each tensor."""
    routed: int


@dataclass(frozen=True)
class _Made:
    """A tensor that a call returned."""

    tensor: int
    """The same tensor has the same number."""
    piece: int
    """Where it lies: a piece of the call's own, else an input, by the complement of its place."""
    form: Form


@dataclass(frozen=True)
class _Given:
    """An input that a call returned."""

    place: int


@contextmanager
def repeats(ledger: Ledger) -> Iterator[None]:
    """Within the block, functions with long loops are walked once for each form of what they are given."""
    with ExitStack() as stack:
        for function in _LOOPS:
            stack.enter_context(_Repeats(ledger, function))
        yield


class _Repeats:
    """Within the block, both passes of ``function`` are walked once for each form of what they are given."""

    def __init__(self, ledger: Ledger, function: type[torch.autograd.Function]) -> None:
        self._ledger, self._function = ledger, function
        self._forward, self._backward = function.__dict__["forward"], function.__dict__["backward"]
        self._tapes: dict[Any, _Tape] = {}

    def __enter__(self) -> Self:
        self._set(staticmethod(self._run_forward), staticmethod(self._run_backward))
        return self

    def __exit__(self, *_: object) -> None:
        self._set(self._forward, self._backward)

    def _set(self, forward: Any, backward: Any) -> None:
        self._function.forward, self._function.backward = forward, backward  # type: ignore[method-assign]

    def _run_forward(self, ctx: Any, *inputs: Any) -> Any:
        def call() -> Any:
            kept = _Kept()
            out = self._forward.__func__(kept, *inputs)
            said = vars(kept)
            return out, said.pop("saved_tensors"), said

        out, saved, ctx.said = self._once("forward", inputs, call)
        ctx.save_for_backward(*saved)
        return out

    def _run_backward(self, ctx: Any, *grads: Tensor) -> Any:
        saved = ctx.saved_tensors
        kept = _Kept(saved_tensors=saved, **ctx.said)
        return self._once(
            ("backward", key_of(ctx.said)), (*saved, *grads), lambda: self._backward.__func__(kept, *grads)
        )

    def _once(self, name: Any, given: Sequence[Any], call: Callable[[], Any]) -> Any:
        self._ledger.turn()
        places = [id(storage_of(x)) if isinstance(x, Tensor) else None for x in given]
        key = name, tuple(self._key(x, places) for x in given)
        if key in self._tapes:
            return self._noted(self._tapes[key], given)
        walked = self._ledger.walked
        first, start, routed = len(walked.pieces), len(walked.events), walked.routed
        result = call()
        events = walked.events[start:]
        tape = self._tape(result, given, first, events, walked.routed - routed)
        if tape is not None:
            self._tapes[key] = tape
        return result

    def _key(self, x: Any, places: Sequence[int | None]) -> Any:
        if not isinstance(x, Tensor):
            return key_of(x)
        return form_of(x), isinstance(x, Hollow), self._ledger.kind_of(x), places.index(id(storage_of(x)))

    def _tape(self, result: Any, given: Sequence[Any], first: int, events: Sequence[int], routed: int) -> _Tape | None:
        """What to note again; None where more than the result is left, or what was there before is gone."""
        pieces = self._ledger.walked.pieces[first:]
        ids, own = [id(x) for x in given], [x for x in tensors_of(result) if not any(x is y for y in given)]
        numbers = [(self._ledger.number(x) or 0) - first for x in own]
        places = [storage_of(x) if isinstance(x, Tensor) else None for x in given]
        left = {number for number, piece in enumerate(pieces, 1) if piece.died is None}
        is_own = left == {number for number in numbers if number > 0} and all(isinstance(x, Hollow) for x in own)
        if not is_own or min(map(abs, events), default=first + 1) <= first:
            return None

        def made(x: Tensor) -> Any:
            if id(x) in ids:
                return _Given(ids.index(id(x)))
            at = next(i for i, other in enumerate(own) if other is x)
            return _Made(at, numbers[at] if numbers[at] > 0 else ~places.index(storage_of(x)), form_of(x))

        own_events = [event - first if event > 0 else event + first for event in events]
        return _Tape(own_events, [(p.nbytes, p.kind) for p in pieces], mapped(made, result), routed)

    def _noted(self, tape: _Tape, given: Sequence[Any]) -> Any:
        """The same once more: what was allocated and freed, and tensors for the result."""
        walked = self._ledger.walked
        first = len(walked.pieces)
        for event in tape.events:
            if event > 0:
                walked.pieces.append(Allocation(*tape.pieces[event - 1], len(walked.events)))
            else:
                walked.pieces[first - event - 1].died = len(walked.events)
            walked.events.append(event + first if event > 0 else event - first)
        walked.routed += tape.routed if walked.again == 0 else 0
        with _disable_current_modes():
            return _Returned(self._ledger, given, first).of(tape.result)


@dataclass(frozen=True)
class _Returned:
    """The result of a tape with tensors in their places."""

    ledger: Ledger
    given: Sequence[Any]
    first: int
    tensors: dict[int, Tensor] = field(default_factory=dict)
    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def of(self, value: Any) -> Any:
        """A part of it."""
        if isinstance(value, _Given):
            return self.given[value.place]
        if isinstance(value, dict):
            return {name: self.of(part) for name, part in value.items()}
        if isinstance(value, tuple):
            return tuple(self.of(part) for part in value)
        return self._tensor(value) if isinstance(value, _Made) else value

    def _tensor(self, made: _Made) -> Tensor:
        if made.piece not in self.storages:
            own = made.piece > 0
            place = self.ledger.held(self.first + made.piece) if own else storage_of(self.given[~made.piece])
            self.storages[made.piece] = place
        if made.tensor not in self.tensors:
            self.tensors[made.tensor] = self.ledger.lying(self.storages[made.piece], made.form)
        return self.tensors[made.tensor]
