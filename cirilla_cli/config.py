"""The base of every recipe section."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A frozen, strict piece of a recipe: unknown keys are refused, the string under a field documents it.

    A section that configures an object has a `build` method with that object's type, which imports the object's
    module inside its body: reading a recipe never imports torch. The union of the sections of one place, told apart
    by their `kind`, is the registry of what can stand there.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, validate_default=True
    )


FilePath = Annotated[Path, Field(strict=False)]
"""A path in a recipe; relative to the working directory, as in a shell."""

Texts = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
"""One string or a list of them."""

Paths = Annotated[
    tuple[FilePath, ...], Field(strict=False), BeforeValidator(lambda v: (v,) if isinstance(v, str | Path) else v)
]
"""One path or a list of them."""
