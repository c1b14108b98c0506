"""What is said of a row by itself, before it is compared with others: this a part can say on another machine."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from cirilla_cli.curate.base import Filter, Refused, Row
from cirilla_cli.curate.decontaminate import Decontaminator, Finding, Leak, next_batch
from cirilla_cli.data.parts import Form
from cirilla_cli.data.rows import Document, Sample


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the filters and the evaluation sets say of a row."""

    refused: Refused | None = None
    """Why a filter refuses it, the filter's name before the reason."""
    changed: Row | None = None
    """What the filters made of it; None where it stayed as it was."""
    finding: Finding = Finding()
    """What it has of the evaluation sets."""


class Judge:
    """Filters rows, and compares those that stay with the evaluation sets, some thousands at a time.

    Args:
        filters: by name, in their order.
        finder: the evaluation sets; None where there are none.
    """

    def __init__(self, filters: dict[str, Filter], finder: Decontaminator | None) -> None:
        self._filters, self._finder = filters, finder

    def verdicts(self, rows: Iterator[tuple[str, Row]]) -> Iterator[Verdict]:
        """One for each row beside its source's name, in order; each a pure function of its row."""
        while batch := next_batch(rows):
            filtered = [self._filtered(name, row) for name, row in batch]
            found = self._found(batch, filtered)
            yield from (one if one.refused else replace(one, finding=next(found)) for one in filtered)

    def _filtered(self, name: str, row: Row) -> Verdict:
        """Tasks are generated, and judged by their answers."""
        first, rules = row, {} if isinstance(row, Sample) and row.kind == "task" else self._filters
        for rule_name, rule in rules.items():
            judged = rule.apply(row, name)
            if isinstance(judged, Refused):
                return Verdict(Refused(f"{rule_name}: {judged.reason}", judged.numbers))
            row = judged
        return Verdict(changed=None if row is first else row)

    def _found(self, batch: list[tuple[str, Row]], filtered: list[Verdict]) -> Iterator[Finding]:
        stay = [(name, one.changed or row) for (name, row), one in zip(batch, filtered, strict=True) if not one.refused]
        return iter([Finding()] * len(stay)) if self._finder is None else self._finder.findings(stay)


def _dump(verdict: Verdict) -> Any:
    refused, changed, finding = verdict.refused, verdict.changed, verdict.finding
    leak = finding.leak and asdict(finding.leak)
    return {
        "refused": refused and [refused.reason, refused.numbers],
        "changed": changed and changed.model_dump(mode="json", exclude_none=True),
        "finding": [leak, finding.held, finding.alike],
    }


def _load(data: Any) -> Verdict:
    leak, held, alike = data["finding"]
    changed = data["changed"]
    row = Sample if changed and "messages" in changed else Document
    return Verdict(
        data["refused"] and Refused(*data["refused"]),
        changed and row.model_validate(changed),
        Finding(leak and Leak(**leak), tuple(held), tuple(alike)),
    )


VERDICT: Form[Verdict] = Form(_dump, _load)
