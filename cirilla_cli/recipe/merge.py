"""Laying one layer of a recipe over another: defaults < extends < file < overrides."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from cirilla_cli.recipe.fields import keys, kind_of, shape
from cirilla_cli.recipe.tree import DEFAULT, SECRETS, BadYaml, Complaint, Node, Origin, parse_value, tree

_ONE_OF: dict[tuple[str, ...], frozenset[str]] = {("train",): frozenset({"steps", "tokens", "epochs"})}
"""Keys of which a later layer's choice unsets the others."""


def merge(base: Node, over: Node, path: tuple[str, ...] = ()) -> Node:
    """``over`` laid over ``base``: mappings deep, all else replaced, and a section whose `kind` changes as a whole."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or _kind_changes(base, over):
        return over
    chosen = {key for key in _ONE_OF.get(path, ()) if key in over.value and over.value[key].value is not None}
    dropped = _ONE_OF.get(path, frozenset()) - chosen if chosen else frozenset()
    merged = {key: node for key, node in base.value.items() if key not in dropped or key in over.value}
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node, (*path, key)) if key in merged else node
    return Node(merged, over.origin if over.origin != DEFAULT else base.origin)


def _kind_changes(base: Node, over: Node) -> bool:
    before, after = base.get("kind"), over.get("kind")
    return before is not None and after is not None and before.value != after.value


def with_defaults(node: Node, section: type[BaseModel]) -> Node:
    """Put default sections under what is given of them, so that naming one key of a default keeps the rest of it."""
    if not isinstance(node.value, dict):
        return node
    filled = dict(node.value)
    for key, info in keys(section).items():
        given = filled.get(key)
        if given is None or not isinstance(given.value, dict):
            continue
        if isinstance(info.default, BaseModel):
            given = merge(_default_node(info.default), given)
        filled[key] = _below(given, info.annotation)
    return replace(node, value=filled)


def _default_node(default: BaseModel) -> Node:
    """What a default section says beyond its class's own defaults, and its kind."""
    said = default.model_dump(mode="json", exclude_unset=True, by_alias=True)
    kind = kind_of(type(default))
    return tree(said if kind is None else {"kind": kind, **said})


def _below(node: Node, annotation: Any) -> Node:
    """`with_defaults` for whatever stands at an annotation."""
    here = shape(annotation)
    if here.mapping is not None and isinstance(node.value, dict):
        return replace(node, value={key: _below(item, here.mapping) for key, item in node.value.items()})
    if here.items is not None and isinstance(node.value, list):
        return replace(node, value=[_below(item, here.items) for item in node.value])
    kind = node.get("kind")
    section = here.pick(None if kind is None else kind.value)
    return node if section is None else with_defaults(node, section)


def overrides_layer(overrides: Sequence[str], base: Node, mistakes: list[Complaint]) -> Node:
    """All ``key=value`` overrides as one layer: their order does not matter, but of the same key the last counts."""
    layer = Node({})
    for text in overrides:
        key, sign, value = text.partition("=")
        parts = tuple(key.strip().split("."))
        origin = Origin(override=f"{key}=..." if parts[-1] in SECRETS else text)
        if not sign or not all(parts):
            mistakes.append(Complaint(origin, "must be `key=value`, such as `train.steps=100`", expected="key=value"))
        elif not value.strip():
            text = f"`{key}` has no value; null switches a section off, `{key}='\"\"'` is empty text"
            mistakes.append(Complaint(origin, text, key, "", "a value"))
        elif not (blocked := _blocked(parts, base, layer, origin, mistakes)):
            node = _value(value, origin, mistakes)
            layer = layer if node is None or blocked else _lay(layer, parts, node)
    return layer


def _value(text: str, origin: Origin, mistakes: list[Complaint]) -> Node | None:
    try:
        text.encode()
        return parse_value(text, origin, mistakes)
    except BadYaml as error:
        mistakes.append(error.complaint)
    except UnicodeEncodeError:
        mistakes.append(Complaint(origin, "not UTF-8"))
    return None


def _blocked(parts: tuple[str, ...], base: Node, layer: Node, origin: Origin, mistakes: list[Complaint]) -> bool:
    """Complain if the way to a key leads through something that has no keys."""
    for length in range(1, len(parts)):
        node = layer.at(parts[:length]) or base.at(parts[:length])
        if node is None or node.value is None or isinstance(node.value, dict):
            continue
        key = ".".join(parts[:length])
        what = "a list, which is replaced as a whole" if isinstance(node.value, list) else f"{node.value!r}, no section"
        mistakes.append(Complaint(origin, f"`{key}` is {what}; it has no key `{parts[length]}`", key, node.plain()))
        return True
    return False


def _lay(layer: Node, parts: tuple[str, ...], node: Node) -> Node:
    """``layer`` with ``node`` at a key; mappings on the way are made."""
    head, *rest = parts
    old = layer.get(head)
    if rest:
        under = old if old is not None and isinstance(old.value, dict) else Node({}, node.origin)
        node = _lay(replace(under, origin=node.origin), tuple(rest), node)
    elif old is not None:
        node = merge(old, node)
    assert isinstance(layer.value, dict)
    return replace(layer, value={**layer.value, head: node})
