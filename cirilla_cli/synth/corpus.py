"""What pages say together: other names, whose value something is, shared values, statements, gaps, preferences."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TypeVar

from cirilla_cli.data.rows import Document, Message, Origin, Sample, short_id
from cirilla_cli.synth.base import Rejected, origin_of, page_chat
from cirilla_cli.synth.config import FandomConfig
from cirilla_cli.synth.facts import InfoFact, NoFact, infobox_facts, is_person, phrase
from cirilla_cli.synth.kinds.unmentioned import Names, unmentioned
from cirilla_cli.synth.phrases import PhraseTable, Ring, fill, plain_label, ranked, subject_name, subject_of
from cirilla_cli.synth.results import ByRule
from cirilla_cli.verify.match import normalise

K = TypeVar("K")
V = TypeVar("V")

ABSENT = "The page does not say."
"""The answer to what a page does not give."""

_MOST_LISTED = 12
_ALIAS_WHO = (
    "Who is also called {x}?",
    "Who is known as {x}?",
    "Whom do people mean by {x}?",
    "Who bears the name {x} as well?",
    "Whose other name is {x}?",
)
_ALIAS_WHAT = (
    "What is also called {x}?",
    "What is known as {x}?",
    "What do people mean by {x}?",
    "What does the name {x} stand for?",
    "To what does the name {x} refer?",
)
_REVERSE_WHO = (
    "Whose {label} [is|are] {x}?",
    'Which page gives "{x}" as the {label}?',
    'On which page [is|are] the {label} given as "{x}"?',
    'For whom [is|are] the {label} given as "{x}"?',
)
_REVERSE_WHAT = (
    'Which page gives "{x}" as the {label}?',
    'On which page [is|are] the {label} given as "{x}"?',
    'Which page names "{x}" as the {label}?',
    'On which page does the infobox give "{x}" as the {label}?',
)
_REVERSE_ENTRY = (
    'Which page has the entry "{label}: {x}"?',
    'Who or what is listed with "{label}: {x}"?',
    'On which page does the infobox say "{label}: {x}"?',
    'For whom or what is "{label}" given as "{x}"?',
)
_LIST = (
    'Which pages share the entry "{label}: {x}"?',
    'Name every page that has the entry "{label}: {x}".',
    'Who or what is listed with "{label}: {x}"? Name them all.',
    'On which pages is "{label}" given as "{x}"?',
)
_CLAIM = (
    'True or false: the page "{x}" lists "{label}".',
    'Does the page "{x}" have the entry "{label}"? Answer true or false.',
    'True or false? The page "{x}" has the entry "{label}".',
)
_NOT_NOUN = re.compile(
    r"(?:\b(?:in|for|by|of|to|from|at|with|on|as)|^(?:born|died|eats|does|speaks|married|where|when|(?:first )?seen))$"
)


@dataclass
class Corpus:
    """All pages and their facts. What is put together of all of them is asked for when the last one has been read."""

    config: FandomConfig
    table: PhraseTable
    pages: dict[str, Document] = field(default_factory=dict)
    _found: dict[str, list[InfoFact | NoFact]] = field(default_factory=dict)

    def found(self, page: Document) -> list[InfoFact | NoFact]:
        """What the page's infobox gives, looked for once."""
        if page.id not in self._found:
            self._found[page.id] = list(infobox_facts(page, self.table, self.config.max_answer_chars))
        return self._found[page.id]

    def facts_of(self, page: Document) -> list[InfoFact]:
        """The facts of a page that are asked for."""
        facts = [fact for fact in self.found(page) if isinstance(fact, InfoFact)]
        return facts[: self.config.facts_per_page]

    @cached_property
    def facts(self) -> list[InfoFact]:
        """Those of all pages."""
        return [fact for page in self.pages.values() for fact in self.facts_of(page)]

    @cached_property
    def groups(self) -> dict[str, list[InfoFact]]:
        """Facts that answer the same kind of question."""
        return _grouped((fact.group.key, fact) for fact in self.facts)

    @cached_property
    def answers(self) -> dict[str, "Answers"]:
        """Of each kind of question, which facts have which answer."""
        by_answer = {key: _grouped((fact.answer, fact) for fact in facts) for key, facts in self.groups.items()}
        return {key: Answers(facts, Ring(facts)) for key, facts in by_answer.items()}

    @cached_property
    def bearers(self) -> dict[str, list[str]]:
        """The pages that bear a name, as title or otherwise."""
        named = ((name, page) for page in self.pages.values() for name in (*page.aliases, page.title))
        return _grouped(dict.fromkeys((normalise(name), page.id) for name, page in named))

    @cached_property
    def owners(self) -> dict[str, set[str]]:
        """The pages in whose infobox a value stands."""
        rows = ((page.id, row) for page in self.pages.values() for row in page.infobox)
        found = _grouped((normalise(value), id_) for id_, row in rows for value in row.values)
        return {value: set(ids) for value, ids in found.items()}

    @cached_property
    def shared(self) -> dict[str, list[tuple[str, str, list[InfoFact]]]]:
        """Values that several pages have under a label, by the first of these pages; short lists only."""
        having = _grouped(((fact.label, value), fact) for fact in self.facts for value in fact.values)
        short = {key: facts for key, facts in having.items() if 2 <= len(facts) <= _MOST_LISTED}
        return _grouped((facts[0].page, (*key, facts)) for key, facts in short.items())

    @cached_property
    def labels(self) -> dict[str, set[str]]:
        """The labels of each page's infobox."""
        return {id_: {plain_label(row.label) for row in page.infobox} for id_, page in self.pages.items()}

    @cached_property
    def names(self) -> Names:
        """The pages' names."""
        return Names(self.pages)


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """What stands with each key, both in the order in which they come."""
    found: dict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return dict(found)


