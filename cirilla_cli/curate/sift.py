"""Decides about every row: it goes to the training rows, to a side that is held out, or to a file that says why not."""

from collections.abc import Iterator
from typing import Any, Literal

from cirilla_cli.curate.base import Filter, Row, size_of
from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.decontaminate import Decontaminator, read_eval_sets
from cirilla_cli.curate.duplicates import Deduper
from cirilla_cli.curate.mixture import Mixer, reorder
from cirilla_cli.curate.outputs import Outputs
from cirilla_cli.curate.places import Places
from cirilla_cli.curate.report import Account, CurateReport, ordered
from cirilla_cli.curate.split import SIDES, sides_of
from cirilla_cli.curate.verdict import VERDICT, Judge, Verdict
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.intake import Intake
from cirilla_cli.data.jsonl import Complaints, read_records
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_file
from cirilla_cli.progress import Progress

Kind = Literal["documents", "samples"]
Rows = Iterator[tuple[str, Row]]
"""Rows with the name of their source."""

_EVERY = 1000
"""Rows between two looks at the clock."""


class Sifter:
    """Sends every row where it belongs, and counts."""

    def __init__(
        self, config: CurateConfig, places: Places, outputs: Outputs, seed: int, progress: Progress,
        spread: Spread = ALONE,
    ) -> None:  # fmt: skip
        self.config, self.places, self.outputs, self.progress, self._spread = config, places, outputs, progress, spread
        self.account = Account(config.sources)
        self._filters: dict[str, Filter] = {name: section.build() for name, section in config.filters.items()}
        sets = read_eval_sets({name: places.files(path) for name, path in config.evaluation.items()})
        self._finder = Decontaminator(config.contamination, sets) if sets else None
        weights = {name: source.weight for name, source in config.sources.items() if source.weight is not None}
        self._mixer = Mixer(config.mixture, weights, seed) if weights else None
        self._kind: Kind | None = None
        self._first = ""
        self._intake = Intake()
        self._epochs: dict[str, float] = {}

    def look(self) -> None:
        """Show every row to the filters that must see all before they judge one."""
        early = [rule for rule in self._filters.values() if rule.reads_twice]
        if early:
            for name, row in self._read():
                for rule in early:
                    rule.look(row, name)

    def sift(self) -> None:
        """Read every source, in order, and decide about each row."""
        for name, row in self._unique(self._stayed()):
            sides = sides_of(row, self.config.split)
            if len(sides) > 1:
                numbers = {"sides": ", ".join(sorted(sides))}
                self._reject(name, row, "split: tells of pages on both sides", numbers)
            else:
                self._keep(name, row, *sides)

    def _read(self) -> Rows:
        """Every row with its source; what cannot be read is set aside, or refused where there is no place for it."""
        rejects = self.outputs.partial("quarantine") if self.outputs.side is not None else None
        with Intake(rejects) as self._intake:
            for name, source in self.config.sources.items():
                for row in read_inputs(self.places.files(source.path), format=source.format, intake=self._intake):
                    yield name, row

    def _counted(self, rows: Rows) -> Rows:
        for number, (name, row) in enumerate(rows, 1):
            self._check_kind(name, row)
            self.account.count(name, "read")
            if number % _EVERY == 0:
                self.progress.step("curate", number, None)
            yield name, row

    def _check_kind(self, name: str, row: Row) -> None:
        kind: Kind = "documents" if isinstance(row, Document) else "samples"
        if self._kind is None:
            self._kind, self._first = kind, name
            self.outputs.choose(kind)
        elif kind != self._kind:
            other = "others" if name == self._first else f"source `{self._first}`"
            raise CirillaError(
                f"rows of source `{name}` are {kind}, {other} {self._kind}: a set is of one kind",
                hint="curate documents and samples by a recipe each, with the same `split` in both",
            )

    def judged(self) -> Iterator[tuple[tuple[str, Row], Verdict]]:
        """The rows that are judged here, with what is said of each by itself; all are read."""
        judge, rows = Judge(self._filters, self._finder), self._counted(self._read())
        return self._spread.each(rows, lambda one: f"{one[0]}/{one[1].id}", judge.verdicts, VERDICT)

    def _stayed(self) -> Rows:
        """The rows that are good enough and hold nothing of the evaluation sets.

        Before duplicates, so that no clean row goes for the sake of one that goes itself.
        """
        for (name, row), verdict in self.judged():
            leak = verdict.finding.leak
            if self._finder is not None:
                self._finder.count(verdict.finding)
            if verdict.refused is not None:
                self._reject(name, row, verdict.refused.reason, verdict.refused.numbers)
            elif leak is not None:
                self._reject(name, row, leak.reason, leak.row())
            else:
                yield name, verdict.changed or row

    def _unique(self, rows: Rows) -> Rows:
        """The rows that repeat none before them."""
        if self.config.duplicates is None:
            yield from rows
            return
        for name, row, found in Deduper(self.config.duplicates).checked(rows):
            if found is None:
                yield name, row
                continue
            self.account.duplicates[found.method] += 1
            self.account.count(name, "duplicates")
            self.outputs.write("duplicates", found.row())

    def _reject(self, name: str, row: Row, reason: str, numbers: dict[str, Any]) -> None:
        self.account.rejected[reason] += 1
        self.account.count(name, "rejected")
        self.outputs.write("rejected", {"id": row.id, "source": name, "reason": reason, "numbers": numbers})

    def _keep(self, name: str, row: Row, side: str) -> None:
        self.account.count(name, "kept" if side == "train" else side)
        self.outputs.write(side, row)
        if side == "train" and self._mixer is not None:
            self._mixer.add(name, row.id, size_of(row))
            return
        self.account.tally(side).add(row, name)

    def finish(self) -> CurateReport:
        """Mix the training rows, and add everything up.

        Raises:
            CirillaError: no row is left to train on.
        """
        self._refuse_empty()
        self.outputs.close()
        if self._intake.rejected:
            self.outputs.adopt("quarantine")
        if self._mixer is not None:
            self._mix(self._mixer)
        assert self._kind is not None
        train = self.account.tally("train")
        return CurateReport(
            out=str(self.outputs.out), kind=self._kind, rows=train.rows, sources=self._sources(), splits=self._splits(),
            rejected=ordered(self.account.rejected), duplicates=ordered(self.account.duplicates),
            evaluation=self._compared(), quarantined=ordered(self._intake.rejected), notes=ordered(self._intake.notes),
        )  # fmt: skip

    def _refuse_empty(self) -> None:
        if any(counts["kept"] for counts in self.account.by_source.values()):
            return
        if self._kind is None:
            Complaints.raise_if_any(self._intake)  # not one row could be read
        why = ordered(self.account.rejected) | ordered(self.account.duplicates)
        reasons = "; ".join(f"{count} {reason}" for reason, count in list(why.items())[:5])
        raise CirillaError(
            f"no rows are left to train on: {reasons or 'the sources hold none'}",
            hint="look at the limits of curate.filters, and at curate.split",
        )

    def _mix(self, mixer: Mixer) -> None:
        """Write the training rows anew, in the mixture's numbers and order."""
        plan = mixer.plan()
        self._epochs = plan.epochs
        path, tally = self.outputs.partial("train"), self.account.tally("train")
        rows: Iterator[Row] = read_records(path, Document) if self._kind == "documents" else read_records(path, Sample)
        for number, row in enumerate(rows):
            tally.add(row, mixer.source(number), int(plan.times[number]))
        reorder(path, plan.rows)

    def _sources(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, source in self.config.sources.items():
            path = source.path
            counts = dict(self.account.by_source[name])
            found[name] = {"path": self.places.name(path), "sha256": self.places.digest(path), **counts}
            if source.weight is not None:
                found[name] |= {"weight": source.weight, "epochs": self._epochs[name]}
        return found

    def _compared(self) -> dict[str, dict[str, Any]]:
        paths = self.config.evaluation
        return {
            name: {"path": self.places.name(paths[name]), "sha256": self.places.digest(paths[name]), **found}
            for name, found in (self._finder.report() if self._finder else {}).items()
        }

    def _splits(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for side in (side for side in SIDES if side in self.account.tallies):
            tally = self.account.tallies[side]
            place: dict[str, Any] = {}
            if self.outputs.side is not None:
                place = {"file": str(self.outputs.path(side)), "sha256": hash_file(self.outputs.partial(side))}
            found[side] = {**place, **tally.as_dict()}
        return found
