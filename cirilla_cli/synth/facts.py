"""What a page says that can be asked for: labelled values, first sentences, headed parts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from cirilla_cli.data.rows import Document, WikiSection
from cirilla_cli.synth.config import FandomConfig
from cirilla_cli.synth.outline import RELATIVE, SENTENCE_END, ends, opening_of, own_lines, sections_of
from cirilla_cli.synth.phrases import Group, PhraseTable, fill, plain_label, ranked, subject_name, subject_of
from cirilla_cli.verify.match import normalise

_NOT_FACTS = frozenset(
    {"name", "image", "images", "image1", "caption", "imagewidth", "image width", "quote", "gallery", "picture", "logo",
     "icon", "id", "website", "previous", "next", "prev", "theme", "footnotes", "notes", "references"}
)  # fmt: skip
_NOT_SECTIONS = frozenset(
    {"references", "external links", "gallery", "see also", "trivia", "notes", "footnotes", "appearances", "images",
     "videos", "sources", "further reading", "navigation", "contents", "quick answers", "faq", "source", "locations",
     "associated quest", "associated quests", "objectives", "in other languages"}
)  # fmt: skip
_QUOTED = re.compile(r"[-\u2013\u2014\"\u201c\u2018']|.*\b(?:pg\.|Media:)")
_RESTRICTS = re.compile(r"\b(?:who|which|that|where) (?:is|are|was|were)\b")
_GOES_ON = re.compile(r"[.!?][\"'\u201d]? (?:(?:He|She|They) (?:is|are)|It is (?:an?|the|now))\b")
_PERSON = frozenset(
    {"occupation", "profession", "gender", "sex", "hair", "hair colour", "hair color", "race", "spouse", "parents",
     "father", "mother", "born", "born in", "birthplace", "nationality", "mentor", "children", "partner", "horse"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InfoFact:
    """One labelled value of a page's infobox, ready to be asked for."""

    page: str
    """The page's id."""
    subject: str
    label: str
    values: tuple[str, ...]
    group: Group

    @property
    def answer(self) -> str:
        """All values, joined as they are asked for."""
        return ", ".join(self.values)

    @property
    def key(self) -> str:
        """Names the fact: equal on every run, and for other values of the same label of the page."""
        return f"{self.page}/{self.group.key}"


@dataclass(frozen=True, slots=True)
class NoFact:
    """A labelled value that cannot be asked for, and why."""

    page: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Phrased:
    """A fact's questions: those trained on, and those kept for the question set."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def phrase(fact: InfoFact, config: FandomConfig) -> Phrased:
    """The fact's questions: a choice by hash, so that other pages and facts do not move it."""
    many = len(fact.values) > 1
    label = plain_label(fact.label)
    filled = [fill(template, fact.subject, label, many=many) for template in ranked(fact.group.templates, fact.key)]
    questions = list({normalise(question): question for question in filled}.values())
    kept = min(config.phrasings, max(1, len(questions) - config.held_out_phrasings))
    return Phrased(tuple(questions[:kept]), tuple(questions[kept : kept + config.held_out_phrasings]))


def infobox_facts(document: Document, table: PhraseTable, max_chars: int) -> Iterator[InfoFact | NoFact]:
    """The facts of a page's infobox in its order; labels that ask the same are taken once."""
    subject, asked = subject_of(document), set[str]()
    for row in document.infobox:
        values = tuple(dict.fromkeys(value.strip() for value in row.values if value.strip()))
        group = table.find(row.label, ", ".join(values))
        reason = _not_askable(document, group, values, max_chars)
        if reason is None and group.key in asked:
            reason = "another label of the page asks the same"
        if reason is not None:
            yield NoFact(document.id, row.label, reason)
            continue
        asked.add(group.key)
        yield InfoFact(document.id, subject, row.label, values, group)


def _not_askable(document: Document, group: Group, values: tuple[str, ...], max_chars: int) -> str | None:
    if group.key in _NOT_FACTS:
        return "a label that is no fact"
    if not values:
        return "no value"
    if len(", ".join(values)) > max_chars:
        return "the value is too long"
    if any("\n" in value for value in values):
        return "the value has several lines"
    if normalise(", ".join(values)) == normalise(document.title):
        return "the value repeats the title"
    return None


def is_person(document: Document) -> bool:
    """Whether to ask "who" rather than "what": by labels that only people have, without an infobox by pronouns."""
    labels = {fact.label.replace("_", " ").strip().lower() for fact in document.infobox}
    if labels:
        return len(labels & _PERSON) >= 2 or bool(labels & {"occupation", "gender", "spouse"})
    words = re.findall(r"\w+", document.text[:1500].casefold())
    personal = sum(word in ("he", "his", "him", "she", "her", "who") for word in words)
    named = not re.match(r"(?:the|an?) ", subject_of(document), re.IGNORECASE)
    return named and personal >= 2 and personal > 2 * sum(word in ("it", "its", "they", "their") for word in words)


def lead_of(document: Document) -> str:
    """The first paragraph before any heading that names its subject, else the first that is running text.

    Quotations and notes often stand above it.
    """
    headings = {section.heading for section in sections_of(document)}
    before = list(takewhile(lambda line: line.strip("= #") not in headings, own_lines(document)))
    told = [line for line in before if len(line) > 10 and SENTENCE_END.search(line) and not _QUOTED.match(line)]
    name = subject_name(document).split(" (")[0].casefold()
    first = name.split()[0] if name.split() else name
    for wanted in (name, first):
        for paragraph in told:
            if wanted in paragraph[: len(name) + 40].casefold():
                return paragraph
    return told[0] if told else ""


def first_sentences(text: str, max_chars: int) -> str:
    """As many whole sentences from the start of ``text`` as fit, at least one; empty where not even one does."""
    return text[: max((end for end in ends(text) if end <= max_chars), default=0)]


def first_sentence(text: str, max_chars: int) -> str:
    """The first whole sentence of ``text``; empty where it is longer than ``max_chars``."""
    end = next(ends(text), 0)
    return text[:end] if end <= max_chars else ""


def is_about(document: Document, sentence: str) -> bool:
    """Whether a sentence names what the page is about."""
    return subject_name(document).split(" (")[0].casefold() in sentence.casefold()


def is_past(sentence: str, lead: str) -> bool:
    """Whether what a first sentence tells of is gone: no clause of it is in the present, nor how the lead goes on."""
    own = _RESTRICTS.sub("", RELATIVE.sub("", sentence))
    now = re.search(r"\b(?:is|are)\b", own) or _GOES_ON.search(lead)
    return now is None and re.search(r"\b(?:was|were)\b", own) is not None


def told_sections(document: Document) -> Iterator[tuple[WikiSection, str]]:
    """Sections that say something, each with its first paragraph; a heading that stands twice is ambiguous."""
    sections = sections_of(document)
    headings = [normalise(section.heading) for section in sections]
    for section, heading in zip(sections, headings, strict=True):
        paragraph = opening_of(section.text)
        if heading not in _NOT_SECTIONS and headings.count(heading) == 1 and paragraph:
            yield section, paragraph