@dataclass(frozen=True)
class Answers:
    """The facts that answer one kind of question, by their answers."""

    facts: dict[str, list[InfoFact]]
    ring: Ring


def _derived(page: Document, rule: str, question: str, answer: str, what: str, pages: Sequence[str]) -> Sample:
    """A chat that follows from the documents; ``what`` says what to recompute, such as ``Capital: Vizima``."""
    return page_chat(page, rule, question, answer, (what,), pages)


def _aliases(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """Redirects: which page another name leads to, where it leads to one only and is no page's own title."""
    for alias in dict.fromkeys(page.aliases):
        others = [id_ for id_ in corpus.bearers[normalise(alias)] if id_ != page.id]
        if others or normalise(alias) == normalise(page.title):
            why = "the other name is not of this page alone"
            yield Rejected(page.id, why, {"alias": alias, "pages": others})
            continue
        templates = _ALIAS_WHO if is_person(page) else _ALIAS_WHAT
        for template in ranked(templates, page.id, alias)[: corpus.config.phrasings]:
            question = fill(template, alias, "", many=False)
            yield _derived(page, "alias", question, page.title, alias, (page.id,))


def _reverse(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """Whose value something is, where it stands in the infobox of one page alone."""
    for fact in corpus.facts_of(page):
        if len(fact.values) != 1 or len(corpus.owners.get(normalise(fact.answer), ())) != 1:
            continue
        label = plain_label(fact.label)
        noun = not _NOT_NOUN.search(label)
        templates = (_REVERSE_WHO if is_person(page) else _REVERSE_WHAT) if noun else _REVERSE_ENTRY
        for template in ranked(templates, fact.key, "reverse")[: corpus.config.phrasings]:
            question = fill(template, fact.answer, label if noun else fact.label, many=False)
            yield _derived(page, "reverse", question, page.title, f"{fact.label}: {fact.answer}", (page.id,))


def _lists(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """All pages that share a value under a label, in the order they were read, of which this is the first."""
    for label, value, facts in corpus.shared.get(page.id, ()):
        pages = [corpus.pages[fact.page] for fact in facts]
        answer = ", ".join(page.title for page in pages)
        for template in ranked(_LIST, label, value)[: corpus.config.phrasings]:
            question = fill(template, value, label, many=True)
            yield _derived(page, "list", question, answer, f"{label}: {value}", [page.id for page in pages])


def _claims(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """Statements about a page, half of them made false by another page's value of the same label."""
    for fact in corpus.facts_of(page):
        wrong = list(islice(_wrong_values(fact, corpus), 1))
        true = not wrong or short_id(fact.key, "claim") < "8"
        value, pages = (fact.values[0], [fact.page]) if true else (wrong[0].answer, [fact.page, wrong[0].page])
        claim = f"{fact.label}: {value}"
        template = ranked(_CLAIM, fact.key)[0]
        question = fill(template, subject_name(page), claim, many=False)
        yield _derived(page, "true_false", question, "True" if true else "False", claim, pages)


def _gaps(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """One label a page: given on a page of the same make-up, absent from this one and its text."""
    own, text, groups = corpus.labels[page.id], normalise(page.text), corpus.groups
    asked = own | {fact.group.key for fact in corpus.facts_of(page)}
    absent = (key for key in ranked(sorted(groups), page.id) if key not in asked and key not in text)
    alike = ((fact for fact in groups[key] if _is_alike(key, own, corpus.labels[fact.page])) for key in absent)
    fact = next((fact for facts in alike for fact in facts), None)
    if fact is not None:
        template = ranked(fact.group.templates, page.id, fact.group.key)[0]
        question = fill(template, subject_of(page), plain_label(fact.label), many=False)
        yield _derived(page, "unanswerable", question, ABSENT, fact.label, (page.id, fact.page))


def _unmentioned(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    return unmentioned(page, corpus.names)


def _is_alike(key: str, own: set[str], other: set[str]) -> bool:
    """Whether a page has a label and otherwise the make-up of the one that lacks it."""
    return key in other and len(own & other) >= 3


def _preferences(corpus: Corpus, page: Document) -> Iterator[ByRule]:
    """Right value against another page's value of the same label, wrong here, of similar length."""
    config = corpus.config
    for fact in corpus.facts_of(page):
        wrong = list(islice(_wrong_values(fact, corpus), config.pairs_per_fact))
        if not wrong:
            yield Rejected(fact.page, "no wrong value of similar length for a preference", {"label": fact.label})
        for other in wrong:
            # By hash: a further pair, or one that goes, does not move the others.
            question = ranked(phrase(fact, config).trained, fact.key, other.answer)[0]
            yield _preference(page, fact, question, other)


def _wrong_values(fact: InfoFact, corpus: Corpus) -> Iterator[InfoFact]:
    """Answers of other pages to the same question, none of them true here, each once, in an order by hash."""
    page, others = corpus.pages[fact.page], corpus.answers[fact.group.key]
    here = normalise("\n".join([page.title, page.text, *(value for row in page.infobox for value in row.values)]))
    for answer in others.ring.after(fact.key, "wrong"):
        other = next((o for o in others.facts[answer] if o.page != fact.page), None)
        alike = 0.5 <= len(answer) / len(fact.answer) <= 2
        if other is not None and alike and not any(normalise(value) in here for value in other.values):
            yield other


def _preference(page: Document, fact: InfoFact, question: str, wrong: InfoFact) -> Sample:
    strategy = "fandom/preference/not-a-value-of-this-page"
    return Sample(
        kind="preference",
        id=short_id(strategy, fact.key, question, wrong.answer),
        messages=(Message(role="user", content=question),),
        chosen=fact.answer,
        rejected=wrong.answer,
        split_key=fact.key,
        evidence=fact.values,
        source=origin_of(page),
        parents=(page.id, wrong.page),
        generator=Origin(strategy=strategy),
    )


Maker = Callable[[Corpus, Document], Iterator[ByRule]]

ACROSS: Mapping[str, tuple[str, Maker]] = {
    "alias": ("alias", _aliases),
    "reverse": ("reverse", _reverse),
    "list": ("list", _lists),
    "true_false": ("true_false", _claims),
    "unanswerable": ("unanswerable", _gaps),
    "unmentioned": ("unanswerable", _unmentioned),
    "preference": ("preference", _preferences),
}
"""Rows that need every page, in their order: under which name they are asked for, and who makes those of a page."""
