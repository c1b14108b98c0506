"""The recipes that come with cirilla: `NAME/VERB.yaml`, `NAME/pipeline.yaml`, and `base/VERB.yaml` to be extended."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.schema import VERBS

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


def _root() -> Path:
    return next((root for root in ROOTS if root.is_dir()), ROOTS[-1])


def _names() -> list[str]:
    root = _root()
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _files() -> Iterator[tuple[str, str, Path]]:
    for name in _names():
        for verb in VERBS:
            path = _root() / name / f"{stem(verb)}.yaml"
            if path.is_file():
                yield name, verb, path


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
    """Every built-in recipe that can be run, by name, then in the order of a model's life."""
    return [
        {"name": name, "verb": verb, "path": str(path), "about": about_file(path)}
        for name, verb, path in _files()
        if name != _BASE
    ]


def has(name: str, verb: str) -> bool:
    """Whether there is a built-in recipe of that name for that verb."""
    return any((name, verb) == (n, v) for n, v, _ in _files())


def find(name: str, verb: str) -> Path:
    """The file of a built-in recipe.

    Raises:
        CirillaError: there is none of that name, or none for that verb.
    """
    by_verb = {v: path for n, v, path in _files() if n == name}
    if verb in by_verb:
        return by_verb[verb]
    if by_verb:
        message = f"the built-in recipe `{name}` has none for `cirilla {verb}`; it has {', '.join(by_verb)}"
        raise CirillaError(message, hint=f"cirilla {next(iter(by_verb))} {name}")
    names = [n for n in _names() if n != _BASE and any(n == m for m, _, _ in _files())]
    close = nearest(name, names)
    known = f"did you mean `{close}`?" if close else f"there are {', '.join(names) or 'none'}"
    raise CirillaError(f"no built-in recipe is called `{name}`; {known}", hint="cirilla recipe list")


def find_part(reference: str) -> Path | None:
    """The file of ``NAME/VERB``, the spelling `extends` uses, or None if there is none."""
    name, _, file = reference.partition("/")
    return next((path for n, v, path in _files() if n == name and stem(v) == file), None)


def part_names() -> list[str]:
    """Everything `find_part` finds."""
    return [f"{name}/{stem(verb)}" for name, verb, _ in _files()]


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
