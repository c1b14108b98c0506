"""Questions and answers from wiki pages by rules: what each page says by itself, then what pages say together."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cirilla_cli.data.rows import Document, Question, Sample
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected, page_chat
from cirilla_cli.synth.config import FandomConfig
from cirilla_cli.synth.corpus import Corpus, across_pages
from cirilla_cli.synth.facts import (
    InfoFact,
    first_sentence,
    first_sentences,
    infobox_facts,
    is_about,
    is_past,
    is_person,
    lead_of,
    told_sections,
)
from cirilla_cli.synth.kinds.chains import chains
from cirilla_cli.synth.kinds.cloze import cloze
from cirilla_cli.synth.kinds.listed import listed
from cirilla_cli.synth.kinds.noise import noisy
from cirilla_cli.synth.kinds.quick import quick_answers
from cirilla_cli.synth.kinds.statements import text_claims
from cirilla_cli.synth.outline import own_lines, says_something, told
from cirilla_cli.synth.phrases import fill, load_phrases, plain_label, ranked, subject_name, subject_of
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


@dataclass(frozen=True, slots=True)
class Phrased:
    """A fact's questions: those trained on, and those kept for the question set."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


class Fandom:
    """Rules over any wiki's documents; no teacher needed."""

    reads_documents = True

    def __init__(self, config: FandomConfig) -> None:
        self.config = config
        self._table = load_phrases(config.phrases)

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Rows of each page as it is read, then those that need all pages."""
        corpus = Corpus()
        for done, document in enumerate(documents, 1):
            if document.id in corpus.pages:
                yield Rejected(document.id, "a page of this id was read before", {"title": document.title})
                continue
            corpus.pages[document.id] = document
            yield from _unambiguous(self._page(document, corpus), corpus.asked)
            progress.step("pages", done)
        yield from _unambiguous(across_pages(corpus, self.config), corpus.asked)

    def _page(self, document: Document, corpus: Corpus) -> Iterator[Made]:
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
            facts = [fact for fact in corpus.facts if fact.page == document.id]
            yield from chains(document, facts, self.config.max_text_chars)
        if "noise" in makes:
            clean = [row for row in plain if isinstance(row, Sample)]
            yield from (row for base, row in noisy(document, clean, most) if corpus.agrees(base))

    def _plainly(self, document: Document, corpus: Corpus) -> Iterator[Made]:
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

    def _infobox(self, document: Document, corpus: Corpus, *, asked: bool) -> Iterator[Made]:
        most, taken = self.config.facts_per_page, 0
        for fact in infobox_facts(document, self._table, self.config.max_answer_chars):
            if not isinstance(fact, InfoFact):
                yield Rejected(fact.page, fact.reason, {"label": fact.label})
            elif most is not None and taken >= most:
                yield Rejected(fact.page, "more facts than facts_per_page", {"label": fact.label})
            else:
                taken += 1
                phrased = self.phrase(fact)
                corpus.add(fact, phrased.trained)
                if asked:
                    yield from _asked(document, fact, phrased)

    def phrase(self, fact: InfoFact) -> Phrased:
        """The fact's questions: a choice by hash, so that other pages and facts do not move it."""
        many = len(fact.values) > 1
        label = plain_label(fact.label)
        filled = [fill(template, fact.subject, label, many=many) for template in ranked(fact.group.templates, fact.key)]
        questions = list({normalise(question): question for question in filled}.values())
        kept = min(self.config.phrasings, max(1, len(questions) - self.config.held_out_phrasings))
        return Phrased(tuple(questions[:kept]), tuple(questions[kept : kept + self.config.held_out_phrasings]))

    def _lead(self, document: Document) -> Iterator[Made]:
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

    def _sections(self, document: Document) -> Iterator[Made]:
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


def _asked(document: Document, fact: InfoFact, phrased: Phrased) -> Iterator[Made]:
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


def _unambiguous(rows: Iterable[Made], answers: dict[str, Sample]) -> Iterator[Made]:
    """``rows`` without chats whose question already has another answer (pages of one title).

    Args:
        answers: the first chat of each question, filled here.
    """
    refused: set[str] = set()
    for row in rows:
        if isinstance(row, Question) and normalise(row.question) in refused:
            continue
        if isinstance(row, Sample) and row.kind == "chat":
            question, answer = (message.content for message in row.messages[:2])
            first = answers.setdefault(normalise(question), row)
            if normalise(first.messages[1].content) != normalise(answer):
                refused.add(normalise(question))
                named = {"question": question, "pages": list(dict.fromkeys((*row.parents, *first.parents)))}
                yield Rejected(row.id, "the question already has another answer", named)
                continue
        yield row
