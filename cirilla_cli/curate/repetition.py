"""A filter of texts that repeat themselves, by Gopher's measures (Rae et al. 2021, arXiv:2112.11446, table A1)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from cirilla_cli.curate.base import Refused, TextFilter
from cirilla_cli.curate.config import RepetitionConfig

_PARAGRAPHS = re.compile(r"\n\s*\n")
_TOP, _REPEATED = range(2, 5), range(5, 11)


class Repetition(TextFilter):
    """Shares of lines, paragraphs and n-grams that stand earlier in the same text."""

    def __init__(self, config: RepetitionConfig) -> None:
        self.config = config

    def judge(self, text: str) -> Refused | None:
        """Why ``text`` does not stay, None if it does."""
        for reason, share, limit in self._measured(text):
            if share > limit:
                return Refused(reason, {"found": round(share, 4), "limit": limit})
        return None

    def _measured(self, text: str) -> Iterator[tuple[str, float, float]]:
        """Each measure's name, value and limit, the cheap ones first."""
        own = self.config
        lines, line_chars = repeated_share(text.splitlines())
        yield "repeated lines", lines, own.lines
        yield "characters in repeated lines", line_chars, own.line_chars
        paragraphs, paragraph_chars = repeated_share(_PARAGRAPHS.split(text))
        yield "repeated paragraphs", paragraphs, own.paragraphs
        yield "characters in repeated paragraphs", paragraph_chars, own.paragraph_chars
        words = text.split()
        if len(words) < own.min_words:
            return
        for n, limit in zip(_TOP, own.top_grams, strict=True):
            yield f"commonest {n}-gram", top_share(words, n), limit
        for n, limit in zip(_REPEATED, own.repeated_grams, strict=True):
            share = repeated_gram_share(words, n)
            yield f"repeated {n}-grams", share, limit
            if share == 0:
                return  # longer n-grams cannot repeat where shorter ones do not


def repeated_share(parts: Sequence[str]) -> tuple[float, float]:
    """Share of non-empty parts that stand earlier, and their share of all characters."""
    stripped = [part.strip() for part in parts if part.strip()]
    if not stripped:
        return 0.0, 0.0
    seen: set[str] = set()
    count = chars = 0
    for part in stripped:
        if part in seen:
            count, chars = count + 1, chars + len(part)
        seen.add(part)
    return count / len(stripped), chars / sum(map(len, stripped))


def top_share(words: Sequence[str], n: int) -> float:
    """Share of the characters of words that stand in an occurrence of the commonest n-gram; 0 where none repeats."""
    counts = Counter(_grams(words, n))
    if not counts or (most := max(counts.values())) < 2:
        return 0.0
    top = max((gram for gram, count in counts.items() if count == most), key=lambda gram: (sum(map(len, gram)), gram))
    return _covered(words, n, [i for i, gram in enumerate(_grams(words, n)) if gram == top])


def repeated_gram_share(words: Sequence[str], n: int) -> float:
    """Share of the characters of words that stand in an n-gram that began earlier; each word counts once."""
    seen: set[tuple[str, ...]] = set()
    starts = []
    for i, gram in enumerate(_grams(words, n)):
        if gram in seen:
            starts.append(i)
        seen.add(gram)
    return _covered(words, n, starts)


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _covered(words: Sequence[str], n: int, starts: Sequence[int]) -> float:
    """Share of the words' characters in the n-grams that begin at ``starts``."""
    if not starts:
        return 0.0
    inside = {i for start in starts for i in range(start, start + n)}
    return sum(len(words[i]) for i in inside) / sum(map(len, words))
