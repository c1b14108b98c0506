"""True or false: sentences of the page, some of them made false by a "not" or another number."""

import re
from collections.abc import Iterator
from itertools import islice

from cirilla_cli.data.rows import Document, Sample, short_id
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.outline import statements
from cirilla_cli.synth.phrases import fill, ranked, subject_name

_ASKED = (
    'True or false, according to the page "{x}"? {label}',
    'Does the page "{x}" say this? Answer true or false. {label}',
    'Going by the page "{x}", is this statement true or false? {label}',
    'Decide whether the page "{x}" bears this out, and answer true or false: {label}',
)
_NUMBER = re.compile(r"(?<![\w,.-])[1-9]\d{1,3}(?![\w,%-]|\.\d)")
_SMALLEST, _LARGEST = 3, 19
_TRIED = 50
"""Sentences looked at: enough for any page, and a page of a megabyte takes no longer than others."""


def text_claims(document: Document, most: int) -> Iterator[Sample]:
    """At most ``most`` statements by hash, false ones first, and never more true ones than false ones but one."""
    title, said = subject_name(document), ranked(statements(document), document.id, "claims")[:_TRIED]
    turned = ((sentence, falsified(sentence, document)) for sentence in said)
    wrong = dict(islice(((right, false) for right, false in turned if false is not None), most // 2))
    right = [sentence for sentence in said if sentence not in wrong][: min(most - len(wrong), len(wrong) + 1)]
    for sentence, claim in (*wrong.items(), *zip(right, right, strict=True)):
        question = fill(ranked(_ASKED, document.id, sentence)[0], title, claim, many=False)
        answer = "False" if sentence in wrong else "True"
        yield page_chat(document, "text_claim", question, answer, (sentence,))


def falsified(sentence: str, document: Document) -> str | None:
    """The sentence with "not" after its first verb, where that is certain, or with another number; else None.

    The number is one that the page has nowhere, a few more or less, so that no other sentence makes it true.
    """
    name = re.escape(subject_name(document).split(" (")[0])
    negated = re.sub(rf"^((?:The )?{name} (?:is|was|are|were)) (?=(?:an?|the) )", r"\1 not ", sentence)
    if negated != sentence and not re.search(r" (?:but|and) ", sentence):
        return negated
    number = _NUMBER.search(sentence)
    if number is None:
        return None
    shift = _SMALLEST + int(short_id(document.id, sentence), 16) % (_LARGEST - _SMALLEST)
    other = str(int(number[0]) + shift)
    return None if other in document.text else sentence[: number.start()] + other + sentence[number.end() :]
