"""The recipes that come with cirilla: `NAME/VERB.yaml`, `NAME/pipeline.yaml`, and `base/VERB.yaml` to be extended.

A folder may hold further parts, which stages of its pipeline name. `NAME/PART` is one file of a folder, whatever its
verb.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.schema import VERBS, verb_of

ROOTS = (Path(__file__).parent / "builtin", Path(__file__).parents[2] / "recipes")
"""Where built-in recipes stand: in an installed package, in a checkout."""

_BASE = "base"


class Listed(TypedDict):
    """One built-in recipe."""

    name: str
    verb: str
    path: str
    about: str


def stem(verb: str) -> str:
    """File name of a verb's recipe, without its ending."""
    return "pipeline" if verb == "run" else verb


_STEMS = {stem(verb): verb for verb in VERBS}


def _root() -> Path:
    return next((root for root in ROOTS if root.is_dir()), ROOTS[-1])


def _names() -> list[str]:
    root = _root()
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _files(reference: str | None = None) -> Iterator[tuple[str, Path]]:
    """Every folder's recipes with its name: those called after verbs in the order of a model's life, then its parts.

    Of the folder that NAME or NAME/PART names alone, where one is given.
    """
    folder = reference and reference.partition("/")[0]
    for name in (name for name in _names() if folder in (None, name)):
        files = sorted((_root() / name).glob("*.yaml"))
        yield from ((name, path) for path in sorted(files, key=lambda path: [*_STEMS, path.stem].index(path.stem)))


def _verb(path: Path) -> str | None:
    """The verb that a file is called after, else the one that its sections belong to."""
    if path.stem in _STEMS:
        return _STEMS[path.stem]
    from cirilla_cli.recipe.layers import Layers

    return verb_of(Layers().read(path).plain())


def _called(name: str) -> dict[str | None, Path]:
    """The files that a name stands for, by verb: NAME for those called after verbs, NAME/PART for that one."""
    return {
        _verb(path): path
        for folder, path in _files(name)
        if name == f"{folder}/{path.stem}" or (name == folder and path.stem in _STEMS)
    }


def about_file(path: Path) -> str:
    """The comment a file begins with, as one paragraph; lines for editors are left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.lstrip("#").strip())
    return " ".join(line for line in lines if line)


def list_recipes() -> list[Listed]:
    """Every built-in recipe that can be run, by name, then in the order of a model's life; parts last, as NAME/PART."""
    return [
        {
            "name": name if path.stem in _STEMS else f"{name}/{path.stem}",
            "verb": _verb(path) or "",
            "path": str(path),
            "about": about_file(path),
        }
        for name, path in _files()
        if name != _BASE
    ]


def has(name: str, verb: str) -> bool:
    """Whether NAME or NAME/PART is a built-in recipe for that verb."""
    return verb in _called(name)


def find(name: str, verb: str) -> Path:
    """The file of a built-in recipe, called NAME or NAME/PART.

    Raises:
        CirillaError: there is none of that name, or none for that verb.
    """
    by_verb = _called(name)
    if verb in by_verb:
        return by_verb[verb]
    if by_verb:
        message = f"the built-in recipe `{name}` has none for `cirilla {verb}`; it has {', '.join(map(str, by_verb))}"
        raise CirillaError(message, hint=f"cirilla {next(iter(by_verb))} {name}")
    names = sorted({folder for folder, _ in _files()} - {_BASE})
    close = nearest(name, [*names, *part_names()] if "/" in name else names)
    known = f"did you mean `{close}`?" if close else f"there are {', '.join(names) or 'none'}"
    raise CirillaError(f"no built-in recipe is called `{name}`; {known}", hint="cirilla recipe list")


def find_part(reference: str) -> Path | None:
    """The file of ``NAME/PART``, the spelling `extends` uses, or None if there is none."""
    return next((path for name, path in _files(reference) if reference == f"{name}/{path.stem}"), None)


def verbs_of_part(reference: str) -> list[str]:
    """The verbs of the built-in recipe called ``NAME/PART``; none where there is no such recipe."""
    return [str(verb) for verb in _called(reference)] if find_part(reference) is not None else []


def part_names() -> list[str]:
    """Everything `find_part` finds."""
    return [f"{name}/{path.stem}" for name, path in _files()]


def bundled(reference: str) -> Path:
    """The file that ``builtin:NAME/FILE`` means: data that comes with a built-in recipe.

    Raises:
        CirillaError: there is no such file, or the name leads elsewhere.
    """
    relative = Path(reference.removeprefix("builtin:"))
    path = _root() / relative
    if relative.is_absolute() or ".." in relative.parts or not path.is_file():
        raise CirillaError(f"`{reference}`: nothing of that name comes with cirilla")
    return path
