"""What pages say together: other names, whose value something is, shared values, statements, gaps, preferences."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cirilla_cli.data.rows import Document, Message, Origin, Sample, short_id
from cirilla_cli.synth.base import Made, Rejected, origin_of, page_chat
from cirilla_cli.synth.config import FandomConfig
from cirilla_cli.synth.facts import InfoFact, is_person
from cirilla_cli.synth.kinds.unmentioned import unmentioned
from cirilla_cli.synth.phrases import Ring, fill, plain_label, ranked, subject_name, subject_of
from cirilla_cli.verify.match import normalise

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
    """All pages read so far and their facts."""

    pages: dict[str, Document] = field(default_factory=dict)
    facts: list[InfoFact] = field(default_factory=list)
    trained: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Trained questions by the key of their fact."""

    asked: dict[str, Sample] = field(default_factory=dict)
    """The first chat of each question, in its normal form."""

    def agrees(self, row: Sample) -> bool:
        """Whether a chat's question has this answer wherever it was asked before."""
        question, answer = (message.content for message in row.messages[:2])
        first = self.asked.get(normalise(question), row)
        return normalise(first.messages[1].content) == normalise(answer)

    def add(self, fact: InfoFact, trained: tuple[str, ...]) -> None:
        """Take in a fact and the questions trained on."""
        self.facts.append(fact)
        self.trained[fact.key] = trained

    def answers(self) -> dict[str, "Answers"]:
        """Of each kind of question, which facts have which answer."""
        groups: dict[str, dict[str, list[InfoFact]]] = defaultdict(lambda: defaultdict(list))
        for fact in self.facts:
            groups[fact.group.key][fact.answer].append(fact)
        return {key: Answers(facts, Ring(facts)) for key, facts in groups.items()}

    def by_group(self) -> dict[str, list[InfoFact]]:
        """Facts that answer the same kind of question."""
        groups: dict[str, list[InfoFact]] = defaultdict(list)
        for fact in self.facts:
            groups[fact.group.key].append(fact)
        return groups


@dataclass(frozen=True)
class Answers:
    """The facts that answer one kind of question, by their answers."""

    facts: dict[str, list[InfoFact]]
    ring: Ring


