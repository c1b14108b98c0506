"""What every recipe has at its top."""

from typing import Literal

from pydantic import NonNegativeInt

from cirilla_cli.config import Section, Texts

Device = Literal["auto", "cpu", "cuda", "mps"]


class Recipe(Section):
    """The scalars at the top of every recipe."""

    recipe: Literal[1]
    """Version of the recipe language; always 1 for now."""
    extends: Texts = ()
    """Recipes this one builds on, merged left to right: files relative to this one, or built-in ones such as base/pretrain."""
    name: str | None = None
    """Name of the run; null takes it from the file."""
    seed: NonNegativeInt = 0
    """Of every random choice; the same seed and inputs give the same result."""
    out: str | None = None
    """Where the result goes; null for runs/NAME-VERB, `-` for stdout where the verb writes rows."""


class DeviceRecipe(Recipe):
    """A recipe of a verb that computes with a model."""

    device: Device = "auto"
    """Where tensors live; auto takes the fastest device there is."""
