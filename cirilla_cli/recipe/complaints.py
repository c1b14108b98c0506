"""What is wrong with a recipe's keys and values, each mistake once, with its place and remedy."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cirilla_cli.config import Misfits
from cirilla_cli.recipe.fields import (
    ANY_NAME,
    Shape,
    bound_words,
    describe,
    describe_annotation,
    keys,
    shape,
    walk,
)
from cirilla_cli.recipe.near import nearest, one_edit
from cirilla_cli.recipe.schema import TRAIN_VERBS, schema_for
from cirilla_cli.recipe.tree import SECRETS, Complaint, Node

Path = tuple[str | int, ...]
_EXTENDS: Path = ("extends",)


def dotted(path: Sequence[str | int]) -> str:
    """A path as overrides and messages spell it."""
    return ".".join(map(str, path))


def say(value: Any) -> str:
    """A value as a message shows it: in the recipe's own spelling, and short."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
        case str() if len(value) > 60:
            return repr(value[:57] + "...")
    return repr(value)


class Checker:
    """Compares a tree with a schema; `complaints` holds what it found, in the order found.

    Of a tree that is not ``whole``, because what it extends was not found, no key is said to be missing.
    """

    def __init__(self, root: Node, schema: type[BaseModel], verb: str, *, whole: bool = True) -> None:
        self.root, self.schema, self.verb = root, schema, verb
        self.complaints: list[Complaint] = []
        self.meant: set[Path] = set() if whole else {_EXTENDS}
        """Keys that a misspelt one probably means; that they are missing needs no complaint of its own."""
        self.closed: set[Path] = set()
        """Places already found wrong as a whole; what the models say about them and below is noise."""

    def _complain(self, path: Path, text: str, value: Any = None, expected: str | None = None) -> None:
        origin = self.root.nearest_origin(path)
        self.complaints.append(Complaint(origin, text, dotted(path) or None, value, expected))

    def check_keys(self) -> None:
        """Find unknown keys and kinds, and values that are no section where a section belongs."""
        self._place((), shape(self.schema), self.root)

    def _place(self, path: Path, here: Shape, node: Node) -> None:
        if here.items is not None and isinstance(node.value, list):
            for i, item in enumerate(node.value):
                self._place((*path, i), shape(here.items), item)
        elif here.mapping is not None and isinstance(node.value, dict):
            for name, item in node.value.items():
                self._place((*path, name), shape(here.mapping), item)
        elif here.sections and isinstance(node.value, dict):
            self._section(path, here, node)
        elif (here.sections or here.mapping is not None) and here.items is None:
            self._not_a_mapping(path, here, node)

    def _not_a_mapping(self, path: Path, here: Shape, node: Node) -> None:
        if node.value is None and here.optional:
            return
        self.closed.add(path)
        section = here.pick(None)
        inside = f"with the keys {', '.join(keys(section))}" if section else f"with kind {' or '.join(here.kinds)}"
        expected = f"a mapping {inside}" if here.sections else "a mapping from names to values"
        off = "; this section cannot be switched off" if node.value is None else ""
        value = node.plain()
        self._complain(path, f"`{dotted(path)}` is {say(value)}, must be {expected}{off}", value, expected)

    def _section(self, path: Path, here: Shape, node: Node) -> None:
        given = node.get("kind")
        if here.kinds and (given is None or given.value not in here.kinds) and (given or len(here.kinds) > 1):
            self.closed.add(path)
            self._wrong_kind(path, here, node, given)
            return
        section = here.pick(None if given is None else given.value)
        if section is None:
            return
        fields = keys(section)
        self._unknown(path, list(fields), node, here)
        for key, child in node.value.items():
            if key in fields:
                self._place((*path, key), shape(fields[key].annotation), child)

    def _wrong_kind(self, path: Path, here: Shape, node: Node, given: Node | None) -> None:
        """Complain about a missing or unknown kind, and about keys that no kind here has."""
        at = (*path, "kind")
        choices = " or ".join(here.kinds)
        value = None if given is None else given.plain()
        near = nearest(value, here.kinds) if isinstance(value, str) else None
        likely = [here.sections[near]] if near else list(here.sections.values()) if given is None else []
        if likely:
            self._unknown(path, list(dict.fromkeys(key for member in likely for key in keys(member))), node, here)
        if given is not None:
            remedy = self._other_verb(path, value) or (f"; did you mean `{near}`?" if near else "")
            self._complain(at, f"`{dotted(at)}` is {say(value)}, must be {choices}{remedy}", value, choices)
        elif not {at, _EXTENDS} & self.meant:
            self._complain(at, f"`{dotted(at)}` is missing, must be {choices}", None, choices)

    def _other_verb(self, path: Path, kind: Any) -> str:
        """Where a kind is known to another training verb, its name."""
        if self.verb not in TRAIN_VERBS or len(path) != 1:
            return ""
        for verb in TRAIN_VERBS:
            info = keys(schema_for(verb)).get(str(path[0]))
            if info is not None and kind in shape(info.annotation).kinds:
                return f" for `cirilla {self.verb}`; `cirilla {verb}` takes {kind}"
        return ""

    def _unknown(self, path: Path, known: list[str], node: Node, here: Shape) -> None:
        """Complain about keys that are not known, each with the key that was probably meant."""
        for key in node.value:
            if key in known:
                continue
            at = (*path, key)
            close = one_edit(key, known, node.value)
            meant = close or self._elsewhere(key, at, here) or nearest(key, known, node.value)
            if meant in known:
                self.meant.add((*path, str(meant)))
            remedy = f"did you mean {meant if ' ' in str(meant) else f'`{meant}`'}?" if meant else "known keys: "
            remedy += "" if meant else ", ".join(known)
            # Its value stays out of the error: a misspelt key may hold a secret.
            self._complain(at, f"`{dotted(at)}` is not a key here; {remedy}", None, meant)

    def _elsewhere(self, key: str, at: Path, here: Shape) -> str | None:
        """Where else a key is at home: with another kind, or in another section (`optim.lr` for `train.lr`)."""
        kinds = [kind for kind, member in here.sections.items() if kind is not None and key in keys(member)]
        if kinds:
            return f"kind {' or '.join(kinds)}"
        homes = (field for field in walk(self.schema) if field.key == key and field.path and key != "kind")
        return next((f.dotted for f in homes if ANY_NAME not in f.path and f.dotted != dotted(at)), None)

    def check_values(self) -> BaseModel | None:
        """Let the models judge the values; the recipe, or None if there is any complaint."""
        try:
            recipe = self.schema.model_validate(self.root.plain())
        except ValidationError as error:
            seen: set[Path] = set()
            for one in error.errors(include_url=False):
                self._model_error(dict(one), seen)
            return None
        return None if self.complaints else recipe

    def _model_error(self, error: dict[str, Any], seen: set[Path]) -> None:
        path, described = self._locate(error["loc"])
        above = {path[:n] for n in range(len(path) + 1)}
        if error["type"] == "extra_forbidden" or path in seen or above & self.closed:
            return
        if error["type"] == "missing":
            if path in self.meant or (_EXTENDS in self.meant and path != ("recipe",)):
                return
            begin = ": begin the recipe with `recipe: 1`" if path == ("recipe",) else f"; it is {described}"
            self._complain(path, f"`{dotted(path)}` is missing{begin}", None, described)
        else:
            node = self.root.at(path)
            value = None if node is None else node.plain()
            if _EXTENDS in self.meant and isinstance(value, dict):
                return  # keys that do not go together without those that would have come from below
            self._bad_value(path, described, error, value)
        seen.add(path)

    def _bad_value(self, path: Path, described: str, error: dict[str, Any], value: Any) -> None:
        context = error.get("ctx", {})
        value = "(hidden)" if path and path[-1] in SECRETS else value
        if error["type"] == "value_error":
            if isinstance(context["error"], Misfits):
                return self._misfits(path, context["error"])
            message = str(context["error"])
            if isinstance(value, dict):
                return self._complain(path, f"`{dotted(path)}`: {message}" if path else message, None, message)
            joint = ", " if message.startswith("must ") else ": "
            return self._complain(path, f"`{dotted(path)}` is {say(value)}{joint}{message}", value, message)
        expected = bound_words(context) or described
        text = f"`{dotted(path)}` is {say(value)}, must be {expected}"
        return self._complain(path, text + _remedy(error, value), value, expected)

    def _misfits(self, path: Path, error: Misfits) -> None:
        """Complain about values that their section found not to go together, each at its own place."""
        for key, said in error.found.items():
            at = (*path, *key.split("."))
            node = self.root.at(at)
            self._complain(at, f"`{dotted(at)}` {said}", None if node is None else node.plain(), said)

    def _locate(self, loc: tuple[str | int, ...]) -> tuple[Path, str]:
        """The place in the file that a model's error points at (union labels left out), and what belongs there."""
        path: Path = ()
        annotation: Any = self.schema
        described = "a mapping"
        for part in loc:
            here, node = shape(annotation), self.root.at(path)
            if len(here.sections) > 1 and part in here.sections:
                annotation = here.sections[str(part)]
                continue
            section = here.pick(None)
            if section is not None and str(part) in keys(section):
                info = keys(section)[str(part)]
                path, annotation, described = (*path, part), info.annotation, describe(info)
            elif here.mapping is not None and node is not None and node.get(str(part)) is not None:
                path, annotation, described = (*path, part), here.mapping, describe_annotation(here.mapping)
            elif here.items is not None and isinstance(part, int):
                in_list = node is not None and isinstance(node.value, list)
                path = (*path, part) if in_list else path
                annotation, described = here.items, describe_annotation(here.items)
        return path, described


def _remedy(error: dict[str, Any], value: Any) -> str:
    """What to do about a value that is nearly right."""
    if error["type"] == "string_type" and isinstance(value, int | float):
        return "; put it in quotes"
    if error["type"] == "literal_error" and isinstance(value, str):
        near = nearest(value, [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")])
        return f"; did you mean `{near}`?" if near else ""
    return ""
