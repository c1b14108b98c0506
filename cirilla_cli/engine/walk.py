"""A training step walked through with tensors that have shapes and no memory: what it allocates, when, and what for.

The very code of a step runs, under a mode that sees each of torch's operations. Floating-point tensors are hollow
(`FakeTensor`); small integers and truths are computed, because code asks them how to go on: where documents begin,
which experts are chosen. What operations allocate inside, unseen by the mode, stands in `_INSIDE`.
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch._meta_registrations  # noqa: F401  # shapes of operations that have no kernel for them
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_SMALL = 1 << 20
"""Most elements that are computed for real."""

_TINY = 1 << 10
"""Elements up to which nothing large can come of a tensor."""

_UNKNOWN = DynamicOutputShapeException, DataDependentOutputException, NotImplementedError
"""What asking for a result's shape ends in where that depends on values."""

_CHOICES = {aten.topk.default, aten.sort.default, aten.sort.stable, aten.argmax.default, aten.max.dim, aten.min.dim}
"""Operations that make indices of numbers: theirs are made up, each index as often as every other."""

_PRODUCTS = {
    aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.addmm_.default: 1, aten.baddbmm.default: 1,
    aten.baddbmm_.default: 1,
}  # fmt: skip
"""Products of matrices, and which argument is the first of the two."""

_LEAST_PRODUCT = 16**3
"""Multiplications up to which torch multiplies without oneDNN (ATen's mkldnn_gemm_min_size)."""


@dataclass(slots=True)
class Allocation:
    """One piece of memory."""

    nbytes: int
    kind: str
    """What it is for."""
    born: int
    """When, counted in events."""
    died: int | None = None


@dataclass
class Walked:
    """What a walk allocated."""

    pieces: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    """The piece that was allocated (from 1 on), or its negative where it was freed, in order."""
    again: int = 0
    """The event with which the step begins that every later one repeats."""
    turns: list[int] = field(default_factory=list)
    """The events with which a backward pass begins or has ended."""
    products: set[Any] = field(default_factory=set)
    """Kinds of products in bfloat16, by their sizes and strides: for each of them oneDNN makes code of its own."""
    routed: int = 0
    """Products in bfloat16 of the first step with what fell to an expert: any of them may be a kind of its own."""

    def peak(self) -> tuple[int, int]:
        """The event at which most is held at once, and how much."""
        held = most = at = 0
        for now, event in enumerate(self.events):
            held += self.pieces[abs(event) - 1].nbytes * (1 if event > 0 else -1)
            if held > most:
                most, at = held, now
        return at, most

    def highest(self, ends: Iterable[int]) -> list[dict[str, int]]:
        """Bytes by what they are for, at the highest moment of each stretch of events; ``ends`` are their ends."""
        sums: dict[str, int] = {}
        found, now, total = [], 0, 0
        for end in ends:
            best, most = dict(sums), total
            for event in self.events[now:end]:
                piece = self.pieces[abs(event) - 1]
                change = piece.nbytes if event > 0 else -piece.nbytes
                sums[piece.kind] = sums.get(piece.kind, 0) + change
                total += change
                if total > most:
                    best, most = dict(sums), total
            found.append(best)
            now = end
        return found

    def held(self, at: int) -> dict[str, int]:
        """Bytes held just after an event, by what they are for."""
        sums: dict[str, int] = {}
        for piece in self.pieces:
            if piece.born <= at and (piece.died is None or piece.died > at):
                sums[piece.kind] = sums.get(piece.kind, 0) + piece.nbytes
        return sums


