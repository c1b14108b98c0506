"""Whether lines of JSON fit a record, without making the record: msgspec's checks on a struct of the same fields.

Lines that do not fit are shown to `json` and pydantic, which say why; so this may err on one side alone: it may refuse
what they take, never take what they refuse.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec
from annotated_types import MinLen

from cirilla_cli.data.rows import Record

_encode = msgspec.json.Encoder().encode


class Sieve:
    """Takes lines that are certainly rows of one of some models; what it leaves may be right all the same."""

    def __init__(self, *models: type[Record]) -> None:
        self._rules = [_rule(model) for model in models]
        self.taken = 0
        """Lines taken so far."""

    def takes(self, lines: Sequence[bytes]) -> bool:
        """Whether all of ``lines`` are rows of the same model."""
        for place, rule in enumerate(self._rules):
            if rule(lines):
                # The next lines are probably of the same kind.
                self._rules.insert(0, self._rules.pop(place))
                self.taken += len(lines)
                return True
        return False


@cache
def _rule(model: type[Record]) -> Callable[[Sequence[bytes]], bool]:
    """A rule that says whether each of some lines certainly makes a ``model``."""
    decode = msgspec.json.Decoder(_struct(model)).decode

    def fits(lines: Sequence[bytes]) -> bool:
        try:
            rows = [decode(line) for line in lines]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return is_whole(b"".join(lines), rows) and not any([model.incomplete(row) for row in rows])

    return fits


def is_whole(raw: bytes, value: Any) -> bool:
    """Whether ``value``, decoded from ``raw``, is all of it, and no key was overwritten by its like.

    A repeated key leaves quotes that are not there when the value is encoded again. The one other thing that changes
    their number is a quote that is written as a number.
    """
    return raw.count(b'"') == _encode(value).count(b'"') and b"\\u0022" not in raw


def _struct(model: type[Record]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for name, field in model.model_fields.items():
        kind = _kind(field.annotation, field.metadata)
        fields.append((name, kind) if field.is_required() else (name, kind | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(model.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False)


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
