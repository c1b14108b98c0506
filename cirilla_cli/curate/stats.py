"""What a set of rows amounts to: numbers, lengths, kinds, sources, licences."""

from array import array
from collections import Counter
from typing import Any

from cirilla_cli.curate.base import Row, size_of
from cirilla_cli.data.rows import Document

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
"""In per cent; of lengths in characters."""


class Tally:
    """Counts rows one by one; four bytes a row are kept for exact quantiles."""

    def __init__(self) -> None:
        self._lengths = array("I")
        self._kinds, self._sources, self._licences = Counter[str](), Counter[str](), Counter[str]()
        self._strategies = Counter[str]()

    @property
    def rows(self) -> int:
        """Rows counted."""
        return len(self._lengths)

    def add(self, row: Row, source: str, times: int = 1) -> None:
        """Count a row."""
        self._lengths.extend([size_of(row)] * times)
        self._sources[source] += times
        if isinstance(row, Document):
            self._kinds["document"] += times
            self._licences[row.license.name if row.license else "not stated"] += times
        else:
            self._kinds[row.kind] += times
            self._strategies[row.generator.strategy] += times

    def as_dict(self) -> dict[str, Any]:
        """The numbers, as report.json has them."""
        found: dict[str, Any] = {
            "rows": len(self._lengths), "characters": sum(self._lengths), "length_quantiles": self._quantiles(),
            "kinds": _by_count(self._kinds), "sources": _by_count(self._sources),
        }  # fmt: skip
        if self._licences:
            found["licences"] = _by_count(self._licences)
        if self._strategies:
            found["strategies"] = _by_count(self._strategies)
        return found

    def _quantiles(self) -> dict[str, int]:
        """The length at or below which so many per cent of rows lie (the nearest rank)."""
        ordered = sorted(self._lengths)
        last = len(ordered) - 1
        return {f"{q}%": ordered[min(last, max(0, -(-q * len(ordered) // 100) - 1))] for q in QUANTILES if ordered}


def _by_count(counter: Counter[str]) -> dict[str, int]:
    """The commonest first, equals by name: the same on every run."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
