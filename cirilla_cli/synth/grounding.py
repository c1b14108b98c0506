"""Checks of what a teacher wrote against the text it was shown; nothing is taken on trust."""

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from cirilla_cli.verify.match import normalise

_ONE_TO_ONE = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u00a0", "''\"\"-- ")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"(?<![.!?:;] )(?<!^)\b[A-Z\u00c0-\u00de][\w'-]+")
_REFUSAL = re.compile(
    r"\b(?:i (?:cannot|can't|am unable|do not know|don't know)|as an? (?:ai|language model)|i'm sorry|i am sorry|"
    r"not (?:mentioned|specified|stated|provided|given))\b"
)
_ABOUT_TEXT = re.compile(
    r"\b(?:(?:the|this|that|given|provided|above) "
    r"(?:text|passage|article|document|excerpt|context|paragraph|page|source)|"
    r"according to the (?:text|passage|article|author)|mentioned above)\b"
)
_MOST_QUESTION, _MOST_ANSWER = 300, 800


class Answer(BaseModel):
    """Something that a teacher is asked for: strict types; what was not asked for is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Pair(Answer):
    """A question, its answer, and the passage that the answer rests on."""

    question: str
    answer: str
    evidence: str


class Pairs(Answer):
    """What a teacher is asked for."""

    pairs: list[Pair] = Field(min_length=1)


def quoted(quote: str, text: str) -> str | None:
    """The passage of ``text`` that ``quote`` repeats up to case, spacing and kinds of quotation mark, verbatim."""
    words = quote.translate(_ONE_TO_ONE).strip().strip("\"'").removesuffix(".").split()
    if not words:
        return None
    pattern = r"\s+".join(re.escape(word) for word in words)
    match = re.search(pattern, text.translate(_ONE_TO_ONE), re.IGNORECASE)
    return text[match.start() : match.end()] if match else None


def fault(pair: Pair, text: str, title: str) -> str | None:
    """Why ``pair`` cannot be used, as a fixed phrase, or None if it can; ``text`` is what the teacher was shown."""
    question, answer = pair.question.strip(), pair.answer.strip()
    if not is_question(question):
        return NO_QUESTION
    if not 0 < len(answer) <= _MOST_ANSWER:
        return "no answer of acceptable length"
    if normalise(answer) in normalise(question):
        return "the question gives the answer away"
    if _ABOUT_TEXT.search(question.casefold()):
        return ABOUT_TEXT
    return unsound(answer, [pair.evidence], text, title)


def is_question(said: str) -> bool:
    """Whether ``said`` has the form of a question."""
    return 8 <= len(said) <= _MOST_QUESTION and said.endswith("?")


NO_QUESTION = "not a question of acceptable length"
ABOUT_TEXT = "speaks of the text instead of the matter"


def unsound(answer: str, evidence: Sequence[str], text: str, title: str) -> str | None:
    """`fault` of an answer without its question, of any length; every piece of ``evidence`` must stand in ``text``."""
    if _REFUSAL.search(answer.casefold()):
        return "the answer is a refusal"
    if _ABOUT_TEXT.search(answer.casefold()):
        return ABOUT_TEXT
    if any(quoted(piece, text) is None for piece in evidence):
        return "the evidence does not stand in the page"
    return _unfounded(answer, f"{title}\n{text}")


def _unfounded(answer: str, text: str) -> str | None:
    if not numbers(answer) <= numbers(text):
        return FOREIGN_NUMBER
    plain = text.translate(_ONE_TO_ONE).casefold()
    return FOREIGN_NAME if any(name not in plain for name in names(answer)) else None


def numbers(text: str) -> set[str]:
    """The numbers in ``text``, as they are written."""
    return set(_NUMBER.findall(text))


def names(text: str) -> set[str]:
    """Words in capitals that do not begin a sentence, casefolded."""
    found = _NAME.findall(text.translate(_ONE_TO_ONE))
    return {name.casefold().removesuffix("'s").strip("'") for name in found}


FOREIGN_NUMBER = "a number of the answer does not stand in the page"
FOREIGN_NAME = "a name of the answer does not stand in the page"


def chunks(text: str, most: int) -> list[str]:
    """``text`` in verbatim pieces of at most ``most`` characters, cut at paragraphs, else sentences, else words."""
    pieces, start = [], 0
    while start < len(text):
        end = len(text) if len(text) - start <= most else _cut(text, start, start + most)
        pieces.append(text[start:end].strip())
        start = end
    return [piece for piece in pieces if piece]


def _cut(text: str, start: int, end: int) -> int:
    for mark in ("\n\n", "\n", ". ", " "):
        found = text.rfind(mark, start + 1, end)
        if found > start + (end - start) // 4:
            return found + len(mark)
    return end
