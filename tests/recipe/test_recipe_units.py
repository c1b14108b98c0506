"""Numbers with units, and what tells a share of a run from a number of steps."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cirilla_cli.recipe.tree import scalar
from cirilla_cli.units import Span, show_bytes, show_count, span_steps

SPAN: TypeAdapter[int | float] = TypeAdapter(Span)
WRITTEN = [
    ("1.0", 200), ("1", 1), ("100%", 200), ("1%", 2), ("0.5", 100), ("0.01", 2), ("0", 0), ("0.0", 0), ("0%", 0),
    ("150", 150), ("2k", 2000), ("1_000", 1000), ("1e-2", 2), ("1Ki", 1024),
]  # fmt: skip


def spans(text: str) -> list[Any]:
    """What a recipe holds where the text stands bare, and where it stands in quotes."""
    return [scalar(text), text]


@pytest.mark.parametrize(("text", "steps"), WRITTEN)
def test_a_span_is_a_number_of_steps_or_a_share_of_the_run(text: str, steps: int) -> None:
    for written in spans(text):
        span = SPAN.validate_python(written, strict=True)
        assert span_steps(span, 200) == steps
        again = SPAN.validate_python(scalar(repr(span)), strict=True)
        assert (type(again), again) == (type(span), span), "as a resolved recipe is written and read"


@pytest.mark.parametrize("text", ["1.5", "2.0", "101%", "1e2", "-1", "-0.5", "-1%", "many", "true"])
def test_a_share_above_the_whole_and_anything_else_is_refused(text: str) -> None:
    for written in spans(text):
        with pytest.raises(ValidationError):
            SPAN.validate_python(written, strict=True)


@pytest.mark.parametrize(
    ("shown", "text"),
    [(show_bytes(1023 << 20), "1023 MiB"), (show_bytes(1000 << 10), "1000 KiB"), (show_count(999_999), "1M"),
     (show_bytes((1 << 30) - 1), "1 GiB"), (show_bytes(5e20), "454747351 TiB"), (show_count(12_345_678), "12.3M"),
     (show_count(5e13), "50000B")],
)  # fmt: skip
def test_sizes_are_shown_without_exponents(shown: str, text: str) -> None:
    assert shown == text
