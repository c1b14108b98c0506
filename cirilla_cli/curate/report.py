"""What came of curating: the numbers, and who counts them while rows go by."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cirilla_cli.curate.stats import Tally

VERSION = 1
"""Of report.json."""


@dataclass
class CurateReport:
    """What was kept and what was not; but for `seconds` the same for the same inputs."""

    out: str
    kind: str
    """`documents` or `samples`."""
    rows: int
    """Rows to train on."""
    sources: dict[str, dict[str, Any]]
    """Of each source: path, sha256, rows read, and how many went where."""
    splits: dict[str, dict[str, Any]]
    """Of train, validation and test: file, rows, characters, lengths, kinds, sources, licences."""
    rejected: dict[str, int]
    """Rows that a filter or the split refused, by reason."""
    duplicates: dict[str, int]
    """Dropped repetitions by method."""
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each question set or text: path, sha256, and the rows that went because they hold it."""
    quarantined: dict[str, int] = field(default_factory=dict)
    """Rows that could not be read, by reason."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was left out of rows that could be read."""
    export: str | None = None
    """The folder of Parquet files."""
    version: int = VERSION
    made_from: str | None = None
    """Hash of the recipe's section, its inputs and the program's version; None where a source was a stream."""
    seconds: float = 0.0
    already_done: bool = False

    def summary(self) -> str:
        """The numbers in one line."""
        held = [f"{split['rows']:,} for {side}" for side, split in self.splits.items() if side != "train"]
        gone = {"rejected": self.rejected, "repeated": self.duplicates, "unreadable": self.quarantined}
        lost = [f"{sum(counts.values()):,} {name}" for name, counts in gone.items() if counts]
        return ", ".join([f"{self.rows:,} {self.kind}", *held, *lost])

    def as_dict(self) -> dict[str, Any]:
        """What report.json holds: the same for the same inputs."""
        return {key: value for key, value in asdict(self).items() if key not in ("seconds", "already_done")}


class Account:
    """Counts what happens to rows."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.by_source = {name: Counter[str]() for name in sources}
        self.rejected, self.duplicates, self.hits = Counter[str](), Counter[str](), Counter[str]()
        self.tallies: dict[str, Tally] = {}

    def count(self, source: str, what: str) -> None:
        """One more row of a source that was read, kept, or went."""
        self.by_source[source][what] += 1

    def tally(self, side: str) -> Tally:
        """What counts the rows of one side."""
        return self.tallies.setdefault(side, Tally())


def ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest first, equals by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
