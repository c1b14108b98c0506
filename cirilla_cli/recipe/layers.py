"""Reading a recipe file and everything it extends into one tree."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.recipe import builtin
from cirilla_cli.recipe.complaints import say
from cirilla_cli.recipe.merge import merge
from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.tree import BadYaml, Complaint, Node, parse


def shown(path: Path) -> str:
    """A path as messages spell it: relative to the working directory where it lies below."""
    try:
        # Not Path.resolve, which has an error of its own for links in a circle.
        return str(Path(os.path.realpath(path)).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_text(path: Path) -> str:
    """The text of a recipe file.

    Raises:
        CirillaError: there is none, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        close = nearest(path.name, _siblings(path))
        remedy = f"; did you mean `{path.with_name(close)}`?" if close else ""
        raise CirillaError(f"no recipe at `{path}`{remedy}", hint="cirilla recipe list") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        where = [Where(shown(path), line, expected="UTF-8 text")]
        raise CirillaError(f"{shown(path)}:{line}: not UTF-8 text; save the file as UTF-8", where=where) from None
    except OSError as error:
        raise CirillaError(f"cannot read `{path}`: {error.strerror}") from None


def _siblings(path: Path) -> list[str]:
    folder = path.parent
    return sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml")) if folder.is_dir() else []


@dataclass(slots=True)
class Layers:
    """Reads files, each laid over those it extends; collects mistakes on the way."""

    mistakes: list[Complaint] = field(default_factory=list)
    unreadable: bool = False
    """Whether a file had no tree at all, so that nothing more can be said about its keys."""
    incomplete: bool = False
    """Whether `extends` names what cannot be had, so that nobody knows which keys are missing."""

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Node:
        """The tree of ``path`` over everything it extends, `extends` itself left out."""
        name = shown(path)
        try:
            node = parse(read_text(path), name, self.mistakes)
        except BadYaml as error:
            return self._give_up(error.complaint)
        if not isinstance(node.value, dict):
            return self._give_up(_not_a_mapping(node))
        if chain and "recipe" not in node.value:
            self.mistakes.append(
                Complaint(node.origin, "`recipe` is missing: begin the file with `recipe: 1`", "recipe")
            )
        below = self._below(node, path, (*chain, path.resolve()))
        own = {key: value for key, value in node.value.items() if key != "extends"}
        return merge(below, Node(own, node.origin))

    def _give_up(self, complaint: Complaint) -> Node:
        self.mistakes.append(complaint)
        self.unreadable = True
        return Node({}, complaint.origin)

    def _below(self, node: Node, path: Path, chain: tuple[Path, ...]) -> Node:
        below = Node({}, node.origin)
        extends = node.get("extends")
        if extends is None or extends.value is None:
            return below
        items = extends.value if isinstance(extends.value, list) else [extends]
        for item in items:
            found = self._resolve(item, path, chain)
            if found is not None:
                layer = self.read(found, chain)
                below = merge(below, Node({k: v for k, v in layer.value.items() if k != "recipe"}, layer.origin))
        return below

    def _resolve(self, item: Node, path: Path, chain: tuple[Path, ...]) -> Path | None:
        """The file an entry of `extends` names; None, with a complaint, if there is none or it closes a circle."""
        if not isinstance(item.value, str) or not item.value.strip():
            self._complain(item, f"is {say(item.plain())}, must be a path or a built-in name such as base/pretrain")
            return None
        beside = path.parent / item.value
        found = beside if beside.is_file() else builtin.find_part(item.value)
        if found is None:
            near = nearest(item.value, [*_siblings(beside), *builtin.part_names()])
            remedy = f"did you mean `{near}`?" if near else "give a path relative to this file, or a name like base/sft"
            self._complain(item, f"names `{item.value}`, which does not exist; {remedy}")
        elif found.resolve() in chain:
            start = chain.index(found.resolve())
            circle = " -> ".join(shown(p) for p in (*chain[start:], found))
            self._complain(item, f"goes in a circle: {circle}")
            return None
        return found

    def _complain(self, item: Node, text: str) -> None:
        self.incomplete = True
        self.mistakes.append(Complaint(item.origin, f"`extends` {text}", "extends", item.plain()))


def _not_a_mapping(node: Node) -> Complaint:
    if node.value is None:
        return Complaint(node.origin, "the recipe is empty; begin it with `recipe: 1`")
    what = "a list" if isinstance(node.value, list) else repr(node.value)
    return Complaint(node.origin, f"the recipe is {what}, must be a mapping of sections", expected="a mapping")
