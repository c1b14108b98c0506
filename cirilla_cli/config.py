"""The base of every recipe section."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


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


class ByKind:
    """Marks a union of sections that are told apart by their `kind`; a section's checks are made when it is met.

    What pydantic's own `Field(discriminator="kind")` does, which makes the checks of all members at the first recipe.
    """

    def __get_pydantic_core_schema__(self, union: Any, handler: Callable[[Any], "CoreSchema"]) -> "CoreSchema":
        from pydantic_core import core_schema

        choices = {
            member.model_fields["kind"].default: core_schema.no_info_plain_validator_function(member.model_validate)
            for member in get_args(union)
        }
        return core_schema.tagged_union_schema({**choices}, discriminator="kind", metadata={"union": union})

    def __get_pydantic_json_schema__(
        self, schema: "CoreSchema", handler: Callable[["CoreSchema"], "JsonSchemaValue"]
    ) -> "JsonSchemaValue":
        from pydantic import TypeAdapter

        assert schema["type"] == "tagged-union"
        union = schema["metadata"]["union"]
        told_apart: Any = Annotated[union, Field(discriminator="kind")]
        return handler(TypeAdapter(told_apart).core_schema)


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
