"""What every recipe has at its top."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cirilla_cli.config import Section, Texts

Device = Literal["auto", "cpu", "cuda", "mps"]


def _is_name(value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value):
        raise ValueError("must be letters, digits, `.`, `_` and `-`: it becomes a folder's name")
    return value


class Recipe(Section):
    """The scalars at the top of every recipe."""

    recipe: Literal[1]
    """Version of the recipe language; always 1."""
    extends: Texts = ()
    """Recipes this one builds on, merged left to right: files relative to this one, or built-in names (base/sft)."""
    name: Annotated[str, AfterValidator(_is_name)] | None = None
    """Name of the run; null takes it from the file."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Of every random choice; the same seed and inputs give the same result."""
    out: str | None = None
    """Where the result goes; null for runs/NAME-VERB, `-` for stdout where the verb writes rows."""


class DeviceRecipe(Recipe):
    """A recipe of a verb that computes with a model."""

    device: Device = "auto"
    """Where tensors live; auto takes the fastest device there is."""
