"""When an answer counts as right: equality after forgiving what does not matter."""

import re
import unicodedata
from collections.abc import Iterable

_SPACES = re.compile(r"\s+")


def normalise(text: str) -> str:
    """NFC, casefolded, runs of white space as one space, trimmed, one final full stop dropped."""
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text).casefold()).strip()
    return text.removesuffix(".").rstrip()


def matches(answer: str, answers: Iterable[str]) -> bool:
    """Whether ``answer`` equals one of ``answers`` after `normalise`."""
    given = normalise(answer)
    return any(given == normalise(right) for right in answers)
