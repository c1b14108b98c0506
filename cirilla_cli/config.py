"""The base of every recipe section."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    """A frozen, strict piece of a recipe: unknown keys are refused, the string under a field documents it.

    Those strings are read from the source when somebody asks (`cirilla_cli.recipe.fields.doc`), and a section's checks
    are made at its first use, because both together take a third of the time that importing all sections takes.

    A section that configures an object has a `build` method with that object's type, which imports the object's
    module inside its body: reading a recipe never imports torch. The union of the sections of one place, told apart
    by their `kind`, is the registry of what can stand there.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, defer_build=True, validate_default=True, allow_inf_nan=False
    )


class Misfits(ValueError):
    """Values that do not go with their neighbours, each named by its key, seen from the section that finds them."""

    def __init__(self, found: Mapping[str, str]) -> None:
        """What is wrong with each, by key: `is 5, must be less than n_layers (4)`."""
        super().__init__("; ".join(f"{key} {said}" for key, said in found.items()))
        self.found = dict(found)

    @classmethod
    def refuse(cls, found: Mapping[str, str]) -> None:
        """Raises: Misfits: there is something in ``found``."""
        if found:
            raise cls(found)


FilePath = Annotated[Path, Field(strict=False)]
"""A path in a recipe; relative to the working directory, as in a shell."""

_ONE_OR_MORE = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})

Texts = Annotated[
    tuple[str, ...],
    Field(strict=False),
    BeforeValidator(lambda v: (v,) if isinstance(v, str) else v),
    _ONE_OR_MORE,
]
"""One string or a list of them."""

Paths = Annotated[
    tuple[FilePath, ...],
    Field(strict=False),
    BeforeValidator(lambda v: (v,) if isinstance(v, str | Path) else v),
    _ONE_OR_MORE,
]
"""One path or a list of them."""
