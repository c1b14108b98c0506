"""How the words after a verb are read: overrides, recipes, inputs, Hub names; by one rule for every verb."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import on_the_hub

_KEY = re.compile(r"^[A-Za-z_][\w.\-]*=")


@dataclass
class Reading:
    """What the words of a call turned out to be."""

    recipe: str | None = None
    inputs: list[str] = field(default_factory=list)
    """Paths, `-`, and Hub names, as given."""
    overrides: list[str] = field(default_factory=list)


def read_words(words: Sequence[str], verb: str) -> Reading:
    """Sort the words of a call.

    Raises:
        CirillaError: a word is nothing known (with what was tried), or two recipes are named.
    """
    from cirilla_cli.hub.names import is_hub_name
    from cirilla_cli.recipe import builtin

    reading, unknown = Reading(), []
    for word in words:
        if _KEY.match(word):
            reading.overrides.append(word)
        elif word == "-" or word.startswith(("./", "../", "/", "~")):
            _take_path(word, reading)
        elif word.endswith((".yaml", ".yml")) or (not _exists(word) and builtin.has(word, verb)):
            _take_recipe(word, reading)
        elif not _exists(word) and (others := builtin.verbs_of_part(word)):
            # Of the form OWNER/NAME, but nobody means a repository by it.
            unknown.append(f"`{word}` is a built-in recipe of `{', '.join(others)}`, not of `{verb}`")
        elif _exists(word) or is_hub_name(word) or on_the_hub(Path(word)):
            reading.inputs.append(word)
        else:
            unknown.append(_tried(word, verb))
    if unknown:
        source = verb == "scrape" and any("://" in word for word in unknown)
        hint = "--api ADDRESS reads a wiki, --dump ADDRESS downloads an export" if source else "cirilla recipe list"
        raise CirillaError("\n".join(unknown), hint=f"cirilla {verb} --help; {hint}")
    return reading


def _exists(word: str) -> bool:
    """Whether there is a file or folder of that name; an empty or overlong word names none."""
    try:
        return word != "" and Path(word).exists()
    except OSError:
        return False


def _take_path(word: str, reading: Reading) -> None:
    if word.endswith((".yaml", ".yml")):
        _take_recipe(word, reading)
    elif word == "-":
        reading.inputs.append(word)
    else:
        # As text: a Path would drop the `./` that keeps `./owner/name` from being looked up on the Hub.
        reading.inputs.append(os.path.expanduser(word))


def _take_recipe(word: str, reading: Reading) -> None:
    if reading.recipe is not None:
        raise CirillaError(
            f"two recipes are named: `{reading.recipe}` and `{word}`", hint="a recipe builds on others with `extends`"
        )
    reading.recipe = word


def _tried(word: str, verb: str) -> str:
    from cirilla_cli.recipe import builtin
    from cirilla_cli.recipe.near import nearest

    names = sorted({listed["name"] for listed in builtin.list_recipes() if listed["verb"] == verb})
    close = nearest(word, names)
    meant = f"; did you mean `{close}`?" if close else ""
    return (
        f"`{word}`: no override KEY=VALUE, no recipe file (.yaml), no file or folder of that name, "
        f"no built-in recipe of `{verb}` ({', '.join(names) or 'there are none'}), no OWNER/NAME, no hf://datasets/OWNER/NAME{meant}"
    )
