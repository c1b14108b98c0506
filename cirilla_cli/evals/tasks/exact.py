"""Whether an answer under way can still become one of the accepted ones."""

import re
import unicodedata
from collections.abc import Sequence

from cirilla_cli.verify.match import normalise

MOST_BLANK = 8
"""An answer that begins with more white space than this counts as none."""

_SPACES = re.compile(r"\s+")


class Hopeless:
    """Tells when no continuation of a text can match the accepted answers; never too early, but for white space.

    What follows may still change the last characters (a mark that combines with them, or a space that is trimmed), so
    only the part before the last ASCII character, which nothing combines across, is compared.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        plain = [normalise(answer) for answer in answers]
        # `normalise` forgives one full stop, before which a space may stand.
        self._forms = [form for text in plain for form in (text, f"{text}.", f"{text} .")]

    def __call__(self, begun: str) -> bool:
        """Whether an answer that begins with ``begun`` can no longer match."""
        if len(begun) - len(begun.lstrip()) > MOST_BLANK:
            return True
        fixed = _SPACES.sub(" ", unicodedata.normalize("NFC", _settled(begun)).casefold()).strip()
        return not any(form.startswith(fixed) for form in self._forms)


def _settled(text: str) -> str:
    last = next((i for i in range(len(text) - 1, -1, -1) if text[i].isascii()), 0)
    return text[:last]
