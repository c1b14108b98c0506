"""From a recipe file, or the name of a built-in one, to the checked recipe and the origin of its every value."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cirilla_cli.errors import CirillaError, UsageError
from cirilla_cli.recipe import builtin
from cirilla_cli.recipe.budget import with_budget
from cirilla_cli.recipe.complaints import Checker, dotted
from cirilla_cli.recipe.dial import with_dial
from cirilla_cli.recipe.layers import Layers, shown
from cirilla_cli.recipe.merge import merge, overrides_layer, with_defaults
from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.rules import pipeline_mistakes
from cirilla_cli.recipe.schema import TRAIN_VERBS, VERBS, schema_for, verb_of
from cirilla_cli.recipe.tree import DEFAULT, Complaint, Node, Origin
from cirilla_cli.recipe.verbs.base import Recipe


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, every layer merged and every default filled in."""

    recipe: Recipe
    """The model instance; its class follows the verb."""
    data: dict[str, Any]
    """The same as plain data: written to YAML and loaded again it gives an equal recipe."""
    origins: dict[str, Origin]
    """Where each leaf of `data` comes from, by dotted key."""
    path: Path
    """The file it was read from."""
    verb: str
    """The verb that runs it."""
    name: str
    """Name of the run."""

    @property
    def out(self) -> str:
        """Where the result goes: the recipe's `out`, by default ``runs/NAME-VERB``."""
        assert self.recipe.out is not None  # load_recipe fills it in
        return self.recipe.out

    @cached_property
    def hash(self) -> str:
        """Fingerprint of `data`."""
        from cirilla_cli.fs import hash_json

        return hash_json(self.data)


def load_recipe(
    path_or_name: str | Path, verb: str | None = None, overrides: Sequence[str] = (), out: str | None = None
) -> Resolved:
    """Read a recipe, lay it over what it extends, lay the overrides over it, and check all of it.

    Args:
        path_or_name: a file, or the name of a built-in recipe.
        verb: the verb that will run it; None lets the recipe's sections say.
        overrides: ``key=value``, the value as YAML.
        out: what ``--out`` said; it wins over the recipe's `out`.

    Raises:
        CirillaError: there is no such recipe, or it has mistakes; all are reported at once.
        UsageError: ``out`` and an override of `out` differ.
    """
    path = locate(path_or_name, verb)
    layers = Layers()
    root = layers.read(path)
    root = merge(root, overrides_layer(overrides, root, layers.mistakes))
    if out is not None:
        _same_out(out, overrides)
        root = _with(root, "out", Node(out, Origin(override=f"--out {out}")))
    if layers.unreadable:
        raise failure(layers.mistakes)
    verb = _verb(root, verb, path, layers)
    schema = schema_for(verb)
    root = with_defaults(with_dial(with_budget(_named(root, verb, path), layers.mistakes)), schema)
    checker = Checker(root, schema, verb, whole=not layers.incomplete)
    checker.check_keys()
    recipe = checker.check_values()
    mistakes = [*layers.mistakes, *checker.complaints]
    if verb == "run" and not mistakes:
        mistakes = pipeline_mistakes(root)
    if mistakes or not isinstance(recipe, Recipe):
        raise failure(mistakes)
    data = plain_data(recipe)
    return Resolved(recipe, data, _origins(data, root), path, verb, recipe.name or "")


def locate(path_or_name: str | Path, verb: str | None) -> Path:
    """The file that a path or a built-in name stands for.

    Raises:
        CirillaError: neither a file nor a built-in recipe for ``verb``.
    """
    text = str(path_or_name)
    path = Path(path_or_name)
    if isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or path.is_file():
        return path
    if (part := builtin.find_part(text)) is not None:
        return part
    if verb is not None:
        return builtin.find(text, verb)
    verbs = [v for v in VERBS if builtin.has(text, v)]
    if len(verbs) > 1:
        choices = ", ".join(part for part in builtin.part_names() if part.startswith(f"{text}/"))
        raise CirillaError(f"the built-in recipe `{text}` has several files", hint=f"name one of {choices}")
    return builtin.find(text, verbs[0] if verbs else "run")


def failure(mistakes: Sequence[Complaint]) -> CirillaError:
    """All mistakes as one error, a line each, in the order of the files' lines."""
    unique = list(dict.fromkeys((str(m), m.origin) for m in mistakes))
    unique.sort(key=lambda pair: (pair[1].file or "~", pair[1].line or 0))
    by_text = {str(m): m for m in mistakes}
    return CirillaError("\n".join(text for text, _ in unique), where=[by_text[text].where() for text, _ in unique])


def _same_out(out: str, overrides: Sequence[str]) -> None:
    """Refuse two different places for the result."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.strip() == "out" and value.strip() != out:
            raise UsageError(f"`--out {out}` and `{override}` contradict each other", hint="give one of them")


def _with(root: Node, key: str, node: Node) -> Node:
    return Node({**root.value, key: node}, root.origin)


def name_of(path: Path) -> str:
    """The name a recipe has when it gives none: its file's, or its folder's where the file is named for its verb."""
    stem = path.stem
    folder = path.resolve().parent.name
    own = stem not in {builtin.stem(v) for v in VERBS} | {"resolved", "recipe"}
    return re.sub(r"[^\w.-]+", "-", stem if own else folder).strip("-.") or "recipe"


def _named(root: Node, verb: str, path: Path) -> Node:
    """Fill in `name` and `out` where nothing gives them."""
    name = root.get("name")
    if name is None or name.value is None:
        name = Node(name_of(path))
        root = _with(root, "name", name)
    out = root.get("out")
    if (out is None or out.value is None) and isinstance(name.value, str):
        root = _with(root, "out", Node(f"runs/{name.value}-{verb}"))
    return root


def _verb(root: Node, verb: str | None, path: Path, layers: Layers) -> str:
    """The verb to check against; a recipe that plainly belongs to another one is refused at once."""
    own = verb_of(root.plain())
    if verb is not None and verb not in VERBS:
        near = nearest(verb, VERBS)
        raise CirillaError(f"no recipes for `{verb}`; choose {', '.join(VERBS)}", hint=f"{near}?" if near else None)
    if verb is None and own is None:
        if layers.incomplete:
            raise failure(layers.mistakes)
        text = "the sections do not say which command this is for; give `data.kind`, or a section such as `scrape`"
        raise failure([*layers.mistakes, Complaint(root.origin, text)])
    if verb is None or own is None:
        return str(verb or own)
    if own != verb and not (own in TRAIN_VERBS and verb in TRAIN_VERBS):
        where = Complaint(root.origin, f"this is a recipe for `cirilla {own}`, not for `cirilla {verb}`")
        error = failure([where])
        error.hint = f"cirilla {own} {shown(path)}"
        raise error
    return verb


def plain_data(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data: keys as in files, paths as text, `extends` left out (its content is merged)."""
    data = _plain(recipe.model_dump(by_alias=True, exclude={"extends"}))
    assert isinstance(data, dict)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return None  # secrets are never written down
    if isinstance(value, Mapping):
        first = {"kind": value["kind"]} if "kind" in value else {}
        return first | {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def leaves(data: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Everything in nested data that is not itself a filled mapping, by path; lists count as one value."""
    if not isinstance(data, dict) or not data:
        return {path: data}
    found: dict[tuple[str, ...], Any] = {}
    for key, value in data.items():
        found |= leaves(value, (*path, key))
    return found


def _origins(data: dict[str, Any], root: Node) -> dict[str, Origin]:
    nodes = {path: root.at(path) for path in leaves(data)}
    return {dotted(path): DEFAULT if node is None else node.origin for path, node in nodes.items()}
