"""Scores as a table of plain text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cirilla_cli.evals.run import Scores

_GROUPS = ("seen", "unseen", "held_out")
_LABELS = 20
"""Labels of a classifier that have a line each."""


def table(scores: "Scores") -> str:
    """One line a measure, one column a model, 95% intervals in brackets; aligned, and readable without colour."""
    rows = [["task", "n", *scores.columns]]
    for name, scored in scores.tasks.items():
        rows += [[label, *cells] for label, cells in _lines(name, scored, scores.columns)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        row[0].ljust(widths[0]),
        row[1].rjust(widths[1]),
        *(c.ljust(w) for c, w in zip(row[2:], widths[2:], strict=True)),
    ]
    return "  ".join(cells).rstrip()


def _lines(name: str, scored: Mapping[str, Any], columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The lines of one task: label, then n and the cell of each column."""
    numbers = [scored[column] for column in columns]
    match scored["kind"]:
        case "text":
            yield (
                f"{name}: bits per byte",
                [str(numbers[0]["documents"]), *(_value(n, "bits_per_byte", "interval") for n in numbers)],
            )
            yield (
                f"{name}: perplexity per token",
                [str(numbers[0]["tokens"]), *(_value(n, "perplexity") for n in numbers)],
            )
        case "preferences":
            yield f"{name}: chosen likelier", [str(numbers[0]["n"]), *map(_share, numbers)]
            yield (
                f"{name}: margin, nats",
                [str(numbers[0]["n"]), *(_value(n, "margin", "margin_interval") for n in numbers)],
            )
        case "classification":
            n = str(numbers[0]["n"])
            yield f"{name}: accuracy", [n, *map(_share, numbers)]
            yield f"{name}: macro F1", [n, *(_value(number, "macro_f1") for number in numbers)]
            yield from _by_label(name, numbers)
        case "reasoning_gym":
            yield f"{name}: unseen instances", [str(numbers[0]["n"]), *map(_share, numbers)]
        case _:
            for group in _GROUPS:
                if group in numbers[0]:
                    yield f"{name}: {group}", [str(numbers[0][group]["n"]), *(_share(n[group]) for n in numbers)]


def _by_label(name: str, numbers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """F1 of the first labels, one a line; a model that does not know a label has none."""
    labels = list(numbers[0]["labels"])
    for label in labels[:_LABELS]:
        shown = "".join(char if char.isprintable() else " " for char in label)
        cells = [_value(n["labels"].get(label, {"f1": None}), "f1") for n in numbers]
        yield f"{name}: F1 of {shown}", [str(numbers[0]["labels"][label]["n"]), *cells]
    if len(labels) > _LABELS:
        yield f"{name}: F1 of {len(labels) - _LABELS} more labels is in scores.json", ["", *("" for _ in numbers)]


def _share(numbers: Mapping[str, Any]) -> str:
    if numbers["accuracy"] is None:
        return "-"
    low, high = numbers["interval"]
    return f"{numbers['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _value(numbers: Mapping[str, Any], key: str, interval: str | None = None) -> str:
    if numbers[key] is None:
        return "-"
    text = f"{numbers[key]:.4g}"
    bounds = numbers[interval] if interval else None
    return text if bounds is None else f"{text} [{bounds[0]:.4g}, {bounds[1]:.4g}]"
