"""A curated set described for people: report.md, and the README.md of an export."""

from collections.abc import Iterable, Mapping
from typing import Any

from cirilla_cli.curate.report import CurateReport


def card(report: CurateReport) -> str:
    """The report as Markdown."""
    parts = [
        f"# {report.rows:,} {report.kind}", "", _summary(report), "",
        *_sides(report), *_lengths(report), *_sources(report), *_evaluation(report),
        *_counts("Kinds", "rows", _of(report, "kinds")), *_counts("Strategies", "rows", _of(report, "strategies")),
        *_counts("Licences", "rows", _of(report, "licences")),
        *_counts("Refused", "rows", report.rejected), *_counts("Repetitions dropped", "rows", report.duplicates),
        *_counts("Unreadable rows", "rows", report.quarantined), *_counts("Left out of rows", "times", report.notes),
    ]  # fmt: skip
    return "\n".join(parts).rstrip() + "\n"


def _summary(report: CurateReport) -> str:
    read = sum(source.get("read", 0) for source in report.sources.values())
    said = f"Made by `cirilla curate` from {read:,} rows of {len(report.sources)} "
    said += "source." if len(report.sources) == 1 else "sources."
    held = {side: split["rows"] for side, split in report.splits.items() if side != "train"}
    if held:
        said += f" Held out by page: {', '.join(f'{rows:,} for {side}' for side, rows in held.items())}."
    if report.made_from:
        said += f" Recipe and inputs: `{report.made_from[:16]}`."
    return said


def _sides(report: CurateReport) -> list[str]:
    rows = [[side, f"{split['rows']:,}", f"{split['characters']:,}"] for side, split in report.splits.items()]
    return _table("Sides", ["side", "rows", "characters"], rows)


def _lengths(report: CurateReport) -> list[str]:
    quantiles = report.splits["train"]["length_quantiles"]
    return _table("Characters of a training row", list(quantiles), [[f"{n:,}" for n in quantiles.values()]])


_COLUMNS = ("read", "rejected", "duplicates", "contaminated", "kept", "validation", "test", "weight", "epochs")


def _sources(report: CurateReport) -> list[str]:
    shown = [column for column in _COLUMNS if any(column in source for source in report.sources.values())]
    rows = [[name, *(_number(source.get(key, 0)) for key in shown)] for name, source in report.sources.items()]
    return _table("Sources", ["source", *shown], rows)


_COMPARED = ("texts", "seen", "leaked", "leaked_share", "resembled", "resembled_share", "rows")


def _evaluation(report: CurateReport) -> list[str]:
    """Texts of each set, those exempt, those found word for word, those that a row resembles, and rows that went."""
    rows = [[name, *(_number(found[key]) for key in _COMPARED)] for name, found in report.evaluation.items()]
    head = ["set", *(key.replace("_", " ") for key in _COMPARED[:-1]), "rows dropped"]
    return _table("Evaluation sets", head, rows) if rows else []


def _of(report: CurateReport, what: str) -> Mapping[str, int]:
    found: Mapping[str, int] = report.splits["train"].get(what, {})
    return found


def _counts(title: str, unit: str, counts: Mapping[str, int]) -> list[str]:
    return _table(title, ["", unit], [[name, f"{count:,}"] for name, count in counts.items()]) if counts else []


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _table(title: str, head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"## {title}", "", *("| " + " | ".join(map(_cell, line)) + " |" for line in lines), ""]


def _cell(text: str) -> str:
    """Text that cannot end its cell."""
    return " ".join(text.replace("|", "\\|").split())
