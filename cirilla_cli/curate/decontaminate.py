"""Training rows that hold what models will be measured on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from cirilla_cli.curate.config import ContaminationConfig
from cirilla_cli.curate.resemblance import Resemblance
from cirilla_cli.curate.spans import Run, SpanIndex
from cirilla_cli.curate.words import Vocabulary
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.jsonl import Complaints, read_records, read_rows
from cirilla_cli.data.rows import Document, Question, Sample
from cirilla_cli.errors import CirillaError

_BATCH_ROWS = 4096
_BATCH_CHARS = 1 << 20

Row = Document | Sample


@dataclass(frozen=True, slots=True)
class EvalText:
    """One text that models are measured on."""

    id: str
    text: str
    seen: bool = False
    """Whether it may stand in the training rows, because the measure is about what was learnt from them."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """A named set of such texts."""

    name: str
    texts: tuple[EvalText, ...]


def read_eval_sets(files: Mapping[str, Sequence[Path]]) -> list[EvalSet]:
    """Question sets, and whatever `read_inputs` reads: of samples the user's turns count, of documents their text.

    Raises:
        CirillaError: a file is missing, holds rows that are neither, or no text at all.
    """
    sets = [EvalSet(name, tuple(chain.from_iterable(map(_texts, paths)))) for name, paths in files.items()]
    for found, paths in zip(sets, files.values(), strict=True):
        if not found.texts:
            there = ", ".join(map(str, paths))
            raise CirillaError(
                f"evaluation set `{found.name}` ({there}) holds no text", hint="name a set that has rows"
            )
    return sets


def _texts(path: Path) -> Iterator[EvalText]:
    if _holds_questions(path):
        for number, question in enumerate(read_records(path, Question), 1):
            yield EvalText(f"{path.name}:{number}", question.question, question.seen)
        return
    for row in read_inputs([path]):
        text = row.text if isinstance(row, Document) else "\n".join(m.content for m in row.messages if m.role == "user")
        yield EvalText(row.id, text)


def _holds_questions(path: Path) -> bool:
    """Whether the first row of a file is one of a question set."""
    if path.suffix != ".jsonl":
        return False
    first = next(iter(read_rows(path, Complaints())), None)
    return first is not None and {"question", "answers", "seen"} <= first.data.keys()


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row that holds a text of an evaluation set."""

    dropped: str
    set: str
    text: str
    """Which text of the set."""
    span: int
    """Words in a row that both have."""
    words: int
    """Words of the text."""
    source: str = ""

    @property
    def reason(self) -> str:
        """Why the row goes, in few words."""
        return f"contamination: {self.set}"

    def row(self) -> dict[str, str | int]:
        """One line of JSON."""
        return {name: self.__getattribute__(name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a row has of the evaluation sets, their texts by number."""

    leak: Leak | None = None
    """The longest text that stands in it."""
    held: tuple[int, ...] = ()
    """All that stand in it."""
    alike: tuple[int, ...] = ()
    """Those that a line of it resembles."""


@dataclass(slots=True)
class _Counts:
    """What became of one set: numbers of its texts, and how many rows held one."""

    texts: int
    seen: int
    leaked: set[int] = field(default_factory=set)
    resembled: set[int] = field(default_factory=set)
    rows: int = 0

    def as_dict(self) -> dict[str, int | float]:
        looked = self.texts - self.seen
        alike = len(self.resembled - self.leaked)
        return {
            "texts": self.texts, "seen": self.seen, "leaked": len(self.leaked),
            "leaked_share": round(len(self.leaked) / max(1, looked), 4), "resembled": alike,
            "resembled_share": round(alike / max(1, looked), 4), "rows": self.rows,
        }  # fmt: skip


class Decontaminator:
    """Compares rows with the texts of evaluation sets, as far as these are not marked as seen.

    A row leaks a text that stands in it word for word, up to case, spacing and punctuation: whole, or an unbroken part
    with ``span`` words of the text's own. A text of fewer than eight words must fill a sentence or a line. What texts
    share is their template's, and not their own. The index is made once; memory does not grow with the rows.
    """

    def __init__(self, config: ContaminationConfig, sets: Iterable[EvalSet]) -> None:
        self._sets = list(sets)
        self._counts = {s.name: _Counts(len(s.texts), sum(text.seen for text in s.texts)) for s in self._sets}
        looked = [(s.name, text) for s in self._sets for text in s.texts if not text.seen]
        self._vocabulary = Vocabulary(text.text for _, text in looked)
        numbered: dict[tuple[int, ...], list[tuple[str, EvalText]]] = {}
        for name, text in looked:
            ids = tuple(self._vocabulary.words([text.text]).ids_W[:-1].tolist())
            if ids:
                numbered.setdefault(ids, []).append((name, text))
        self._texts, self._owners = list(numbered), list(numbered.values())
        self._spans = SpanIndex(self._texts, config.span)
        self._alike = Resemblance(self._texts, self._vocabulary.size, config.resemblance)

    def check(self, row: Row, source: str = "") -> Leak | None:
        """The longest leak in ``row``, or None."""
        ((_, _, leak),) = self.checked([(source, row)])
        return leak

    def checked(self, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row, Leak | None]]:
        """Rows beside the names of their sources, in order, each with what `check` says; thousands are read ahead."""
        rows = iter(rows)
        while batch := next_batch(rows):
            yield from self._batch(batch)

    def _batch(self, batch: list[tuple[str, Row]]) -> Iterator[tuple[str, Row, Leak | None]]:
        for (source, row), finding in zip(batch, self.findings(batch), strict=True):
            self.count(finding)
            yield source, row, finding.leak

    def findings(self, batch: Sequence[tuple[str, Row]]) -> Iterator[Finding]:
        """What each row of a batch has of the sets, uncounted; a pure function of the row."""
        words = self._vocabulary.words([_text(row) for _, row in batch])
        longest: dict[int, Run] = {}
        held: dict[int, set[int]] = {}
        for run in self._spans.find(words):
            held.setdefault(run.row, set()).add(run.text)
            if run.row not in longest or (run.words, -run.text) > (longest[run.row].words, -longest[run.row].text):
                longest[run.row] = run
        alike: dict[int, set[int]] = {}
        for number, text in self._alike.find(words).tolist():
            alike.setdefault(number, set()).add(text)
        for number, (source, row) in enumerate(batch):
            leak = self._leak(longest[number], source, row) if number in longest else None
            yield Finding(leak, tuple(sorted(held.get(number, ()))), tuple(sorted(alike.get(number, ()))))

    def count(self, finding: Finding) -> None:
        """Add what a row was found to have to the report."""
        for name in {name for text in finding.held for name, _ in self._owners[text]}:
            self._counts[name].rows += 1
        for text in finding.held:
            for name, _ in self._owners[text]:
                self._counts[name].leaked.add(text)
        for text in finding.alike:
            for name, _ in self._owners[text]:
                self._counts[name].resembled.add(text)

    def _leak(self, run: Run, source: str, row: Row) -> Leak:
        name, text = self._owners[run.text][0]
        return Leak(row.id, name, text.id, run.words, len(self._texts[run.text]), source)

    def report(self) -> dict[str, dict[str, int | float]]:
        """For each set: its texts, those exempt because they are seen, those leaked word for word, the rows that did
        so, and those that only resemble a line of a row; so far."""
        return {name: counts.as_dict() for name, counts in self._counts.items()}


def _text(row: Row) -> str:
    if isinstance(row, Document):
        return f"{row.title}\n{row.text}"
    answers = (text for text in (row.answer, row.chosen, row.rejected) if text is not None)
    return "\n".join([*(message.content for message in row.messages), *answers])


def next_batch(rows: Iterator[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The next rows, as many as are compared at once."""
    batch: list[tuple[str, Row]] = []
    chars = 0
    for source, row in islice(rows, _BATCH_ROWS):
        batch.append((source, row))
        chars += len(_text(row))
        if chars >= _BATCH_CHARS:
            break
    return batch
