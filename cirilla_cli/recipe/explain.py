"""Recipes made readable: resolved with the origin of every value, key by key, side by side, and as JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.complaints import say
from cirilla_cli.recipe.editor import json_schema as json_schema
from cirilla_cli.recipe.fields import Field, about, describe, doc, keys, kind_of, sections_of, shape, walk
from cirilla_cli.recipe.load import Resolved, leaves
from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.schema import VERBS, schema_for
from cirilla_cli.recipe.tree import scalar


def show(resolved: Resolved, why: bool = False) -> str:
    """A resolved recipe as YAML that loads to an equal one; with ``why``, each value's origin stands beside it."""
    lines = list(_block(resolved.data, 0, ()))
    if not why:
        return "".join(f"{line}\n" for line, _ in lines)
    width = min(max(len(line) for line, _ in lines), 60)
    origins = resolved.origins
    return "".join(
        f"{line:<{width}}  # {_printable(str(origins[path]))}\n" if path in origins else f"{line}\n"
        for line, path in lines
    )


def _printable(text: str) -> str:
    """Text that stays on its line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _block(data: Mapping[str, Any], depth: int, path: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """The lines of a mapping, each with the dotted key of the value it holds."""
    indent = "  " * depth
    for key, value in data.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield f"{indent}{_scalar(key)}:", None
            yield from _block(value, depth + 1, here)
        else:
            yield f"{indent}{_scalar(key)}: {_flow(value)}", ".".join(here)


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A scalar that YAML 1.1 and 1.2 both read as what it is."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            text = repr(value)
            return text.replace("e", ".0e") if "e" in text and "." not in text else text
        case str():
            return value if _is_plain(value) else _quoted(value)
    return str(value)


def _is_plain(text: str) -> bool:
    """Whether text needs no quotes in any position and any version of YAML."""
    import yaml

    words = text.replace("/", "").replace("_", "").replace(".", "").replace("-", "")
    if not (words.isascii() and words.isalnum() and (text[0].isalnum() or text[0] in "/._")):
        return False
    return isinstance(scalar(text), str) and yaml.safe_load(text) == text


def _quoted(text: str) -> str:
    """Text in double quotes, on one line, everything that is no visible character escaped."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return char if char.isprintable() else f"\\U{ord(char):08X}"


class Difference(NamedTuple):
    """A key two recipes do not agree on; None where one has no such key."""

    key: str
    before: Any
    after: Any


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Every leaf on which two recipes' data differ, in the order of ``a``, then what only ``b`` has."""
    before, after = leaves(dict(a)), leaves(dict(b))
    paths = dict.fromkeys([*before, *after])
    return [
        Difference(".".join(path), before.get(path), after.get(path))
        for path in paths
        if before.get(path) != after.get(path) or type(before.get(path)) is not type(after.get(path))
    ]


def explain(verb: str | None, dotted_key: str) -> str:
    """What a key or section means, what it takes, its default and its choices.

    Args:
        verb: whose recipes are meant; None takes the first verb that has the key.
        dotted_key: such as ``optim.lr``; names a user chooses may be given or written ``*``.

    Raises:
        CirillaError: no recipe has such a key.
    """
    parts = tuple(part for part in dotted_key.split(".") if part)
    for candidate in [verb] if verb else VERBS:
        fields = _find(schema_for(candidate), parts)
        if fields:
            return "\n".join(_entry(field, dotted_key) for field in fields)
    raise _unknown([verb] if verb else list(VERBS), dotted_key)


def _find(section: type[BaseModel], parts: tuple[str, ...], path: tuple[str, ...] = ()) -> list[Field]:
    """The fields a dotted key names, one for each section that can stand there."""
    head, rest = parts[0] if parts else "", parts[1:]
    if head not in keys(section):
        return []
    field = Field(path, section, head, keys(section)[head])
    inside = list(_enter(field.info.annotation, rest))
    if not rest or (not inside and shape(field.info.annotation).mapping is not None):
        return [field]
    found: list[Field] = []
    for inner, left in inside:
        deeper = _find(inner, left, (*path, head)) if left else [field]
        found += [one for one in deeper if one not in found]
    return found


def _enter(annotation: Any, rest: tuple[str, ...]) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    """The sections at an annotation, and what is left of the key once names a user chooses are taken off."""
    here = shape(annotation)
    for inner in here.sections.values():
        yield inner, rest
    for item in (here.mapping, here.items):
        if item is not None and rest:
            yield from _enter(item, rest[1:])


def _unknown(verbs: list[str], dotted_key: str) -> CirillaError:
    """The error for a key that no recipe has, with the key that was probably meant."""
    known = list(dict.fromkeys(field.dotted for verb in verbs for field in walk(schema_for(verb))))
    last = dotted_key.rpartition(".")[2]
    near = next((key for key in known if key.rpartition(".")[2] == last), None) or nearest(dotted_key, known)
    text = f"`{dotted_key}` is no key of {f'{verbs[0]} recipes' if len(verbs) == 1 else 'any recipe'}"
    return CirillaError(text, hint=f"did you mean `{near}`?" if near else "cirilla recipe schema")


def _entry(field: Field, dotted_key: str) -> str:
    """The paragraph about one key, and what may stand below it."""
    kind = kind_of(field.section)
    title = f"{dotted_key} (kind {kind})" if kind and field.path else dotted_key
    lines = [f"{title}: {brief(field)}", *_indented(doc(field.section, field.key))]
    for below, inner in sections_of(field.info.annotation, ()):
        name = kind_of(inner)
        where = f"each of {'.'.join((dotted_key, *below))}, " if below else ""
        lines.append(f"  {where}kind {name}: {about(inner)}" if name else f"  {where}{about(inner)}")
        lines += [
            f"    {key}: {brief(Field((), inner, key, info))}" for key, info in keys(inner).items() if key != "kind"
        ]
    return "\n".join(lines)


def brief(field: Field) -> str:
    """What a key takes and its default, on one line."""
    what = "a section" if shape(field.info.annotation).sections else describe(field.info)
    return what + _default(field)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _default(field: Field) -> str:
    if field.info.is_required():
        return "; required"
    return f"; default {default_words(field.info.default)}"


def default_words(default: Any) -> str:
    """A default value as it would stand in a recipe."""
    if isinstance(default, BaseModel):
        said = default.model_dump(mode="json", exclude_unset=True, by_alias=True)
        kind = kind_of(type(default))
        return _flow(said if kind is None else {"kind": kind, **said})
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {default_words(item)}" for key, item in default.items()) + "}"
    if isinstance(default, tuple):
        return _flow([str(item) if not isinstance(item, int | float) else item for item in default])
    return _flow(default) if isinstance(default, bool | int | float | str | None) else say(str(default))
