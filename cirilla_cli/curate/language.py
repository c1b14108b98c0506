"""A filter by language, from scripts and common words alone: no model, no dependency, and no more than that can tell.

Scripts are told by Unicode block; Latin, the one script here that several languages share, by function words.
"""

import re
from collections import Counter

from cirilla_cli.curate.base import Refused, TextFilter
from cirilla_cli.curate.config import LanguageConfig

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("el", "\u0370-\u03ff\u1f00-\u1fff"),
    ("ru", "\u0400-\u052f"),
    ("he", "\u0590-\u05ff"),
    ("ar", "\u0600-\u06ff\u0750-\u077f"),
    ("hi", "\u0900-\u097f"),
    ("th", "\u0e00-\u0e7f"),
    ("ja", "\u3040-\u30ff"),
    ("ko", "\u1100-\u11ff\uac00-\ud7af"),
    ("zh", "\u3400-\u4dbf\u4e00-\u9fff"),
    ("latin", "A-Za-z\u00c0-\u024f\u1e00-\u1eff"),
)
"""Blocks of letters; of those that several languages use, the language that is named is the one assumed."""
_LETTERS = tuple((name, re.compile(f"[{block}]")) for name, block in _SCRIPTS)
_WORD = re.compile(r"[^\W\d_]+")

_COMMON = {
    "en": "the of and to in a is that was for it with as on be by this are at from which not or an his her they have "
    "had he she were but has their its been who will would there you",
    "de": "der die und in den von zu das mit sich des auf ist im dem nicht ein eine als auch es an werden aus er hat "
    "dass sie nach wird bei einer um am sind noch wie einem \u00fcber einen so zum war haben nur oder aber",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son "
    "ses mais comme ou si leur y dont elle aux cette ces \u00e9t\u00e9 nous vous \u00e0",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como m\u00e1s o pero sus le ha me si "
    "sin sobre este ya entre cuando todo esta ser son dos tambi\u00e9n fue",
    "it": "di che e la il un a per in una mi sono ho non ma lo ha le si con i da se no come ci questo qui del della "
    "al nel alla dei delle gli pi\u00f9 anche era \u00e8 essere sua suo",
    "pt": "de a o que e do da em um para com n\u00e3o uma os no se na por mais as dos como mas ao ele das seu sua ou "
    "quando muito nos j\u00e1 eu tamb\u00e9m s\u00f3 pelo pela at\u00e9 isso ela \u00e9 foi",
    "nl": "de en van ik te dat die in een hij het niet zijn is was op aan met als voor had er maar om hem dan zou of "
    "wat mijn men dit zo door over ze zich bij ook tot je mij uit der daar haar naar",
    "pl": "w i na z si\u0119 do nie to \u017ce jest o a jak po co tak za od go ale by\u0142 przez jego dla ich "
    "by\u0142a kt\u00f3ry mo\u017ce tylko ju\u017c czy oraz lub pod przed przy sobie jej bez kt\u00f3re ze",
}
"""Function words of the languages written in Latin letters."""
_SETS = {language: frozenset(words.split()) for language, words in _COMMON.items()}


class LanguageFilter(TextFilter):
    """Keeps texts in given languages."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config

    def judge(self, text: str) -> Refused | None:
        """Why ``text`` does not stay, None if it does."""
        language, share = language_of(text, min_words=self.config.min_words, min_common=self.config.min_common)
        if language in self.config.keep or (language is None and self.config.undecided == "keep"):
            return None
        if language is None:
            return Refused("language undecided", {"common_words": round(share, 4)})
        return Refused("another language", {"language": language, "share": round(share, 4)})


def language_of(text: str, *, min_words: int = 20, min_common: float = 0.1) -> tuple[str | None, float]:
    """The language of a text and the evidence: the script's share of its letters, or of its words the common ones.

    None where the text has no letters of a known script, or too few words, or too few that any language shares.
    """
    letters = Counter({name: len(pattern.findall(text)) for name, pattern in _LETTERS})
    total = letters.total()
    if not total:
        return None, 0.0
    # Japanese is written with Chinese characters too; kana, which Chinese has not, tells them apart.
    if letters["ja"] * 10 >= letters["zh"] > 0:
        letters["ja"] += letters.pop("zh")
    script, count = letters.most_common(1)[0]
    return _by_words(text, min_words, min_common) if script == "latin" else (script, count / total)


def _by_words(text: str, min_words: int, min_common: float) -> tuple[str | None, float]:
    words = [word.casefold() for word in _WORD.findall(text)]
    if len(words) < min_words:
        return None, 0.0
    shares = {language: sum(map(common.__contains__, words)) / len(words) for language, common in _SETS.items()}
    first, second = sorted(shares, key=lambda name: (-shares[name], name))[:2]
    clear = shares[first] >= min_common and shares[first] > shares[second]
    return (first if clear else None), shares[first]