def across_pages(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """The rows that need every page, kind by kind in a fixed order."""
    makers = {"alias": _aliases, "reverse": _reverse, "list": _lists, "true_false": _claims, "unanswerable": _gaps}
    for name, maker in makers.items():
        if name in config.makes:
            yield from maker(corpus, config)
    if "unanswerable" in config.makes:
        yield from unmentioned(corpus.pages)
    if config.preferences:
        yield from _preferences(corpus, config)


def _derived(page: Document, rule: str, question: str, answer: str, what: str, pages: Sequence[str]) -> Sample:
    """A chat that follows from the documents; ``what`` says what to recompute, such as ``Capital: Vizima``."""
    return page_chat(page, rule, question, answer, (what,), pages)


def _aliases(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """Redirects: which page another name leads to, where it leads to one only and is no page's own title."""
    bearers: dict[str, list[str]] = defaultdict(list)
    for page in corpus.pages.values():
        for name in {normalise(name) for name in (*page.aliases, page.title)}:
            bearers[name].append(page.id)
    for page in corpus.pages.values():
        for alias in dict.fromkeys(page.aliases):
            others = [id_ for id_ in bearers[normalise(alias)] if id_ != page.id]
            if others or normalise(alias) == normalise(page.title):
                why = "the other name is not of this page alone"
                yield Rejected(page.id, why, {"alias": alias, "pages": others})
                continue
            templates = _ALIAS_WHO if is_person(page) else _ALIAS_WHAT
            for template in ranked(templates, page.id, alias)[: config.phrasings]:
                question = fill(template, alias, "", many=False)
                yield _derived(page, "alias", question, page.title, alias, (page.id,))


def _reverse(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """Whose value something is, where it stands in the infobox of one page alone."""
    owners: dict[str, set[str]] = defaultdict(set)
    for page in corpus.pages.values():
        for row in page.infobox:
            for value in row.values:
                owners[normalise(value)].add(page.id)
    for fact in corpus.facts:
        if len(fact.values) != 1 or len(owners[normalise(fact.answer)]) != 1:
            continue
        page, label = corpus.pages[fact.page], plain_label(fact.label)
        noun = not _NOT_NOUN.search(label)
        templates = (_REVERSE_WHO if is_person(page) else _REVERSE_WHAT) if noun else _REVERSE_ENTRY
        for template in ranked(templates, fact.key, "reverse")[: config.phrasings]:
            question = fill(template, fact.answer, label if noun else fact.label, many=False)
            yield _derived(page, "reverse", question, page.title, f"{fact.label}: {fact.answer}", (page.id,))


def _lists(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """All pages that share a value under a label, in the order they were read; short lists only."""
    shared: dict[tuple[str, str], list[InfoFact]] = defaultdict(list)
    for fact in corpus.facts:
        for value in fact.values:
            shared[fact.label, value].append(fact)
    for (label, value), facts in shared.items():
        if not 2 <= len(facts) <= _MOST_LISTED:
            continue
        pages = [corpus.pages[fact.page] for fact in facts]
        answer = ", ".join(page.title for page in pages)
        for template in ranked(_LIST, label, value)[: config.phrasings]:
            question = fill(template, value, label, many=True)
            yield _derived(pages[0], "list", question, answer, f"{label}: {value}", [page.id for page in pages])


def _claims(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """Statements about a page, half of them made false by another page's value of the same label."""
    others = corpus.answers()
    for fact in corpus.facts:
        wrong = list(islice(_wrong_values(fact, others[fact.group.key], corpus), 1))
        true = not wrong or short_id(fact.key, "claim") < "8"
        value, pages = (fact.values[0], [fact.page]) if true else (wrong[0].answer, [fact.page, wrong[0].page])
        page, claim = corpus.pages[fact.page], f"{fact.label}: {value}"
        template = ranked(_CLAIM, fact.key)[0]
        question = fill(template, subject_name(page), claim, many=False)
        yield _derived(page, "true_false", question, "True" if true else "False", claim, pages)


def _gaps(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """One label a page: given on a page of the same make-up, absent from this one and its text."""
    groups, labels = corpus.by_group(), {id_: _labels(page) for id_, page in corpus.pages.items()}
    asked: dict[str, set[str]] = defaultdict(set)
    for known in corpus.facts:
        asked[known.page].add(known.group.key)
    for page in corpus.pages.values():
        own, text = labels[page.id], normalise(page.text)
        absent = (key for key in ranked(sorted(groups), page.id) if key not in own | asked[page.id] and key not in text)
        alike = ((fact for fact in groups[key] if _is_alike(key, own, labels[fact.page])) for key in absent)
        fact = next((fact for facts in alike for fact in facts), None)
        if fact is not None:
            template = ranked(fact.group.templates, page.id, fact.group.key)[0]
            question = fill(template, subject_of(page), plain_label(fact.label), many=False)
            yield _derived(page, "unanswerable", question, ABSENT, fact.label, (page.id, fact.page))


def _is_alike(key: str, own: set[str], other: set[str]) -> bool:
    """Whether a page has a label and otherwise the make-up of the one that lacks it."""
    return key in other and len(own & other) >= 3


def _labels(page: Document) -> set[str]:
    return {plain_label(row.label) for row in page.infobox}


def _preferences(corpus: Corpus, config: FandomConfig) -> Iterator[Made]:
    """Right value against another page's value of the same label, wrong here, of similar length."""
    others = corpus.answers()
    for fact in corpus.facts:
        wrong = list(islice(_wrong_values(fact, others[fact.group.key], corpus), max(1, config.pairs_per_fact)))
        if not wrong:
            yield Rejected(fact.page, "no wrong value of similar length for a preference", {"label": fact.label})
        for other in wrong[: config.pairs_per_fact]:
            # By hash: a further pair, or one that goes, does not move the others.
            question = ranked(corpus.trained[fact.key], fact.key, other.answer)[0]
            yield _preference(corpus.pages[fact.page], fact, question, other)


def _wrong_values(fact: InfoFact, others: "Answers", corpus: Corpus) -> Iterator[InfoFact]:
    """Answers of other pages to the same question, none of them true here, each once, in an order by hash."""
    page = corpus.pages[fact.page]
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
