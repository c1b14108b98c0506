"""Rows that a language model writes about pages, by one strategy, each checked against its page."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document
from cirilla_cli.errors import ServiceError
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.cache import Cache
from cirilla_cli.synth.config import TeacherSourceConfig
from cirilla_cli.synth.journal import FILE, Journal
from cirilla_cli.synth.judge import FILE as JUDGED
from cirilla_cli.synth.judge import Judge, Nobody
from cirilla_cli.synth.strategies.base import REFUSED, Desk, Settled, Unit, Unsettled
from cirilla_cli.teachers.base import in_parallel
from cirilla_cli.teachers.config import TeacherSection

_FAILURES_IN_A_ROW = 8


class TeacherSource:
    """Settles piece after piece, several at a time; rows come in the order of the pages all the same."""

    reads_documents = True

    def __init__(self, config: TeacherSourceConfig, workspace: Path | None, spread: Spread = ALONE) -> None:
        self.config, self._spread = config, spread
        self.strategy = config.strategy.build(config.chunk_chars)
        self._workspace = workspace

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield rows as soon as those of all earlier pieces are settled, and at last what was spent.

        Raises:
            ServiceError: no server answers, or it refuses, at the start or several times in a row; what was answered
                is on record.
        """
        with ExitStack() as stack:
            judge = self._judge(stack, progress)
            # Nothing is paid for where nobody would judge it.
            journal = self._journal(stack, self.config.teacher, FILE, progress, judge.check)
            desk = Desk(journal, self.config, self.strategy.name, self.strategy.instructions)
            work = in_parallel(
                lambda unit: judge.judged(unit[1], self.strategy.settle(unit[1], desk)),
                enumerate(self._own(documents)),
                self.config.workers,
            )
            yield from _in_order(_counted(work, f"{journal.told}{judge.told}", progress))
            yield journal.spent.plus(judge.spent)

    def _judge(self, stack: ExitStack, progress: Progress) -> "Judge | Nobody":
        config = self.config.judge
        if config is None:
            return Nobody()
        journal = self._journal(stack, config.teacher or self.config.teacher, JUDGED, progress)
        return Judge(journal, self.config, config.least)

    def _journal(
        self, stack: ExitStack, teacher: TeacherSection, name: str, progress: Progress,
        also: Callable[[], None] = lambda: None,
    ) -> Journal:  # fmt: skip
        path = None if self._workspace is None else self._workspace / name
        built, folder = teacher.build(), self.config.cache
        journal = stack.enter_context(Journal(built, path, None if folder is None else Cache(folder, built), also))
        if journal.found:
            progress.say(f"{journal.found:,} answers on record in {path}")
        return journal

    def _own(self, documents: Iterable[Document]) -> Iterator[Unit]:
        yield from (unit for unit in self._units(documents) if self._spread.takes(unit.id))
        self._spread.complete()

    def parts(self, documents: Iterable[Document]) -> int:
        """How many parts of pages `make` would ask about."""
        return sum(1 for _ in self._units(documents))

    def _units(self, documents: Iterable[Document]) -> Iterator[Unit]:
        return islice(self.strategy.units(documents), self.config.limit)


def _counted(
    results: Iterator[tuple[tuple[int, Unit], Settled]], who: str, progress: Progress
) -> Iterator[tuple[int, list[Made]]]:
    """Numbered results; gives up when nothing was answered several times in a row, or anything stays unanswered."""
    in_a_row, unsettled, last = 0, 0, ""
    for done, ((number, unit), result) in enumerate(results, 1):
        said = _unanswered(result)
        in_a_row = 0 if said is None else in_a_row + 1
        if said is not None:
            unsettled, last = unsettled + isinstance(result, Unsettled), f"{unit.id}: {said}"
        if in_a_row >= _FAILURES_IN_A_ROW:
            raise _given_up(who, f"answered none of {in_a_row} requests in a row", last)
        yield number, [] if isinstance(result, Unsettled) else result
        progress.step("pieces of pages", done)
    if unsettled:
        raise _given_up(who, f"left {unsettled} requests unanswered", last)


def _unanswered(result: Settled) -> str | None:
    """Why nothing was answered: nobody did, or the server refused."""
    if isinstance(result, Unsettled):
        return result.failure.detail
    refused = [row for row in result if isinstance(row, Rejected) and row.reason == REFUSED]
    return str(refused[0].detail["why"]) if refused and len(refused) == len(result) else None


def _given_up(who: str, said: str, last: str) -> ServiceError:
    return ServiceError(
        f"{who} {said}; the last: {last}",
        hint="run the same command again: answers so far are on record, only missing ones are asked for",
    )


def _in_order(results: Iterable[tuple[int, list[Made]]]) -> Iterator[Made]:
    """The rows of results 0, 1, 2 ... whatever order those arrive in."""
    early: dict[int, list[Made]] = {}
    following = 0
    for number, rows in results:
        early[number] = rows
        while following in early:
            yield from early.pop(following)
            following += 1
