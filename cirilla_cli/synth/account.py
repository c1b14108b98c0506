"""What a run made, as a page to read: how many rows of what, what was rejected and why, with examples."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.fs import write_text

_EXAMPLES = 3
_EXAMPLE_CHARS = 300


def write_account(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``folder/summary.md`` from the report and the rejects that lie there.

    What a sitting took, in time and requests, stands in the report alone: this page is the same however often the work
    was cut short or shared out.
    """
    parts = [
        f"# Samples\n\n{report['samples']:,} samples of {report['pages']:,} pages.",
        _table("made by", report["by_strategy"]),
        _table("dropped as repetitions", report["duplicates"]),
        _table("rejected because", report["rejected"]),
        *_examples(folder / "rejects.jsonl"),
    ]
    write_text(folder / "summary.md", "\n\n".join(part for part in parts if part) + "\n")


def _table(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join([f"| {title} | rows |", "|---|---|", *(f"| {name} | {count:,} |" for name, count in ordered)])


def _examples(rejects: Path) -> Iterable[str]:
    """The first rejects of each reason, on a line each."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(rejects, Complaints()):
        reason = str(row.data["reason"])
        if len(found[reason]) < _EXAMPLES:
            rest = {key: value for key, value in row.data.items() if key not in ("id", "reason")}
            found[reason].append(f"- `{_line(row.data['id'])}` {_line(rest)}")
    return [f"## {reason}\n\n" + "\n".join(lines) for reason, lines in sorted(found.items())]


def _line(value: Any) -> str:
    """On one line, and nothing that Markdown or a terminal obeys."""
    text = ascii(value)[1:-1].replace("`", "'").replace("<", "&lt;").replace("|", "&#124;")
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:_EXAMPLE_CHARS]}..."
