"""Conversations of several turns about one page; after the first turn a pronoun or nothing stands for the subject."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cirilla_cli.data.rows import Document, Message, Origin, Sample, short_id
from cirilla_cli.synth.base import origin_of
from cirilla_cli.synth.facts import (
    InfoFact,
    first_sentence,
    first_sentences,
    is_about,
    is_person,
    lead_of,
    told_sections,
)
from cirilla_cli.synth.outline import sentences, told
from cirilla_cli.synth.phrases import fill, plain_label, ranked, subject_of

_OPENING = ("Tell me about {x}.", "What should I know about {x}?", "I would like to learn about {x}.", "Describe {x}.")
_MORE = ("Tell me more.", "Please go on.", "What else should I know?", "Is there more to say?", "And what else?")
_PART = (
    'What does the page say under "{label}"?',
    'What is written under "{label}"?',
    'How does the section "{label}" begin?',
)
_NEXT_PART = (
    'And what does it say under "{label}"?',
    'And under "{label}"?',
    'What about the section "{label}"?',
)
_FACTS, _PARTS, _MOST_CHARS = 2, 2, 300


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, which stands in ``evidence``."""

    question: str
    answer: str
    evidence: tuple[str, ...]


def chains(document: Document, facts: Sequence[InfoFact], most_chars: int) -> Iterator[Sample]:
    """One conversation of two to six turns, where the page gives more than its first sentence."""
    paragraph = lead_of(document)
    first = first_sentence(paragraph, most_chars)
    if not first or not told(first) or not is_about(document, first):
        return
    opening = fill(ranked(_OPENING, document.id, "chain")[0], subject_of(document), "", many=False)
    turns = [Turn(opening, first, (first,))]
    turns += [*_more(document, paragraph), *_asides(document, facts), *_parts(document)]
    if len(turns) > 1:
        yield _conversation(document, turns)


def _more(document: Document, paragraph: str) -> Iterator[Turn]:
    """The sentence after the first."""
    following = list(sentences(paragraph))[1:2]
    if following and told(following[0]) and len(following[0]) <= _MOST_CHARS:
        yield Turn(ranked(_MORE, document.id, "chain")[0], following[0], (following[0],))


def _asides(document: Document, facts: Sequence[InfoFact]) -> Iterator[Turn]:
    """Labelled values, asked for with "his", "her" or "its"."""
    whose, made = _whose(document), 0
    for fact in facts:
        asked = [text for text in fact.group.templates if "{x's}" in text and not re.search(r"\{[xX]\}", text)]
        if whose and asked and made < _FACTS:
            made += 1
            template = ranked(asked, fact.key, "chain")[0].replace("{x's}", whose)
            question = fill(template, "", plain_label(fact.label), many=len(fact.values) > 1)
            yield Turn(question, fact.answer, fact.values)


def _whose(document: Document) -> str | None:
    """The possessive pronoun of a page's subject; None where the text does not tell."""
    if not is_person(document):
        return "its"
    words = re.findall(r"\w+", document.text.casefold())
    he, she = (sum(word in forms for word in words) for forms in (("he", "his", "him"), ("she", "her", "hers")))
    return "his" if he > 2 * she else "her" if she > 2 * he else None


def _parts(document: Document) -> Iterator[Turn]:
    """How headed parts begin, in the page's order."""
    fit = [(part.heading, first_sentences(text, _MOST_CHARS)) for part, text in told_sections(document)]
    good = {heading: answer for heading, answer in fit if answer and told(answer)}
    chosen = set(ranked(list(good), document.id, "chain")[:_PARTS])
    for number, heading in enumerate(heading for heading in good if heading in chosen):
        templates = _NEXT_PART if number else _PART
        question = fill(ranked(templates, document.id, heading)[0], "", heading, many=False)
        yield Turn(question, good[heading], (good[heading],))


def _conversation(document: Document, turns: Sequence[Turn]) -> Sample:
    said = ((("user", turn.question), ("assistant", turn.answer)) for turn in turns)
    messages = tuple(Message.model_validate({"role": role, "content": text}) for turn in said for role, text in turn)
    strategy = "fandom/multi_turn"
    return Sample(
        kind="chat",
        id=short_id(strategy, document.id, *(message.content for message in messages)),
        messages=messages,
        split_key=document.id,
        evidence=tuple(piece for turn in turns for piece in turn.evidence),
        source=origin_of(document),
        parents=(document.id,),
        generator=Origin(strategy=strategy),
    )
