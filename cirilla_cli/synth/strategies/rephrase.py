"""Parts of pages in other words, as text to read on: the same facts in several styles (WRAP, arXiv:2401.16380)."""

import re
from collections.abc import Iterable

from pydantic import Field

from cirilla_cli.data.rows import Document
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import RephraseConfig, Style
from cirilla_cli.synth.grounding import Answer, names, numbers, unsound
from cirilla_cli.synth.strategies.base import (
    Complaint,
    Desk,
    PieceByPiece,
    Settled,
    Unit,
    Unsettled,
    foreign,
    odd,
    settled,
)
from cirilla_cli.synth.strategies.prompts import PAGE

_ASK = """\
Write all that this text says about {title} in other words: {style} Keep every name, number and date. Add nothing, \
leave nothing out, and do not copy its sentences."""
STYLES: dict[Style, str] = {
    "easy": "plainly, in short sentences and common words, so that a child understands it.",
    "encyclopedic": "in the clear, even, complete sentences of an encyclopedia.",
    "terse": "densely and exactly, in the words of those who know the matter well.",
    "question_answer": "as a sequence of questions, each on a line of its own with its answer on the line below it.",
}
_RUN = 8
"""Words in a row that count as copied; shorter runs are names and common turns of phrase."""
_WORD = re.compile(r"\w+")


class Rewriting(Answer):
    """A text in other words."""

    text: str = Field(min_length=1)


class Rephrase(PieceByPiece[RephraseConfig]):
    """One request for each style of a piece; rows are documents that name their page."""

    name = "rephrase"
    prompts = {"ask": PAGE + _ASK}

    def _words(self) -> Iterable[str]:
        return STYLES.values()

    def settle(self, unit: Unit, desk: Desk) -> Settled:
        """See `Strategy.settle`."""
        return settled(self._rewritten(unit, style, desk) for style in dict.fromkeys(self._config.styles))

    def _rewritten(self, unit: Unit, style: Style, desk: Desk) -> Made | Unsettled:
        prompt = self._prompt("ask", unit, style=STYLES[style])
        found = desk.ask(f"{unit.id}/{style}", prompt, Rewriting, lambda said: self._complaint(said.text, unit))
        return _judged(unit, found.text.strip(), style, desk) if isinstance(found, Rewriting) else found

    def _complaint(self, said: str, unit: Unit) -> Complaint | None:
        share, copied, kept = len(said) / len(unit.text), copied_share(said, unit.text), kept_share(said, unit)
        if not self._config.least_length <= share <= self._config.most_length:
            return Complaint("not of acceptable length", f"That is {share:.2f} times as long as the text")
        if copied > self._config.most_copied:
            return Complaint("copied from the page", f"{copied:.0%} of that is copied: say it in other words")
        if kept < self._config.least_facts:
            return Complaint("facts of the page are lost", f"That keeps {kept:.0%} of the names and numbers: keep all")
        return foreign(said, unit.text)


def copied_share(said: str, text: str) -> float:
    """The share of the words of ``said`` that belong to runs of eight words which stand in ``text``."""
    words, source = (_WORD.findall(one.casefold()) for one in (said, text))
    runs = {tuple(source[start : start + _RUN]) for start in range(len(source) - _RUN + 1)}
    starts = (start for start in range(len(words)) if tuple(words[start : start + _RUN]) in runs)
    return len({start + step for start in starts for step in range(_RUN)}) / max(1, len(words))


def kept_share(said: str, unit: Unit) -> float:
    """The share of the piece's numbers and names that stand in ``said``; 1 where it has none."""
    facts, plain = numbers(unit.text) | names(unit.text), f"{unit.title}\n{said}".casefold()
    kept = {fact for fact in facts if re.search(rf"(?<!\w){re.escape(fact)}(?!\d)", plain)}
    return len(kept) / len(facts) if facts else 1.0


def _judged(unit: Unit, said: str, style: Style, desk: Desk) -> Made:
    """The text as a document, or why it is none; line by line, because a line begins a sentence."""
    id_, page = desk.row_id(unit, style, said), unit.document
    lines = (unsound(line.strip(), [], unit.text, page.title) for line in said.splitlines())
    reason = odd(said, unit.text) or next(filter(None, lines), None)
    if reason is not None:
        return Rejected(id_, reason, {"unit": unit.id, "style": style, "text": said})
    return Document(
        id=id_, title=page.title, text=said, url=page.url, permalink=page.permalink, revision=page.revision,
        license=page.license, site=page.site, parents=(page.id,), generator=desk.origin(style),
    )  # fmt: skip
