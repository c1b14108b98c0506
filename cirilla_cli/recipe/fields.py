"""One walk over the sections of a recipe: which keys stand where, and what may stand there."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from cirilla_cli import units

ANY_NAME = "*"
"""Stands for a name that the user chooses, such as that of a data source."""

_UNITS: dict[Any, str] = {
    units.parse_count: "a count such as 4096, 64Ki or 200M",
    units.parse_bytes: "a size such as 500MB or 16GiB",
    units.parse_seconds: "a time such as 45s, 30min or 8h",
    units.parse_fraction: "a share such as 0.01 or 1%",
    units.parse_span: "steps such as 500, or a share of the run such as 1%",
}
_WORDS: dict[Any, str] = {
    SecretStr: "text",
    bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping", list: "a list",
    tuple: "a list",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What may stand in one place: sections by their kind, a mapping or list of items, or a plain value."""

    sections: Mapping[str | None, type[BaseModel]]
    mapping: Any = None
    items: Any = None
    optional: bool = False

    def pick(self, kind: Any) -> type[BaseModel] | None:
        """The section of that kind; the only one if there is one. None if it cannot be told."""
        if len(self.sections) == 1:
            return next(iter(self.sections.values()))
        return self.sections.get(kind) if isinstance(kind, str) else None

    @property
    def kinds(self) -> list[str]:
        """The kinds to choose from, if sections here have one."""
        return [kind for kind in self.sections if kind is not None]


def _options(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every alternative of an annotation with the metadata that applies to it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        yield from _options(inner, (*metadata, *more))
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _options(member, metadata)
    else:
        yield annotation, metadata


def is_section(annotation: Any) -> bool:
    """Whether an annotation is a section class."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def kind_of(section: type[BaseModel]) -> str | None:
    """The `kind` that selects a section, if it has one."""
    info = section.model_fields.get("kind")
    return None if info is None else str(info.default)


@lru_cache(maxsize=1024)
def _shape(annotation: Any) -> Shape:
    sections: dict[str | None, type[BaseModel]] = {}
    mapping = items = None
    optional = False
    for option, _ in _options(annotation):
        if option is NoneType:
            optional = True
        elif is_section(option):
            sections[kind_of(option)] = option
        elif get_origin(option) is dict:
            mapping = get_args(option)[1]
        elif get_origin(option) in (tuple, list):
            items = get_args(option)[0]
    return Shape(sections, mapping, items, optional)


def shape(annotation: Any) -> Shape:
    """What may stand where ``annotation`` is declared."""
    return _shape(annotation)


def keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as they stand in a file, in the order declared."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


@lru_cache(maxsize=256)
def _own_docs(section: type[BaseModel]) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    except OSError:  # a class typed at a prompt has no source
        return {}
    docs: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, after in zip(statements, statements[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[field.target.id] = inspect.cleandoc(after.value.value)
    return docs


def doc(section: type[BaseModel], key: str) -> str:
    """What a key means: the string under its field; read from the source only when asked, which costs milliseconds."""
    name = next(name for name, info in section.model_fields.items() if (info.alias or name) == key)
    if description := section.model_fields[name].description:
        return description
    for owner in section.__mro__:
        if is_section(owner) and name in (docs := _own_docs(owner)):
            return docs[name]
    return _KIND_DOC if key == "kind" else ""


_KIND_DOC = "Selects this section among those that can stand here."


def about(section: type[BaseModel]) -> str:
    """The first line of a section's docstring."""
    return (section.__doc__ or "").strip().partition("\n")[0]


def describe(info: FieldInfo) -> str:
    """What a value must be, in words: ``a whole number, more than 0``."""
    return describe_annotation(info.annotation, tuple(info.metadata))


def describe_annotation(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """`describe` for an annotation that is no field of its own, such as the items of a mapping."""
    parts: list[str] = []
    nullable = False
    for option, marks in _options(annotation, metadata):
        if option is NoneType:
            nullable = True
        elif (text := _describe_one(option, marks)) not in parts:
            parts.append(text)
    return " or ".join(parts) + (", or null" if nullable else "")


def _describe_one(option: Any, marks: tuple[Any, ...]) -> str:
    if get_origin(option) is Literal:
        choices = get_args(option)
        return str(choices[0]) if len(choices) == 1 else f"one of {', '.join(map(str, choices))}"
    if is_section(option):
        kind = kind_of(option)
        return f"a section of kind {kind}" if kind else f"a section ({', '.join(keys(option))})"
    if get_origin(option) is dict:
        item = get_args(option)[1]
        return "a mapping" if item is Any else f"a mapping from names to {describe_annotation(item)}"
    if option is Any:
        return "any value"
    flat = [mark for outer in marks for mark in (outer.metadata if isinstance(outer, FieldInfo) else [outer])]
    if get_origin(option) in (tuple, list):
        item = describe_annotation(get_args(option)[0])
        lone = any(isinstance(mark, BeforeValidator) for mark in flat)  # one item may stand without brackets
        least = next((f" of at least {mark.min_length}" for mark in flat if isinstance(mark, MinLen)), "")
        return f"{item} or a list of them" if lone else f"a list{least}, each item {item}"
    unit = next((_UNITS[m.func] for m in flat if isinstance(m, BeforeValidator) and m.func in _UNITS), None)
    word = unit or _WORDS.get(option) or ("a path" if getattr(option, "__name__", "") == "Path" else str(option))
    return word + _bounds(flat)


_BOUND_WORDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def bound_words(bounds: Mapping[str, Any]) -> str:
    """``{"gt": 0}`` -> ``more than 0``; several are joined with ``and``."""
    return " and ".join(f"{_BOUND_WORDS[name]} {_short(bounds[name])}" for name in _BOUND_WORDS if name in bounds)


def _short(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _bounds(marks: list[Any]) -> str:
    found: dict[str, Any] = {}
    for mark in marks:
        match mark:
            case Gt():
                found["gt"] = mark.gt
            case Ge():
                found["ge"] = mark.ge
            case Lt():
                found["lt"] = mark.lt
            case Le():
                found["le"] = mark.le
    return f", {bound_words(found)}" if found else ""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of one section, and the way to it; names the user chooses are `ANY_NAME`."""

    path: tuple[str, ...]
    section: type[BaseModel]
    key: str
    info: FieldInfo

    @property
    def dotted(self) -> str:
        """The key as overrides spell it."""
        return ".".join((*self.path, self.key))


def walk(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Field]:
    """Every key below ``section``, all members of every union included, in the order declared."""
    for key, info in keys(section).items():
        yield Field(path, section, key, info)
        for below, inner in sections_of(info.annotation, (*path, key)):
            yield from walk(inner, below)


def sections_of(annotation: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """The sections that can stand at an annotation, directly or as items of a mapping or list, and where."""
    here = shape(annotation)
    for inner in here.sections.values():
        yield path, inner
    for item in (here.mapping, here.items):
        if item is not None:
            yield from sections_of(item, (*path, ANY_NAME))
