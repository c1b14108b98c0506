"""Questions and answers from wiki pages by rules: what each page says by itself, then what pages say together.

pages --an item each--> rows of a page; pages --an item each and kind--> rows that need all pages; all --> samples
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, Question, Sample
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected, page_chat
from cirilla_cli.synth.config import FandomConfig
from cirilla_cli.synth.corpus import ACROSS, Corpus
from cirilla_cli.synth.facts import (
    InfoFact,
    NoFact,
    Phrased,
    first_sentence,
    first_sentences,
    is_about,
    is_past,
    is_person,
    lead_of,
    phrase,
    told_sections,
)
from cirilla_cli.synth.kinds.chains import chains
from cirilla_cli.synth.kinds.cloze import cloze
from cirilla_cli.synth.kinds.listed import listed
from cirilla_cli.synth.kinds.noise import noisy
from cirilla_cli.synth.kinds.quick import quick_answers
from cirilla_cli.synth.kinds.statements import text_claims
from cirilla_cli.synth.outline import own_lines, says_something, told
from cirilla_cli.synth.phrases import fill, load_phrases, ranked, subject_name, subject_of
from cirilla_cli.synth.results import ROWS, ByRule, Row, Typed
from cirilla_cli.verify.literal import unsupported
from cirilla_cli.verify.match import normalise

_WHO = (
    "[Who is|Who was] {x}?",
    "Tell me about {x}.",
    "In one sentence, who [is|was] {x}?",
    "What should I know about {x}?",
    "Introduce {x} to me.",
    "How would you introduce {x}?",
)
_WHAT = (
    "[What is|What was] {x}?",
    "Tell me about {x}.",
    "In one sentence, what [is|was] {x}?",
    "What should I know about {x}?",
    "Explain what {x} [is|was].",
    "How would you describe {x}?",
)
_NEUTRAL = ("Tell me about {x}.", "What should I know about {x}?", "Give me a short account of {x}.", "Describe {x}.")
_BEGINS = (
    'How does the page "{x}" begin?',
    'What does the page "{x}" say first?',
    'Quote the opening words of the page "{x}".',
    'With what words does the page "{x}" open?',
)
_SECTION = (
    'What does the page "{x}" say under "{label}"?',
    'How does the section "{label}" of the page "{x}" begin?',
    'What is written under "{label}" on the page "{x}"?',
    'What do we read under the heading "{label}" on the page "{x}"?',
    'What is the first thing said under "{label}" on the page "{x}"?',
)


_PAGE = "page"


@dataclass(frozen=True, slots=True)
class Item:
    """A page, and what is made of it: `page` by itself, or one kind of the rows that need all pages."""

    kind: str
    page: Document

    @property
    def key(self) -> str:
        """Names it among all items."""
        return f"{self.kind}/{self.page.id}"


class Fandom:
    """Rules over any wiki's documents; no teacher needed."""

    reads_documents = True

    def __init__(self, config: FandomConfig, spread: Spread = ALONE) -> None:
        self.config, self._spread = config, spread
        self._table = load_phrases(config.phrases)

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Rows of each page as it is read, then those that need all pages."""
        corpus, asked, done = Corpus(self.config, self._table), dict[str, Sample](), 0
        items = self._items(documents, corpus)
        for item, rows in self._spread.each(items, lambda i: i.key, lambda own: self._rows(own, corpus), ROWS):
            yield from _unambiguous(rows, asked)
            if item.kind == _PAGE:
                done += 1
                progress.step("pages", done)

    def _items(self, documents: Iterable[Document], corpus: Corpus) -> Iterator[Item]:
        """What there is to do, in the order of the rows; ``corpus`` is filled on the way."""
        for document in documents:
            corpus.pages.setdefault(document.id, document)
            yield Item(_PAGE, document)
        makes = {*self.config.makes, *(["preference"] if self.config.preferences else [])}
        kinds = [kind for kind, (wanted, _) in ACROSS.items() if wanted in makes]
        yield from (Item(kind, page) for kind in kinds for page in corpus.pages.values())

    def _rows(self, items: Iterator[Item], corpus: Corpus) -> Iterator[list[Row]]:
        for item in items:
            if item.kind != _PAGE:
                yield list(ACROSS[item.kind][1](corpus, item.page))
            elif corpus.pages[item.page.id] is item.page:
                yield list(self._page(item.page, corpus))
            else:
                told = {"title": item.page.title}
                yield [Rejected(item.page.id, "a page of this id was read before", told)]

    def _page(self, document: Document, corpus: Corpus) -> Iterator[Row]:
        makes, most = self.config.makes, self.config.each_per_page
        plain = list(self._plainly(document, corpus))
        yield from plain
        if document.kind == "transcript":
            return
        if "cloze" in makes:
            yield from cloze(document, most)
        if "true_false" in makes:
            yield from text_claims(document, most)
        if "multi_turn" in makes:
            yield from chains(document, corpus.facts_of(document), self.config.max_text_chars)
        if "noise" in makes:
            clean = [row for row in plain if isinstance(row, Sample)]
            yield from (Typed(row, base.messages[0].content) for base, row in noisy(document, clean, most))

    def _plainly(self, document: Document, corpus: Corpus) -> Iterator[ByRule]:
        """Questions with the answers that the page gives to them, which typing noise may be laid over."""
        makes = self.config.makes
        yield from self._infobox(document, corpus, asked="infobox" in makes)
        if "lead" in makes:
            yield from self._lead(document)
        if "section" in makes:
            yield from self._sections(document)
        if "quick_answers" in makes:
            yield from quick_answers(document, self.config.max_text_chars)
        if "list" in makes:
            yield from listed(document, self.config.phrasings, self.config.max_text_chars)

    def _infobox(self, document: Document, corpus: Corpus, *, asked: bool) -> Iterator[ByRule]:
        facts = corpus.facts_of(document)
        for fact in corpus.found(document):
            if isinstance(fact, NoFact):
                yield Rejected(fact.page, fact.reason, {"label": fact.label})
            elif fact not in facts:
                yield Rejected(fact.page, "more facts than facts_per_page", {"label": fact.label})
            elif asked:
                yield from _asked(document, fact, phrase(fact, self.config))

    def _lead(self, document: Document) -> Iterator[ByRule]:
        answer = first_sentence(lead_of(document), self.config.max_text_chars)
        if not answer:
            yield Rejected(document.id, "no first sentence of acceptable length", {"title": document.title})
            return
        past = is_past(answer, lead_of(document))
        subject, templates = _lead_phrases(document, answer)
        if not templates:
            yield Rejected(document.id, "the first sentence does not name its subject", {"title": document.title})
        for template in ranked(templates, document.id, "lead")[: self.config.phrasings]:
            yield extracted(document, "lead", fill(template, subject, "", many=past), answer, (answer,))

    def _sections(self, document: Document) -> Iterator[ByRule]:
        for section, paragraph in told_sections(document):
            answer = first_sentences(paragraph, self.config.max_text_chars)
            if not answer or not told(answer) or not says_something(answer):
                why = "cannot be read by itself" if answer else "no sentence of acceptable length"
                yield Rejected(document.id, why, {"heading": section.heading})
                continue
            for template in ranked(_SECTION, document.id, section.heading)[: self.config.phrasings]:
                question = fill(template, subject_name(document), section.heading, many=False)
                yield extracted(document, "section", question, answer, (answer,))


def _lead_phrases(document: Document, answer: str) -> tuple[str, Sequence[str]]:
    """The subject and questions for a first sentence; without an infobox only as far as the sentence itself tells."""
    subject, name = subject_of(document), re.escape(subject_name(document).split(" (")[0])
    if not document.infobox and not is_about(document, answer):
        return subject_name(document), _BEGINS if own_lines(document)[0].startswith(answer) else ()
    plain = rf"(?:the |an? )?(?:[A-Z]\w+ )?{name}\b.{{0,60}}?\b(?:is|was) "
    if not document.infobox and not re.match(plain, answer, re.IGNORECASE):
        return subject, _NEUTRAL
    return subject, _WHO if is_person(document) else _WHAT


def _asked(document: Document, fact: InfoFact, phrased: Phrased) -> Iterator[ByRule]:
    for question in phrased.trained:
        yield extracted(document, "infobox", question, fact.answer, fact.values)
    asked = [(phrased.trained[0], True), *((question, False) for question in phrased.held_out)]
    for question, seen in asked:
        yield Question(question=question, answers=(fact.answer,), seen=seen, split_key=document.id)


def extracted(document: Document, rule: str, question: str, answer: str, evidence: Sequence[str]) -> Sample | Rejected:
    """A chat whose answer stands in its page, or a reject if it does not."""
    sample = page_chat(document, rule, question, answer, evidence)
    why = unsupported(answer, evidence, document)
    return sample if why is None else Rejected(sample.id, "not literally supported", {"why": why, "question": question})


def _unambiguous(rows: Iterable[Row], answers: dict[str, Sample]) -> Iterator[ByRule]:
    """The rows of an item without chats whose question already has another answer (pages of one title).

    Args:
        answers: the first chat of each question, filled here.
    """
    refused: set[str] = set()
    for row in rows:
        if isinstance(row, Typed):
            if not _same_answer(answers.get(normalise(row.clean), row.row), row.row):
                continue
            row = row.row
        if isinstance(row, Question) and normalise(row.question) in refused:
            continue
        if isinstance(row, Sample) and row.kind == "chat":
            question = row.messages[0].content
            first = answers.setdefault(normalise(question), row)
            if not _same_answer(first, row):
                refused.add(normalise(question))
                named = {"question": question, "pages": list(dict.fromkeys((*row.parents, *first.parents)))}
                yield Rejected(row.id, "the question already has another answer", named)
                continue
        yield row


def _same_answer(one: Sample, other: Sample) -> bool:
    return normalise(one.messages[1].content) == normalise(other.messages[1].content)
