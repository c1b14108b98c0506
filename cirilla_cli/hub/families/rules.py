"""Tensors under our names and under a checkpoint's: one table of rules, read in both directions.

our names --Rule--> Move: these of ours are those on disk, by invertible steps --to_disk / to_ours--> tensors
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_HOLE = re.compile(r"\{(\w+)\}")
_EXPERT = "{e}"


class Step(ABC):
    """One invertible change to a list of tensors: `backward` undoes `forward` bit for bit."""

    @abstractmethod
    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """From ours towards the disk."""

    @abstractmethod
    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """From the disk towards ours."""


@dataclass(frozen=True)
class Transpose(Step):
    """Rows become columns: some checkpoints hold matrices as (in, out)."""

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each with its last two axes swapped."""
        return [tensor.transpose(-1, -2) for tensor in tensors]

    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """The same again."""
        return self.forward(tensors)


@dataclass(frozen=True)
class Join(Step):
    """Several equal parts become one tensor along an axis."""

    parts: int
    axis: int = 0

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Runs of ``parts`` tensors, each joined."""
        return [torch.cat(tensors[i : i + self.parts], self.axis) for i in range(0, len(tensors), self.parts)]

    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each cut into equal parts."""
        return [part for tensor in tensors for part in tensor.chunk(self.parts, self.axis)]


@dataclass(frozen=True)
class Cut(Step):
    """One tensor becomes several equal parts along an axis."""

    parts: int
    axis: int = 0

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each cut into equal parts."""
        return Join(self.parts, self.axis).backward(tensors)

    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Runs of ``parts`` tensors, each joined."""
        return Join(self.parts, self.axis).forward(tensors)


@dataclass(frozen=True)
class Unstack(Step):
    """Each of ``stacks`` tensors with a leading axis of experts becomes one tensor an expert."""

    stacks: int = 1

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """All experts of the first, then all of the second."""
        return [expert for tensor in tensors for expert in tensor.unbind(0)]

    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """The experts stacked again."""
        each = len(tensors) // self.stacks
        return [torch.stack(tensors[i : i + each]) for i in range(0, len(tensors), each)]


@dataclass(frozen=True)
class Interleave(Step):
    """Rows that turn in pairs (i, i + n/2) become rows that turn as neighbours (2i, 2i + 1).

    A tensor's rows are ``heads`` equal groups; of each group the last ``turned`` rows are rotated.
    """

    heads: int
    turned: int

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Halves woven into neighbours."""
        return [self._moved(tensor, (2, self.turned // 2)) for tensor in tensors]

    def backward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Neighbours parted into halves."""
        return [self._moved(tensor, (self.turned // 2, 2)) for tensor in tensors]

    def _moved(self, tensor: Tensor, pairs: tuple[int, int]) -> Tensor:
        rows = tensor.view(self.heads, -1, *tensor.shape[1:])
        kept, turned = rows[:, : -self.turned], rows[:, -self.turned :]
        turned = turned.reshape(self.heads, *pairs, *tensor.shape[1:]).transpose(1, 2).flatten(1, 2)
        return torch.cat([kept, turned], dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Rule:
    """Which of our tensors are which on disk.

    Names have holes: ``{name}`` stands for anything, ``{e}``, on disk alone, for each expert in turn, and others for
    one part between dots, the same wherever a rule repeats it.
    """

    ours: tuple[str, ...]
    disk: tuple[str, ...]
    steps: tuple[Step, ...] = ()

    def moved(self, name: str, shapes: Mapping[str, torch.Size]) -> "Move | None":
        """What this rule does with our tensor ``name`` and those that go with it; None if it is not about that."""
        for template in self.ours:
            match = _pattern(template).fullmatch(name)
            if match is None:
                continue
            ours = tuple(_filled(own, match.groupdict()) for own in self.ours)
            if not all(own in shapes for own in ours):
                continue
            disk = (_filled(foreign, match.groupdict()) for foreign in self.disk)
            return Move(ours, tuple(_experts(disk, shapes[ours[0]])), self.steps)
        return None


@dataclass(frozen=True)
class Move:
    """A rule for particular tensors."""

    ours: tuple[str, ...]
    disk: tuple[str, ...]
    steps: tuple[Step, ...]

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors as they are on disk."""
        values = [tensors[name] for name in self.ours]
        for step in self.steps:
            values = step.forward(values)
        return dict(zip(self.disk, values, strict=True))

    def backward(self, tensors: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on disk, taken out of ``tensors``, as they are here."""
        values = [tensors.pop(name) for name in self.disk]
        for step in reversed(self.steps):
            values = step.backward(values)
        return dict(zip(self.ours, values, strict=True))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def rule(ours: str | Sequence[str], disk: str | Sequence[str], *steps: Step) -> Rule:
    """A rule from one name or several to one or several, by the steps that lead from ours to the disk."""
    return Rule(_several(ours), _several(disk), steps)


SAME = rule("{name}", "{name}")
"""Whatever no rule before this one is about has the same name on disk."""


def moves(rules: Iterable[Rule], shapes: Mapping[str, torch.Size]) -> list[Move]:
    """What becomes of every tensor of ours, in our order; the first rule that is about one decides."""
    rules, done, found = tuple(rules), set[str](), list[Move]()
    for name in shapes:
        if name in done:
            continue
        move = next((move for r in rules if (move := r.moved(name, shapes)) is not None), None)
        assert move is not None, f"no rule says what {name} is on disk"
        done.update(move.ours)
        found.append(move)
    return found


def to_disk(plan: Iterable[Move], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the checkpoint's names and in its layout."""
    return {name: tensor for move in plan for name, tensor in move.forward(tensors).items()}


def to_ours(plan: Iterable[Move], tensors: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors, taken out of ``tensors``, under our names and in our layout."""
    return {name: tensor for move in plan for name, tensor in move.backward(tensors).items()}


def is_named(name: str, templates: Iterable[str]) -> bool:
    """Whether a name is one that a template stands for."""
    return any(_pattern(template).fullmatch(name) is not None for template in templates)


@lru_cache(maxsize=512)
def _pattern(template: str) -> re.Pattern[str]:
    parts = _HOLE.split(template)
    text = [re.escape(part) if i % 2 == 0 else _group(part) for i, part in enumerate(parts)]
    return re.compile("".join(text))


def _group(hole: str) -> str:
    return f"(?P<{hole}>.+)" if hole == "name" else f"(?P<{hole}>[^.]+)"


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda hole: values.get(hole[1], hole[0]), template)


def _experts(names: Iterable[str], shape: torch.Size) -> Iterable[str]:
    """Names with a hole for the expert once for each, of which our tensor's first axis has as many as there are."""
    for name in names:
        yield from (name.replace(_EXPERT, str(e)) for e in range(shape[0])) if _EXPERT in name else (name,)
