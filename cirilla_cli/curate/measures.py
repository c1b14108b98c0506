"""Filters by simple measures of a text: its length, and what its words look like."""

from cirilla_cli.curate.base import Refused, TextFilter
from cirilla_cli.curate.config import LengthConfig, WordsConfig

_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf", "\u25e6")
_ELLIPSES = ("...", "\u2026")


class Length(TextFilter):
    """Between least and most characters and words."""

    def __init__(self, config: LengthConfig) -> None:
        self.config = config

    def judge(self, text: str) -> Refused | None:
        """Why ``text`` does not stay, None if it does."""
        own, stripped = self.config, text.strip()
        for unit, count, least, most in (
            ("characters", len(stripped), own.min_chars, own.max_chars),
            ("words", len(stripped.split()), own.min_words, own.max_words),
        ):
            if count < least:
                return Refused(f"too few {unit}", {"found": count, "limit": least})
            if most is not None and count > most:
                return Refused(f"too many {unit}", {"found": count, "limit": most})
        return None


class Words(TextFilter):
    """Words and lines that look like prose."""

    def __init__(self, config: WordsConfig) -> None:
        self.config = config

    def judge(self, text: str) -> Refused | None:
        """Why ``text`` does not stay, None if it does."""
        words, lines = text.split(), [line.strip() for line in text.splitlines() if line.strip()]
        if not words:
            return Refused("no words")
        mean = sum(map(len, words)) / len(words)
        if not self.config.min_mean_chars <= mean <= self.config.max_mean_chars:
            limit = self.config.min_mean_chars if mean < self.config.min_mean_chars else self.config.max_mean_chars
            return Refused(f"words too {'short' if mean < limit else 'long'}", _numbers(mean, limit))
        alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(words)
        if alphabetic < self.config.min_alphabetic:
            return Refused("too few words with letters", _numbers(alphabetic, self.config.min_alphabetic))
        for reason, share, limit in (
            ("too many symbols", _symbols(text) / len(words), self.config.max_symbols),
            ("too many bullets", sum(x.startswith(_BULLETS) for x in lines) / len(lines), self.config.max_bullets),
            ("too many ellipses", sum(x.endswith(_ELLIPSES) for x in lines) / len(lines), self.config.max_ellipses),
        ):
            if share > limit:
                return Refused(reason, _numbers(share, limit))
        return None


def _symbols(text: str) -> int:
    """Hash signs and ellipses."""
    return text.count("#") + sum(map(text.count, _ELLIPSES))


def _numbers(found: float, limit: float) -> dict[str, float | str]:
    return {"found": round(found, 4), "limit": limit}
