"""What a page does not say: asked about another page that it never names."""

import re
from collections.abc import Iterator, Mapping

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.phrases import Ring, fill, ranked, subject_name

_ASKED = (
    'What does the page "{x}" say about "{label}"?',
    'What can be learnt about "{label}" from the page "{x}"?',
    'Does the page "{x}" mention "{label}", and if so, what does it say?',
    'What do we learn about "{label}" on the page "{x}"?',
)
_FEWEST_LETTERS = 4


class Names:
    """The names of all pages, and the words in them."""

    def __init__(self, pages: Mapping[str, Document]) -> None:
        self.ring = Ring(pages)
        self.named = {id_: subject_name(page) for id_, page in pages.items()}
        self.words = {id_: _words(name) for id_, name in self.named.items()}


def unmentioned(page: Document, names: Names) -> Iterator[Sample]:
    """One question, on the first other page by hash of whose name no word stands in this one."""
    has, named, words = _words(_everything(page)), names.named, names.words
    others = (id_ for id_ in names.ring.after(page.id, "unmentioned") if words[id_] and not words[id_] & has)
    other = next(others, None)
    if other is not None:
        question = fill(ranked(_ASKED, page.id, other)[0], named[page.id], named[other], many=False)
        answer = f'The page does not mention "{named[other]}".'
        yield page_chat(page, "unmentioned", question, answer, (named[other],), (page.id, other))


def _everything(page: Document) -> str:
    values = (value for row in page.infobox for value in (row.label, *row.values))
    return "\n".join((page.title, page.text, *page.aliases, *values))


def _words(text: str) -> frozenset[str]:
    """The words of some length, without case and a plural's or possessive's s."""
    found = re.findall(rf"\w{{{_FEWEST_LETTERS},}}", text.casefold())
    return frozenset(word.removesuffix("s") for word in found)
