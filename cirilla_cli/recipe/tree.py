"""YAML as a tree of plain values that remember where they stand; YAML 1.2 scalars, on PyYAML's parser."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from cirilla_cli.errors import Where

try:
    from yaml import CSafeLoader as _Parser  # ten times faster; wheels have it, source builds may not
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _Parser  # type: ignore[assignment]

_DEEPEST, _MOST = 40, 100_000
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,400}|0x[0-9a-fA-F]{1,400}|0o[0-7]{1,400}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a line of a file, an override, a derivation, or (all None) a default."""

    file: str | None = None
    line: int | None = None
    override: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason is not None:
            return self.reason
        if self.override is not None:
            return f"override `{self.override}`"
        return f"{self.file}:{self.line}" if self.file else "default"


DEFAULT = Origin()

SECRETS = frozenset({"api_key", "token", "password"})
"""Keys whose values are not repeated in messages."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its origin; mappings hold nodes by key, lists hold nodes."""

    value: Any
    origin: Origin = DEFAULT

    def get(self, key: str) -> "Node | None":
        """The node under ``key``, None where there is none or this is no mapping."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def at(self, path: tuple[str | int, ...]) -> "Node | None":
        """The node at ``path``, None where the path ends early."""
        node: Node | None = self
        for part in path:
            if node is None:
                return None
            in_list = isinstance(node.value, list) and isinstance(part, int)
            node = node.value[part] if in_list else node.get(str(part))
        return node

    def nearest_origin(self, path: tuple[str | int, ...]) -> Origin:
        """Origin of the deepest node on the way to ``path`` that was written by someone."""
        for length in range(len(path), 0, -1):
            node = self.at(path[:length])
            if node is not None and node.origin != DEFAULT:
                return node.origin
        return self.origin

    def plain(self) -> Any:
        """The value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def tree(value: Any, origin: Origin = DEFAULT) -> Node:
    """Plain data as a tree whose every node has the same origin."""
    if isinstance(value, Mapping):
        return Node({str(key): tree(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([tree(item, origin) for item in value], origin)
    return Node(value, origin)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One mistake: its place, what is wrong in words, and the same for machines."""

    origin: Origin
    text: str
    key: str | None = None
    value: Any = None
    expected: str | None = None

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"

    def where(self) -> Where:
        """The place as errors report it."""
        file = f"override `{self.origin.override}`" if self.origin.override is not None else self.origin.file
        return Where(file, self.origin.line, self.key, self.value, self.expected)


class BadYaml(Exception):
    """The text cannot be read as a tree; carries the complaint."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(str(complaint))
        self.complaint = complaint


def scalar(text: str) -> Any:
    """A plain YAML 1.2 scalar: ``012`` is 12, ``1e-4`` a number, ``1:30``, ``no`` and dates are words."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def parse(text: str, file: str, mistakes: list[Complaint]) -> Node:
    """Read one YAML document.

    Duplicate keys and the like are added to ``mistakes``, so that all are reported at once.

    Raises:
        BadYaml: the text has no tree: bad syntax, several documents, a tag, an alias of itself, too deep or too large.
    """
    return _parse(text, lambda line: Origin(file, line), mistakes)


def parse_value(text: str, origin: Origin, mistakes: list[Complaint]) -> Node:
    """Read the value of an override; every node gets ``origin``.

    Raises:
        BadYaml: as `parse`.
    """
    return _parse(text, lambda _line: origin, mistakes)


def _parse(text: str, place: Any, mistakes: list[Complaint]) -> Node:
    try:
        return _Composer(text, place, mistakes).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadYaml(Complaint(place(line), f"not YAML: {_problem(error, text, line)}")) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadYaml(Complaint(place(line), "not YAML: a control character; write text only")) from None


def _problem(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    """PyYAML's words, plus the remedy for what people do most."""
    shown = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return "the line is indented with a tab; use spaces"
    problem = " ".join(part for part in (error.context, error.problem) if part)
    return f"{problem}; quote text that holds `: `" if "mapping values are not allowed" in problem else problem


class _Composer:
    """Builds the tree from the parser's events, because PyYAML's own nodes forget which tags were written."""

    def __init__(self, text: str, place: Any, mistakes: list[Complaint]) -> None:
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_Parser))
        self.place, self.mistakes = place, mistakes
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.size = 0

    def document(self) -> Node:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(None, self.place(1))
        node = self._node(next(self.events), 0)
        next(self.events)
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse(after, "a second document begins here; a recipe is one document")
        return node

    def _line(self, event: Any) -> Origin:
        origin: Origin = self.place(event.start_mark.line + 1)
        return origin

    def _refuse(self, event: Any, text: str) -> None:
        raise BadYaml(Complaint(self._line(event), text))

    def _grow(self, event: Any, by: int, depth: int) -> None:
        self.size += by
        if self.size > _MOST or depth > _DEEPEST:
            self._refuse(event, f"more than {_MOST} values or {_DEEPEST} levels; this is no recipe")

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._grow(event, 1, depth)
        before = self.size
        if event.tag is not None:
            self._refuse(event, f"the tag `{event.tag}`: recipes have no tags; remove it")
        node = Node(self._value(event, depth), self._line(event))
        if event.anchor is not None:
            self.anchors[event.anchor] = node, self.size - before + 1
        return node

    def _alias(self, event: Any, depth: int) -> Node:
        if event.anchor not in self.anchors:
            self._refuse(event, f"`*{event.anchor}` stands before its anchor `&{event.anchor}` is complete")
        node, size = self.anchors[event.anchor]
        self._grow(event, size, depth)
        return node

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.style in (None, "") else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(child := next(self.events), yaml.SequenceEndEvent):
                items.append(self._node(child, depth + 1))
            return items
        return self._mapping(depth)

    def _mapping(self, depth: int) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event)
            value = replace(self._node(next(self.events), depth + 1), origin=self._line(event))
            if key in nodes:
                text = f"`{key}` is given twice; the first is at {nodes[key].origin}"
                self.mistakes.append(Complaint(self._line(event), text, key))
            nodes[key] = value
        return nodes

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            self._refuse(event, "a key must be a single word")
        if event.value == "<<" and event.style in (None, ""):
            self._refuse(event, "merge keys (`<<`) are not YAML 1.2; use `extends`, or write the keys out")
        return str(event.value)
