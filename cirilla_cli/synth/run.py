"""Make samples: read documents, run the source, drop repetitions, write rows and an account of what went."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.curate.duplicates import Deduper
from cirilla_cli.data.config import FormatName
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.jsonl import STDIO, JsonlWriter, close_all
from cirilla_cli.data.rows import Document, Question, Record, Sample
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_path, write_json
from cirilla_cli.progress import Progress
from cirilla_cli.synth.account import write_account
from cirilla_cli.synth.base import OVERLONG, Made, Rejected, Spent, Synthesizer
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.preview import Preview, preview
from cirilla_cli.verify.match import normalise


@dataclass(slots=True)
class SynthReport:
    """What was made and what was not."""

    out: str
    samples: int = 0
    by_strategy: dict[str, int] = field(default_factory=dict)
    by_kind: dict[str, int] = field(default_factory=dict)
    questions_seen: int = 0
    questions_unseen: int = 0
    pages: int = 0
    """Distinct parents of samples."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Rejects by reason."""
    duplicates: dict[str, int] = field(default_factory=dict)
    """Dropped repetitions by method."""
    inputs: list[dict[str, str]] = field(default_factory=list)
    """Path and SHA-256 of each file of documents that was read; standard input leaves nothing to compare with."""
    source: dict[str, Any] = field(default_factory=dict)
    """What made the samples: the recipe's section."""
    spent: dict[str, Any] | None = None
    """Of a teacher: requests, tokens, and seconds of waiting."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)


def synthesize(config: SynthConfig, out: Path, progress: Progress, source: Synthesizer | None = None) -> SynthReport:
    """Run ``config.source`` and write what it makes.

    Args:
        config: the source, its inputs, and how repetitions are dropped.
        out: a folder (samples.jsonl, questions.jsonl, rejects.jsonl, duplicates.jsonl, report.json, summary.md), a file
            FILE.jsonl (the others go to the folder FILE.synth beside it), or `-` (samples to standard output as soon
            as they are made, nothing else). Files appear only when all is done.
        progress: who watches.
        source: what makes the rows; None: what the section builds.

    Raises:
        CirillaError: bad input rows (all of them named), or nothing could be made.
        ServiceError: a teacher does not answer.
    """
    started = time.monotonic()
    main, side = places(out)
    source = config.source.build(side) if source is None else source
    documents = documents_of(config, source)
    with _Sink(main, side, config) as sink:
        for made in source.make(documents, progress):
            sink.take(made)
        sink.finish(config, progress)
    files = [path for path in map(rows_at, config.inputs) if path != STDIO]
    sink.report.inputs = [{"path": str(path), "sha256": hash_path(path)} for path in files]
    sink.report.source = config.source.model_dump(mode="json")
    sink.report.seconds = round(time.monotonic() - started, 3)
    if side is not None:
        write_json(side / "report.json", sink.report.as_dict())
        write_account(side, sink.report.as_dict())
    return sink.report


def look(config: SynthConfig, out: Path, count: int, progress: Progress) -> Preview:
    """The first rows of `synthesize`, and what all of them would take; see `preview`.

    Raises:
        CirillaError: standard input, of which the rows would be gone for the run itself.
    """
    if STDIO in config.inputs:
        raise CirillaError("--preview reads its inputs twice, and standard input can be read once", hint="name a file")
    return preview(config, places(out)[1], lambda source: documents_of(config, source), count, progress)


def places(out: Path) -> tuple[Path, Path | None]:
    """The samples file, and the folder for what stands beside it (None: standard output alone)."""
    if out == STDIO:
        return STDIO, None
    if out.suffix == ".jsonl":
        return out, out.with_name(f"{out.stem}.synth")
    return out / "samples.jsonl", out


def documents_of(config: SynthConfig, source: Synthesizer) -> Iterator[Document]:
    """What ``source`` reads, nothing where it reads none.

    Raises:
        CirillaError: `inputs` names documents for a source that reads none, or none for one that does; rows are wrong.
    """
    if not source.reads_documents:
        if config.inputs:
            raise CirillaError(f"source `{config.source.kind}` reads no documents, but `inputs` names some")
        return iter(())
    if not config.inputs:
        raise CirillaError(
            f"source `{config.source.kind}` needs documents, and `inputs` names none",
            hint="cirilla scrape --dump FILE --out documents.jsonl, then cirilla synth documents.jsonl",
        )
    return _read(config.inputs, config.format)


def _read(inputs: Iterable[Path], format: FormatName | None) -> Iterator[Document]:
    """The documents of all inputs in order; complaints about rows come at the end.

    Raises:
        CirillaError: a row is none of what is read, or is a sample.
    """
    for record in read_inputs(map(rows_at, inputs), format=format):
        if not isinstance(record, Document) or record.generator is not None:
            raise CirillaError(
                f"`inputs` hold samples (first: {record.id}), and samples are made from pages",
                hint="documents.jsonl, rows with `text`, or text files",
            )
        yield record


def rows_at(path: Path) -> Path:
    """The file or folder of documents that an input means."""
    inside = path / "documents.jsonl"
    return inside if path != STDIO and inside.is_file() else path


class _Sink:
    """Writes rows to temporary files that get their names when everything is done."""

    def __init__(self, main: Path, side: Path | None, config: SynthConfig) -> None:
        self.report = SynthReport(str(main))
        self._deduper = Deduper(config.dedupe)
        self._side = side
        self._trained: dict[str, tuple[str, ...]] = {}
        self._questions: list[Question] = []
        self._parents: set[str] = set()
        self._strategies, self._kinds = Counter[str](), Counter[str]()
        self._reasons, self._methods = Counter[str](), Counter[str]()
        self._final = {"samples": main}
        if side is not None:
            self._final |= {name: side / f"{name}.jsonl" for name in ("questions", "rejects", "duplicates")}
        self._open = {name: JsonlWriter(_partial(path)) for name, path in self._final.items()}

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._side is None:
            return
        whole = False
        try:
            close_all(self._open.values())
            whole = kind is None
        finally:
            for path in self._final.values():
                if whole:
                    os.replace(_partial(path), path)
                else:
                    _partial(path).unlink()

    def take(self, made: Made) -> None:
        """Write one row where it belongs; questions wait until it is known what was trained on."""
        match made:
            case Sample() | Document():
                self._row(made)
            case Question():
                self._questions.append(made)
            case Rejected():
                self._reasons[made.reason] += 1
                self._write("rejects", made.row())
            case Spent():
                self.report.spent = asdict(made)

    def _row(self, row: Sample | Document) -> None:
        duplicate = self._deduper.check(row)
        if duplicate is not None:
            self._methods[duplicate.method] += 1
            self._write("duplicates", duplicate.row())
            return
        for message in row.messages if isinstance(row, Sample) else ():
            if message.role == "user":
                self._trained.setdefault(normalise(message.content), tuple(row.parents or ()))
        assert row.generator is not None, "pages are no rows of synth"
        self._strategies[row.generator.strategy] += 1
        self._kinds[row.kind if isinstance(row, Sample) else "text"] += 1
        self._parents.update(row.parents or ())
        self._write("samples", row)

    def finish(self, config: SynthConfig, progress: Progress) -> None:
        """Write the questions whose `seen` is true of the samples, fill in the report, and tell it.

        Raises:
            CirillaError: not one sample was made.
        """
        for question in self._questions:
            self._question(question)
        self.report.samples = sum(self._kinds.values())
        self.report.by_strategy, self.report.by_kind = dict(self._strategies), dict(self._kinds)
        self.report.rejected, self.report.duplicates = dict(self._reasons), dict(self._methods)
        self.report.pages = len(self._parents)
        if not self.report.samples:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self._reasons.most_common(5))
            raise CirillaError(
                f"source `{config.source.kind}` made no samples" + (f": {reasons}" if reasons else ": no input"),
                hint=_remedy(self._reasons),
            )
        progress.say(_summary(self.report))

    def _question(self, question: Question) -> None:
        trained = self._trained.get(normalise(question.question))
        if (trained is not None) != question.seen:
            reason = "question's sample was dropped" if trained is None else "question stands in the samples"
            # Whose samples ask it: the row is to name every page that it depends on.
            self.take(
                Rejected(question.split_key, reason, {"question": question.question, "pages": list(trained or ())})
            )
            return
        self.report.questions_seen += question.seen
        self.report.questions_unseen += not question.seen
        self._write("questions", question)

    def _write(self, name: str, row: Record | dict[str, Any]) -> None:
        if name in self._open:
            self._open[name].write(row)


def _partial(path: Path) -> Path:
    return path if path == STDIO else path.with_name(f".{path.name}.partial")


def _remedy(reasons: Counter[str]) -> str:
    """What to do where nothing was made."""
    if reasons and reasons.most_common(1)[0][0] == OVERLONG:
        return "lower synth.source.chunk_chars and synth.source.max_tokens, or take a teacher of a longer context"
    return "check that the inputs hold documents with text or infoboxes"


def _summary(report: SynthReport) -> str:
    parts = [f"{report.samples:,} samples", *(f"{count:,} {name}" for name, count in report.by_strategy.items())]
    parts.append(f"{report.questions_seen:,} + {report.questions_unseen:,} questions (seen + unseen)")
    parts.append(f"{sum(report.rejected.values()):,} rejected, {sum(report.duplicates.values()):,} repetitions dropped")
    return "; ".join(parts)
