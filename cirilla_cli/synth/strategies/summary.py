"""Summaries: of a short page in one pass; of a long one part by part, each knowing what came before, then merged."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import Field

from cirilla_cli.data.rows import Document
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import SummaryConfig
from cirilla_cli.synth.grounding import Answer, Pair, chunks, quoted, unsound
from cirilla_cli.synth.inert import fenced
from cirilla_cli.synth.strategies.base import Complaint, Desk, PieceByPiece, Settled, Unit, Unsettled, foreign, odd
from cirilla_cli.synth.strategies.prompts import PAGE
from cirilla_cli.synth.strategies.qa import turns
from cirilla_cli.verify.match import normalise

_SINGLE = """\
Summarise what this says about {title} in one paragraph of at most {max_words} words: complete sentences, the most \
important first, nothing that does not stand there. As evidence give two to five passages copied word for word from \
the text that the summary rests on. As question write how somebody who wants to know this would ask, naming {title}."""
_PART = """\
This is part {number} of {count} of a page about {title}. What the part before it says, for the connection:
{before}

Summarise this part in at most {max_words} words: complete sentences, nothing that does not stand in it. As evidence \
give one to three passages copied word for word from this part."""
_MERGE = """\
These are summaries of consecutive parts of a page about {title}. Merge them to one paragraph of at most {max_words} \
words: complete sentences, the most important first, each thing once, nothing that does not stand there. As question \
write how somebody who wants to know this would ask, naming {title}."""
_FAN_IN = 6
_LEAST_WORDS = 40
_SLACK = 1.25
"""How much longer than asked for a summary may be; teachers do not count words."""
_STEM = 4


class Part(Answer):
    """What a part of a page says."""

    summary: str = Field(min_length=1)
    evidence: list[str] = Field(min_length=1)


class Merged(Answer):
    """Several summaries in one, and what it answers."""

    question: str = Field(min_length=8, max_length=300)
    summary: str = Field(min_length=1)


class Whole(Merged):
    """What a page says, what that answers, and what it rests on."""

    evidence: list[str] = Field(min_length=1)


class Summary(PieceByPiece[SummaryConfig]):
    """One summary a page."""

    name = "summary"
    prompts = {"whole": PAGE + _SINGLE, "part": PAGE + _PART, "merge": PAGE + _MERGE}

    def units(self, documents: Iterable[Document]) -> Iterator[Unit]:
        """See `Strategy.units`: whole pages."""
        return (Unit(document, 0, document.text.strip()) for document in documents)

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        if len(unit.text.split()) < _LEAST_WORDS:
            return [Rejected(unit.id, "too short to summarise")]
        parts = chunks(unit.text, self._chars)
        found = self._single(unit, desk) if len(parts) == 1 else self._hierarchical(unit, parts, desk)
        if isinstance(found, Unsettled):
            return found
        return [found if isinstance(found, Rejected) else _judged(unit, found, "parts" if len(parts) > 1 else "", desk)]

    def _single(self, unit: Unit, desk: Desk) -> Whole | Rejected | Unsettled:
        prompt = self._prompt("whole", unit, max_words=self._config.max_words)
        return desk.ask(unit.id, prompt, Whole, lambda whole: self._complaint(whole.summary, unit, whole.question))

    def _hierarchical(self, unit: Unit, parts: Sequence[str], desk: Desk) -> Whole | Rejected | Unsettled:
        told: list[Part] = []
        for number, text in enumerate(parts, 1):
            part = self._part(unit, Unit(unit.document, number, text), told, len(parts), desk)
            if not isinstance(part, Part):
                return part
            told.append(part)
        merged = self._merged(unit, [part.summary for part in told], desk)
        if not isinstance(merged, Merged):
            return merged
        evidence = [piece for part in told for piece in part.evidence]
        return Whole(question=merged.question, summary=merged.summary, evidence=evidence)

    def _part(
        self, page: Unit, part: Unit, told: Sequence[Part], count: int, desk: Desk
    ) -> Part | Rejected | Unsettled:
        """The summary of one part, whose evidence stands in it."""
        before = told[-1].summary if told else "Nothing: this is the first part."
        fields = {"max_words": self._config.max_words, "number": part.number, "count": count}
        prompt = self._prompt("part", part, before=fenced(before), **fields)
        found = desk.ask(part.id, prompt, Part, lambda found: self._complaint(found.summary, part))
        if not isinstance(found, Part):
            return found
        known = f"{page.document.title}\n{before}"
        reason = odd(found.summary, part.text) or unsound(found.summary, found.evidence, part.text, known)
        return found if reason is None else Rejected(part.id, reason, {"unit": page.id, **found.model_dump()})

    def _merged(
        self, unit: Unit, summaries: Sequence[str], desk: Desk, level: int = 0
    ) -> Merged | Rejected | Unsettled:
        """One summary of several, in as many levels as it takes."""
        groups = [summaries[start : start + _FAN_IN] for start in range(0, len(summaries), _FAN_IN)]
        merged: list[Merged] = []
        for number, group in enumerate(groups):
            found = self._merge(unit, f"{unit.id}/merge/{level}/{number}", group, desk)
            if not isinstance(found, Merged):
                return found
            merged.append(found)
        return merged[0] if len(merged) == 1 else self._merged(unit, [one.summary for one in merged], desk, level + 1)

    def _merge(self, unit: Unit, key: str, summaries: Sequence[str], desk: Desk) -> Merged | Rejected | Unsettled:
        shown = fenced("\n\n".join(" ".join(summary.split()) for summary in summaries))
        prompt = self._prompt("merge", unit, text=shown, max_words=self._config.max_words)
        return desk.ask(key, prompt, Merged, lambda found: self._complaint(found.summary, unit, found.question))

    def _complaint(self, summary: str, unit: Unit, question: str | None = None) -> Complaint | None:
        words, most = len(summary.split()), self._config.max_words
        if words > most * _SLACK:
            return Complaint("longer than max_words", f"That has {words} words, at most {most} are asked for")
        if question is not None and not _names(question, unit.document.title):
            return Complaint("the question does not name the page", f"The question must name {unit.title}")
        return foreign(summary, unit.text)


def _names(question: str, title: str) -> bool:
    """Whether a word of the title stands in the question, whatever its ending."""
    words = [word.casefold()[:_STEM] for word in title.split()]
    return any(word in question.casefold() for word in words)


def _judged(unit: Unit, whole: Whole, rule: str, desk: Desk) -> Made:
    id_ = desk.row_id(unit, whole.question, whole.summary)
    reason = next((said for check in _CHECKS if (said := check(whole, unit))), None)
    evidence = dict.fromkeys(quoted(piece, unit.text) for piece in whole.evidence)
    if reason is not None:
        return Rejected(id_, reason, {"unit": unit.id, **whole.model_dump()})
    messages = turns(Pair(question=whole.question, answer=whole.summary, evidence=""))
    return desk.chat(unit, id_, messages, evidence, rule)


def _is_no_summary(whole: Whole, unit: Unit) -> str | None:
    """The beginning of the page instead of a summary, or as much again as the page."""
    if normalise(whole.summary) in normalise(unit.text):
        return "copied from the page"
    return "not shorter than the page" if len(whole.summary) >= len(unit.text) else None


_CHECKS: tuple[Callable[[Whole, Unit], str | None], ...] = (
    lambda whole, unit: odd(f"{whole.question} {whole.summary}", unit.text),
    lambda whole, unit: unsound(whole.summary, whole.evidence, unit.text, unit.document.title),
    _is_no_summary,
)
