"""A look at the first rows before a long run, and what the whole run would take."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.data.rows import Document, Question, Sample
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Rejected, Spent, Synthesizer
from cirilla_cli.synth.config import SynthConfig, TeacherSourceConfig
from cirilla_cli.synth.teacher import TeacherSource
from cirilla_cli.teachers.config import TeacherSection
from cirilla_cli.units import show_seconds


@dataclass(slots=True)
class Estimate:
    """What all pages would take of a teacher, from what the first ones took."""

    parts: int
    """Parts of pages that would be asked about."""
    requests: int
    prompt_tokens: int
    tokens: int
    """Written by the teacher."""
    seconds: float
    """With as many requests under way as the section says."""
    cost: float | None = None
    """At the section's prices; None where it has none."""


@dataclass(slots=True)
class Preview:
    """The first rows, and the estimate where a teacher was asked."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    estimate: Estimate | None = None

    def text(self) -> str:
        """The rows as people read them."""
        parts = [_shown(sample) for sample in self.samples]
        parts += [f"rejected: {row['reason']}\n{_rest(row)}" for row in self.rejected]
        return "\n\n".join([*parts, *([_told(self.estimate)] if self.estimate else [])])


def preview(
    config: SynthConfig, side: Path | None, documents: Callable[[Synthesizer], Iterable[Document]], count: int,
    progress: Progress,
) -> Preview:  # fmt: skip
    """The rows of the first ``count`` parts of pages that a teacher is asked about, or the first ``count`` samples.

    A teacher's answers go on record in ``side`` and are not asked for again. The estimate reads all documents once
    more, and is None where nothing was asked.
    """
    section = config.source
    if isinstance(section, TeacherSourceConfig):
        first = min(count, section.limit or count)
        source = TeacherSource(section.model_copy(update={"limit": first}), side)
        found, spent = _gathered(source.make(documents(source), progress))
        if spent is not None and spent.asked > spent.failed:
            whole = TeacherSource(section, None)
            found.estimate = _estimate(section, spent, first, whole.parts(documents(whole)))
        return found
    built = section.build(side)
    return _gathered(_first(built.make(documents(built), progress), count))[0]


def _first(made: Iterable[Any], count: int) -> Iterator[Any]:
    """What comes up to the ``count``-th sample."""
    samples = 0
    for row in made:
        yield row
        samples += isinstance(row, Sample | Document)
        if samples == count:
            return


def _gathered(made: Iterable[Any]) -> tuple[Preview, Spent | None]:
    found, spent = Preview(), None
    for row in made:
        match row:
            case Sample() | Document():
                found.samples.append(row.model_dump(mode="json", exclude_none=True))
            case Rejected():
                found.rejected.append(row.row())
            case Spent():
                spent = row
            case Question():
                pass
    return found, spent


def _estimate(section: TeacherSourceConfig, spent: Spent, seen: int, parts: int) -> Estimate:
    """By proportion: each part like the first ones, each request like those that were sent."""
    answered = spent.asked - spent.failed
    requests = (spent.asked + spent.on_record) * parts / min(seen, parts)
    each = requests / answered
    seconds = requests * spent.seconds / spent.asked / section.workers
    read, written = round(spent.prompt_tokens * each), round(spent.tokens * each)
    return Estimate(parts, round(requests), read, written, seconds, _cost(section.teacher, read, written))


def _cost(teacher: TeacherSection, read: int, written: int) -> float | None:
    if teacher.kind != "openai" or teacher.price is None:
        return None
    return (read * teacher.price.input + written * teacher.price.output) / 1e6


def _shown(sample: dict[str, Any]) -> str:
    turns = [f"{message['role']}: {message['content']}" for message in sample.get("messages", ())]
    turns += [f"{key}: {sample[key]}" for key in ("text", "answer", "chosen", "rejected") if key in sample]
    evidence = [f"evidence: {piece}" for piece in sample.get("evidence", ())]
    source = sample.get("source") or sample.get("permalink") or sample["title"]
    return "\n".join([f"{sample['generator']['strategy']}, from {source}", *turns, *evidence])


def _rest(row: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in row.items() if key not in ("id", "reason"))


def _told(estimate: Estimate) -> str:
    return (
        f"all of it: {estimate.parts:,} parts of pages, about {estimate.requests:,} requests, "
        f"{estimate.prompt_tokens:,} tokens read and {estimate.tokens:,} written by the teacher, "
        f"{show_seconds(estimate.seconds)}"
        + ("" if estimate.cost is None else f", at a cost of about {estimate.cost:,.2f}")
    )
