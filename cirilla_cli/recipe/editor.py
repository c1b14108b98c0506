"""Recipes as JSON Schema, for editors."""

from typing import Any, Union

from pydantic import BaseModel, TypeAdapter

from cirilla_cli.recipe.fields import doc, keys, sections_of
from cirilla_cli.recipe.schema import VERBS, schema_for

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(verb: str | None = None, partial: bool = False) -> dict[str, Any]:
    """The JSON Schema of a verb's recipes, or of all of them.

    Args:
        verb: None for a schema that takes the recipe of any verb.
        partial: require nothing, for files that extend others.
    """
    verbs = [verb] if verb else list(VERBS)
    recipes = tuple(schema_for(name) for name in verbs)
    union: Any = Union[recipes]  # noqa: UP007  built from a tuple
    schema = TypeAdapter(union).json_schema(by_alias=True, ref_template="#/$defs/{model}")
    _document(schema, recipes)
    schema = _any_of(schema)
    if partial:
        schema = _nothing_required(schema)
    title = f"Recipe of cirilla {verb}" if verb else "Recipe of cirilla"
    return {"$schema": _DRAFT, **schema, "title": title}


def _document(schema: dict[str, Any], recipes: tuple[type[BaseModel], ...]) -> None:
    """Put the string under each field into its property as `description`."""
    defs = schema.get("$defs", {})
    todo, done = list(recipes), set[type[BaseModel]]()
    while todo:
        section = todo.pop()
        if section in done:
            continue
        done.add(section)
        properties = _definition(section, schema, defs).get("properties", {})
        for key, info in keys(section).items():
            if key in properties and (text := doc(section, key)):
                properties[key]["description"] = text
            todo += [inner for _, inner in sections_of(info.annotation, ())]


def _definition(section: type[BaseModel], schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that describes a section; classes of one name are told apart by their modules."""
    qualified = f"{section.__module__}.{section.__qualname__}".replace(".", "__")
    found: dict[str, Any] = defs.get(section.__name__) or defs.get(qualified) or schema
    return found


def _any_of(schema: Any) -> Any:
    """A copy with `anyOf` for `oneOf`: a section may leave out the `kind` its default has, and then fits several."""
    if isinstance(schema, list):
        return [_any_of(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "anyOf" if key == "oneOf" else key: _any_of(value) for key, value in schema.items() if key != "discriminator"
    }


def _nothing_required(schema: Any) -> Any:
    """A copy without any list of required keys; a property that happens to be called so stays."""
    if isinstance(schema, list):
        return [_nothing_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _nothing_required(value)
        for key, value in schema.items()
        if not (key == "required" and isinstance(value, list))
    }
