"""Typing noise: questions as hurried people type them, with the answers of the clean ones."""

import random
import re
from collections.abc import Iterable, Iterator

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.phrases import ranked

_QUOTED = re.compile(r'"[^"]*"')
_WORD = re.compile(r"\b[a-z]{4,}\b")
_NEAR = {
    "a": "s", "b": "v", "c": "x", "d": "f", "e": "r", "f": "g", "g": "h", "h": "j", "i": "o", "j": "k", "k": "l",
    "l": "k", "m": "n", "n": "m", "o": "p", "p": "o", "q": "w", "r": "t", "s": "d", "t": "y", "u": "i", "v": "b",
    "w": "e", "x": "c", "y": "u", "z": "x",
}  # fmt: skip
"""A key's neighbour."""


def noisy(document: Document, rows: Iterable[Sample], most: int) -> Iterator[tuple[Sample, Sample]]:
    """At most ``most`` of a page's rows by hash, each with a row that asks it again with a slip of the finger."""
    questions = {row.messages[0].content: row for row in rows if len(row.messages) == 2}
    made = 0
    for question in ranked(list(questions), document.id, "noise"):
        typed = mistyped(question, document.title, random.Random(f"{document.id}\0{question}"))
        if typed is None or made == most:
            continue
        made += 1
        row = questions[question]
        yield row, page_chat(document, "noise", typed, row.messages[1].content, row.evidence)


def mistyped(question: str, title: str, chance: random.Random) -> str | None:
    """``question`` with one mistyped word; sometimes also without capitals, apostrophes or the question mark.

    Names (words with a capital, words of the title) and what stands in quotation marks keep their letters.
    None: there is no word to mistype.
    """
    inside = [match.span() for match in _QUOTED.finditer(question)]
    kept = title.casefold()
    words = [w for w in _WORD.finditer(question) if w[0] not in kept and not any(a <= w.start() < b for a, b in inside)]
    if not words:
        return None
    word = chance.choice(words)
    typed = question[: word.start()] + _slip(word[0], chance) + question[word.end() :]
    if chance.random() < 0.5 and not inside:
        typed = typed.lower()
    if chance.random() < 0.3 and not inside:
        typed = typed.replace("'s", "s")
    return typed.removesuffix("?") if chance.random() < 0.5 else typed


def _slip(word: str, chance: random.Random) -> str:
    """Two letters swapped, one left out, one doubled, or a key beside the right one; never the word itself."""
    at = chance.randrange(len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    slips = [
        swapped if swapped != word else word[:at] + word[at + 1 :],
        word[:at] + word[at + 1 :],
        word[: at + 1] + word[at:],
        word[:at] + _NEAR[word[at]] + word[at + 1 :],
    ]
    return chance.choice(slips)
