"""Whether a decoded object fits a record, without making the record: msgspec's checks on a struct of the same fields.

A row that does not fit is shown to pydantic, which says why; so this may err on one side alone: it may refuse what
pydantic takes, never take what pydantic refuses.
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec
from annotated_types import MinLen

from cirilla_cli.data.rows import Record


@cache
def fitting(model: type[Record]) -> Callable[[dict[str, Any]], bool]:
    """A rule that says whether a decoded JSON object would make a ``model``."""
    struct = _struct(model)

    def fits(data: dict[str, Any]) -> bool:
        try:
            msgspec.convert(data, struct)
        except msgspec.ValidationError:
            return False
        return model.incomplete(data) is None

    return fits


def keys_in(value: Any) -> int:
    """How many keys all objects in a decoded JSON value have together."""
    if type(value) is dict:
        return len(value) + sum([keys_in(v) for v in value.values() if type(v) is dict or type(v) is list])
    return sum([keys_in(v) for v in value if type(v) is dict or type(v) is list])


def _struct(model: type[Record]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for name, field in model.model_fields.items():
        kind = _kind(field.annotation, field.metadata)
        fields.append((name, kind) if field.is_required() else (name, kind, None))
    return msgspec.defstruct(model.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _kind(annotation: Any, metadata: list[Any]) -> Any:
    """The annotation with structs in place of records, and limits as msgspec spells them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], list(arguments[1:]))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return _struct(annotation)
    if origin is tuple:
        least = max((m.min_length for m in metadata if isinstance(m, MinLen)), default=0)
        many: Any = tuple.__class_getitem__((_kind(arguments[0], []), ...))
        return Annotated[many, msgspec.Meta(min_length=least)]
    if type(None) in arguments:
        inner = next(a for a in arguments if a is not type(None))
        return _kind(inner, metadata) | None
    return annotation
