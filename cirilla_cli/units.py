"""Numbers as people write them in recipes: ``200M``, ``16GiB``, ``30min``, ``1%``; and back again."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_BYTES = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SECONDS = {"": 1, "ms": 1e-3, "s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"^\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z%]*)\s*$")


def _scaled(value: Any, units: dict[str, float], example: str) -> Any:
    """A number times its unit; anything that is not a string comes back untouched for pydantic to judge."""
    if not isinstance(value, str):
        return value
    match = _NUMBER.match(value)
    if match is None or match[2] not in units:
        raise ValueError(f"must be a number with or without a unit, such as {example}")
    return float(match[1]) * units[match[2]]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_count(value: Any) -> Any:
    """``"200M"`` -> 200000000; ``k M B`` are powers of ten, ``Ki Mi Gi`` of two."""
    return _whole(_scaled(value, dict(_COUNTS), "4096, 64Ki or 200M"))


def parse_bytes(value: Any) -> Any:
    """``"16GiB"`` -> 17179869184; ``GB`` is a power of ten."""
    return _whole(_scaled(value, dict(_BYTES), "500MB or 16GiB"))


def parse_seconds(value: Any) -> Any:
    """``"30min"`` -> 1800.0."""
    return _scaled(value, dict(_SECONDS), "45s, 30min or 8h")


def parse_fraction(value: Any) -> Any:
    """``"1%"`` -> 0.01; plain numbers pass."""
    return _scaled(value, {"": 1, "%": 0.01}, "0.01 or 1%")


def parse_span(value: Any) -> Any:
    """A part of a run: ``"1%"`` and ``1.0`` are a share (float), ``1``, ``100`` and ``"2k"`` a number of steps (int).

    Text means what it would mean without quotes: ``"1.0"`` is the whole run, ``"1"`` one step.
    """
    if isinstance(value, str):
        match = _NUMBER.match(value)
        as_share = match is not None and (match[2] == "%" or not (match[2] or re.fullmatch(r"[-+]?[\d_]+", match[1])))
        value = parse_fraction(value) if as_share else parse_count(value)
    if isinstance(value, float) and value > 1:
        raise ValueError("must be a whole number of steps, or a share of the run such as 0.01 or 1%")
    return value


def _schema(kind: str, unit: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "string", "pattern": unit}]})


_NUM = r"^[-+]?[0-9_.]+([eE][-+]?[0-9]+)?"
Count = Annotated[int, BeforeValidator(parse_count), _schema("integer", _NUM + "(k|M|B|Ki|Mi|Gi)?$")]
PositiveCount = Annotated[
    int, Field(gt=0), BeforeValidator(parse_count), _schema("integer", _NUM + "(k|M|B|Ki|Mi|Gi)?$")
]
Bytes = Annotated[int, Field(gt=0), BeforeValidator(parse_bytes), _schema("integer", _NUM + "([kKMGT]i?B)?$")]
Seconds = Annotated[
    float, Field(ge=0), BeforeValidator(parse_seconds), _schema("number", _NUM + "(ms|s|sec|min|h|d)?$")
]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(parse_fraction), _schema("number", _NUM + "%?$")]
PartialShare = Annotated[float, Field(ge=0, lt=1), BeforeValidator(parse_fraction), _schema("number", _NUM + "%?$")]
"""A `Fraction` that leaves something over."""
InnerShare = Annotated[float, Field(gt=0, lt=1), BeforeValidator(parse_fraction), _schema("number", _NUM + "%?$")]
"""A `Fraction` that takes something and leaves something over."""
Span = Annotated[int | float, Field(ge=0), BeforeValidator(parse_span), _schema("number", _NUM + "(%|k|M)?$")]
"""Steps as a whole number, or a fraction of the run (``1%`` or ``0.01``)."""


def span_steps(span: int | float, total: int) -> int:
    """Steps in a `Span` of a run of ``total`` steps; a fraction is rounded to the nearest step."""
    return span if isinstance(span, int) else round(span * total)


def show_count(n: float) -> str:
    """1234567 -> ``1.23M``."""
    return _shown(n, ((1e9, "B"), (1e6, "M"), (1e3, "k")), f"{n:.4g}")


def show_bytes(n: float) -> str:
    """1610612736 -> ``1.5 GiB``."""
    return _shown(n, ((2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB")), f"{int(n)} B")


def _shown(n: float, units: Sequence[tuple[float, str]], small: str) -> str:
    """Three digits of the largest unit that is there, more where it takes more, and never an exponent."""
    for i, (factor, unit) in enumerate(units):
        if abs(n) >= factor:
            part = n / factor
            if abs(part) < 999.5:
                return f"{part:.3g}{unit}"
            if i and round(abs(part)) * factor >= units[i - 1][0]:
                return f"{n / units[i - 1][0]:.3g}{units[i - 1][1]}"
            return f"{part:.0f}{unit}"
    return small


def show_seconds(seconds: float) -> str:
    """3725 -> ``1 h 02 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