class Form(NamedTuple):
    """All that a result's shape can depend on of a tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt
    dtype: torch.dtype

    def made(self) -> Tensor:
        """A new tensor of this form, on the device `meta`."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class Hollow(Tensor):
    """A tensor that says it lies on a device and has no memory there."""

    bare: Tensor
    """The same on the device `meta`."""
    form: Form

    @staticmethod
    def __new__(cls, bare: Tensor, device: torch.device, form: Form | None = None) -> "Hollow":
        """As ``bare``, whose form may be known, on ``device``."""
        form = form or form_of(bare)
        made = Tensor._make_wrapper_subclass(
            cls, form.shape, strides=form.stride, storage_offset=form.offset, dtype=form.dtype, device=device
        )
        made.bare, made.form = bare, form
        return made

    @property
    def data(self) -> Tensor:
        """The same without its history."""
        return Hollow(self.bare, self.device)

    @data.setter
    def data(self, other: Tensor) -> None:
        """Be ``other`` from now on."""
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.bare = _bare(other)
        self.form = form_of(self.bare)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError("hollow tensors are for a walk alone")


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The mode: nothing is computed but what is small and follows from integers; every allocation is written down."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.walked = Walked()
        self._vocab, self._device = vocab_size, device
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._learned: dict[Any, Any] = {}
        self._backward = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and each operation would pay for making sure of it.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.turn()
        self._meet(func, args)
        self.walked.routed += self._routed(func, args) if self.walked.again == 0 else 0
        if func is aten._local_scalar_dense.default and isinstance(args[0], Hollow):
            return 1.0 if args[0].dtype.is_floating_point else 1
        out = self._run(func, args, kwargs)
        inside = _INSIDE.get(func)
        if inside is not None:
            self._free(self._allocate(inside(*args), "temporary"))
        for made in tensors_of(out):
            self._see(made, func, args)
        return out

    def given(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what tensors are for that were there before the walk."""
        for tensor in tensors:
            self._see(tensor, None, ())
            self.label([tensor], kind)

    def end(self) -> Walked:
        """What was walked; whatever comes free from now on is no part of it, nor of a step that is repeated."""
        self._known.clear()
        return self.walked

    def label(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what tensors are for."""
        for tensor in tensors:
            number = self.number(tensor)
            if number is not None:
                self.walked.pieces[number - 1].kind = kind

    def label_rest(self, kinds: Collection[str], kind: str) -> None:
        """Say what everything is for that is held now and is of one of ``kinds``."""
        for number, _ in self._known.values():
            piece = self.walked.pieces[number - 1]
            piece.kind = kind if piece.kind in kinds else piece.kind

    def turn(self) -> None:
        """Where a backward pass begins, whatever is left of the forward pass is there for it."""
        backward = torch._C._current_graph_task_id() != -1
        if backward and not self._backward:
            self.label_rest({"temporary"}, "activations")
        if backward != self._backward:
            self.walked.turns.append(len(self.walked.events))
        self._backward = backward

    def _meet(self, func: Any, args: Any) -> None:
        first = _PRODUCTS.get(func)
        if first is None or args[first].dtype != torch.bfloat16:
            return
        a, b = args[first : first + 2]
        if a.numel() * b.shape[-1] > _LEAST_PRODUCT:
            self.walked.products.add((func, a.shape, a.stride(), b.shape, b.stride()))

    def _routed(self, func: Any, args: Any) -> int:
        """Products in bfloat16 that a call makes of what fell to experts, whose numbers differ from step to step."""
        if func is aten._grouped_mm.default:
            return len(args[2]) if args[0].dtype == torch.bfloat16 else 0
        # On several threads: those that write into a stack, or read one of weights, both in `model/ops/padded.py`.
        stacked = func is aten.bmm.out or (
            func is aten.bmm.default and any(self.kind_of(x) in ("parameters", "casts") for x in args[:2])
        )
        return len(args[0]) if stacked and args[0].dtype == torch.bfloat16 else 0

    # What is computed, and what is hollow

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if _has_hollow(args) or _has_hollow(kwargs):
            return self._chosen(func, args, self._hollow(func, args, kwargs))
        tensors = [*tensors_of(args), *tensors_of(kwargs)]
        if "device" in kwargs:
            # What is computed stays here, wherever hollow tensors say that they lie.
            kwargs = {**kwargs, "device": torch.device("cpu")}
        tiny = all(x.numel() <= _TINY for x in tensors)
        if tensors and (tiny or func._schema.is_mutable):
            return func(*args, **kwargs)
        try:
            out = self._hollow(func, args, kwargs)
        except _UNKNOWN:
            return mapped(self._emptied, func(*args, **kwargs))
        computed = all(_is_small(x) and (tensors or not x.dtype.is_floating_point) for x in tensors_of(out))
        return func(*args, **kwargs) if computed else out

    def _hollow(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result's shape, asked of torch once for each form of what is given."""
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        args = _places(func, args)
        if func.is_view:
            return self._mapped_hollow(_shaped(func, mapped(_bare, args), mapped(_bare, kwargs)))
        key = func, key_of(args), key_of(kwargs)
        if key not in self._learned:
            out = self._learn(key, func, mapped(_bare, args), mapped(_bare, kwargs))
            if not func._schema.is_mutable:
                return self._mapped_hollow(out)
        return _changed(func, args, kwargs) if func._schema.is_mutable else self._again(self._learned[key])

    def _mapped_hollow(self, out: Any) -> Any:
        return mapped(lambda bare: Hollow(bare, self._device), out)

    def _learn(self, key: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """What torch says, remembered where it is new memory, and the form of what was given stays."""
        given = [*tensors_of(args), *tensors_of(kwargs)]
        before = [(form_of(x), x.untyped_storage().nbytes()) for x in given]
        out = _shaped(func, args, kwargs)
        if [(form_of(x), x.untyped_storage().nbytes()) for x in given] != before:
            return out
        made = tensors_of(out)
        places = {x.untyped_storage()._cdata for x in made}
        apart = len(places) == len(made) and places.isdisjoint(x.untyped_storage()._cdata for x in given)
        if func._schema.is_mutable:
            self._learned[key] = None
        elif apart and all(x.untyped_storage().nbytes() == form_of(x).made().untyped_storage().nbytes() for x in made):
            self._learned[key] = mapped(form_of, out)
        return out

    def _again(self, learned: Any) -> Any:
        """A result of the forms that were learned."""
        if isinstance(learned, Form):
            return Hollow(learned.made(), self._device, learned)
        if isinstance(learned, list | tuple):
            parts = [self._again(part) for part in learned]
            return parts if isinstance(learned, list) else tuple(parts)
        return learned

    def _emptied(self, x: Tensor) -> Tensor:
        """A tensor's shape without its memory; small ones stay what they are."""
        return x if _is_small(x) else Hollow(_bare(x), self._device)

    def _chosen(self, func: Any, args: Any, out: Any) -> Any:
        if func not in _CHOICES:
            return out
        dim = -1 if func is not aten.topk.default else (args[2] if len(args) > 2 else -1)
        size = args[0].shape[dim] if args[0].ndim else 1

        def made_up(x: Tensor) -> Tensor:
            known = _is_small(x) and not x.dtype.is_floating_point
            return (torch.arange(x.numel()) % size).view(x.shape) if known else x

        return mapped(made_up, out)

    # What is allocated

    def _see(self, made: Tensor, func: Any, args: Any) -> None:
        storage = storage_of(made)
        if id(storage) in self._known:
            return
        self._watch(storage, self._allocate(storage.nbytes(), self._kind(made, func, args)))

    def _watch(self, storage: torch.UntypedStorage, number: int) -> None:
        key = id(storage)
        self._known[key] = number, weakref.ref(storage, lambda _: self._gone(key))

    def held(self, number: int) -> torch.UntypedStorage:
        """Memory for a piece that is noted as allocated already."""
        storage = torch.UntypedStorage(self.walked.pieces[number - 1].nbytes, device="meta")  # type: ignore[no-untyped-call]
        self._watch(storage, number)
        return storage

    def lying(self, storage: torch.UntypedStorage, form: Form) -> Hollow:
        """A tensor in there."""
        bare = torch.empty(0, dtype=form.dtype, device="meta")
        return Hollow(bare.set_(storage, form.offset, form.shape, form.stride), self._device, form)

    def _kind(self, made: Tensor, func: Any, args: Any) -> str:
        if func is aten._to_copy.default and self.kind_of(args[0]) == "parameters":
            return "casts"
        is_logits = made.ndim > 1 and made.shape[-1] == self._vocab and made.dtype.is_floating_point
        return "logits" if is_logits else "temporary"

    def kind_of(self, tensor: Tensor) -> str | None:
        """What a tensor is for; None where nobody saw it."""
        number = self.number(tensor)
        return None if number is None else self.walked.pieces[number - 1].kind

    def number(self, tensor: Tensor) -> int | None:
        """The piece that a tensor lies in."""
        known = self._known.get(id(storage_of(tensor)))
        return None if known is None else known[0]

    def _gone(self, key: int) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._free(known[0])

    def _allocate(self, nbytes: int, kind: str) -> int:
        self.walked.pieces.append(Allocation(nbytes, kind, len(self.walked.events)))
        self.walked.events.append(len(self.walked.pieces))
        return len(self.walked.pieces)

    def _free(self, number: int) -> None:
        self.walked.pieces[number - 1].died = len(self.walked.events)
        self.walked.events.append(-number)


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """Where a tensor lies."""
    return (tensor.bare if isinstance(tensor, Hollow) else tensor).untyped_storage()


def _bare(x: Tensor) -> Tensor:
    if isinstance(x, Hollow):
        return x.bare
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def form_of(x: Tensor) -> Form:
    """The form of a tensor."""
    return x.form if isinstance(x, Hollow) else Form(x.shape, x.stride(), x.storage_offset(), x.dtype)


def key_of(value: Any) -> Any:
    """What equals that of another value only where torch gives the same shape for both; True, 1 and 1.0 do not."""
    if isinstance(value, Tensor):
        form = form_of(value)
        return form.shape, form.stride, form.dtype
    if value is None or type(value) is int:
        return value
    if isinstance(value, list | tuple):
        return tuple([key_of(part) for part in value])
    if isinstance(value, dict):
        return tuple([(name, key_of(part)) for name, part in value.items()])
    return type(value), value


def _shaped(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives on the device `meta`; of grouped products torch 2.13 knows that in bfloat16 alone."""
    if func is not aten._grouped_mm.default:
        return func(*args, **kwargs)
    return func(args[0].bfloat16(), args[1].bfloat16(), *args[2:], **kwargs).to(args[0].dtype)


def _changed(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation that changes its arguments returns: those of them that its schema says."""
    returns = func._schema.returns
    named = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
    changed = [named.get(a.name) for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if not returns:
        return None
    return changed[0] if len(returns) == 1 else tuple(changed)


def _has_hollow(value: Any) -> bool:
    """Whether there is a hollow tensor in nested arguments."""
    if isinstance(value, list | tuple | dict):
        return any(map(_has_hollow, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Hollow)


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in nested arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple | dict):
        parts = value.values() if isinstance(value, dict) else value
        return [x for part in parts for x in tensors_of(part)]
    return []


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return (
            [mapped(change, part) for part in value]
            if isinstance(value, list)
            else tuple(mapped(change, part) for part in value)
        )
    return value


def _is_small(x: Tensor) -> bool:
    return x.numel() <= _SMALL


def _places(func: Any, args: Any) -> Any:
    """Arguments with masks that are known turned into the places they name, because those have a known number."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        return args
    places: list[Tensor | None] = []
    for x in args[1]:
        if x is None or x.dtype != torch.bool or isinstance(x, Hollow):
            places.append(x)
        else:
            places += x.nonzero().unbind(1)
    return (args[0], places, *args[2:])


def _bytes(x: Tensor, *_: Any) -> int:
    return x.numel() * x.element_size()


_INSIDE: Mapping[Any, Callable[..., int]] = {aten.logsumexp.default: _bytes}
"""Memory that an operation takes for its own use while it runs, where that is as much as a large tensor."""
