"""A tokenizer's vocabulary extended: byte-pair encoding taken up again where its training ended (arXiv:2512.03989).

texts --cut into words--> counted words --the old tokenizer--> runs of ids --join the most frequent pair--> pieces

New pieces come last, so all old merges are made before the first new one: the new tokens of a text are its old ones,
some of them joined, and a text in which no new piece occurs keeps its ids.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cirilla_cli.data.rows import content_hash, held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.pairs import Joiner, Run

if TYPE_CHECKING:
    from cirilla_cli.data.config import ExtendedTokenizerConfig
    from cirilla_cli.data.tokenizer import Tokenizer

FILE = "extends.json"
# Share of the texts in which no piece is looked for, and the most characters of them.
_HELD_OUT, _MOST_HELD = 0.1, 4_000_000
_SIGNS = r"!-/:-@\[-`{-~\u2000-\u206f\u3000-\u303f"
# What becomes one piece at most: letters or signs with the space before them, or spaces; digits stay single.
_WORD = re.compile(rf" ?[^\s\d{_SIGNS}]+| ?[{_SIGNS}]+|\s+")


@dataclass(frozen=True)
class Extension:
    """What a tokenizer adds to another one, as it stands in `extends.json` beside it."""

    parent: str
    """The other's hash."""
    first: int
    """The first new id; those below are the other's and unchanged."""
    spelled: tuple[Run, ...]
    """Of each new id, the other's ids that it was first joined from."""
    listed: int = 0
    """How many of them the listed tokens took, parts included."""
    held_out_words: int = 0
    tokens_per_word_before: float | None = None
    tokens_per_word: float | None = None
    """On texts in which no piece was looked for; null where there were too few texts to hold one out."""

    @classmethod
    def parse(cls, text: bytes | str, file: Path) -> Self:
        """Read what `text` wrote; ``file`` is named where it cannot be understood."""
        try:
            values = json.loads(text)
            return cls(**{**values, "spelled": tuple(tuple(map(int, ids)) for ids in values["spelled"])})
        except (LookupError, TypeError, ValueError) as error:
            raise CirillaError(f"{file}: not the record of an extended tokenizer: {error}") from None

    def text(self) -> str:
        """As it stands in the file."""
        return json.dumps(asdict(self)) + "\n"


def extend(config: "ExtendedTokenizerConfig", base: "Tokenizer", texts: Iterable[str]) -> "Tokenizer":
    """``base`` with pieces for the listed tokens, and for what is frequent in ``texts``.

    Raises:
        CirillaError: its vocabulary is not of byte pairs, a listed token cannot be one, or nothing new is found.
    """
    known, (words, held) = base.vocabulary(), _words(texts)
    # Some tokenizers put a space before every text: theirs are words behind a space as they stand.
    puts_space = known.pieces[base.encode("a")[0]][:1] == "▁"
    counts = Counter[str]()
    for word, number in words.items():
        counts[word.lstrip() if puts_space else word] += number
    forms = [(token, runs) for token in config.tokens for runs in base.runs([token, f" {token}"][: 2 - puts_space])]
    every = zip(base.runs(list(counts)), counts.values(), strict=True)
    counted = [(run, number) for runs, number in every for run in runs]
    joiner = Joiner(known, [*((runs[0], 0) for _, runs in forms), *counted])
    apart = dict[str, list[str]]()
    for place, (token, runs) in enumerate(forms):
        if len(runs) > 1 or not joiner.join_all(place):
            apart.setdefault(token, [base.decode(run) for run in runs])
    if apart:
        raise _unjoinable(apart)
    listed = len(joiner.spelled)
    while len(joiner.spelled) < listed + config.pieces and joiner.join_best():
        pass
    if not joiner.spelled:
        raise CirillaError("nothing in the texts is frequent enough for a new piece", hint="give it more text")
    found = Extension(base.hash, base.vocab_size, tuple(joiner.spelled), listed)
    pieces = joiner.pieces[found.first :]
    return base.with_pieces(pieces, _measured(found, held, base, base.with_pieces(pieces, found)))


def _words(texts: Iterable[str]) -> tuple[Counter[str], list[str]]:
    held, words = list[str](), Counter[str]()
    for text in texts:
        if held_out(content_hash(text), frac=_HELD_OUT) and sum(map(len, held)) < _MOST_HELD:
            held.append(text)
        else:
            words.update(_WORD.findall(text))
    return words, held


def _unjoinable(apart: dict[str, list[str]]) -> CirillaError:
    said = [f"`tokenizer.tokens` holds {token!r}, which cannot be one: {_why(runs)}" for token, runs in apart.items()]
    return CirillaError("\n".join(said), hint="leave it out" if len(said) == 1 else "leave them out")


def _why(runs: list[str]) -> str:
    kept = ", ".join("bytes" if "\ufffd" in run else repr(run) for run in runs)
    if len(runs) == 1:
        return "it would be a control token, or parts of it would make older pieces where they were not made before"
    return f"the tokenizer keeps {kept} apart"


def _measured(found: Extension, held: list[str], before: "Tokenizer", after: "Tokenizer") -> Extension:
    words = sum(len(text.split()) for text in held)
    if not words:
        return found
    sizes = [round(len(tokenizer.encode_batch(held).ids_T) / words, 4) for tokenizer in (before, after)]
    return replace(found, held_out_words=words, tokens_per_word_before=sizes[0], tokens_per_word=sizes[1])


def runs_of(ids: Iterable[int], words: Iterable[int], pieces: list[str]) -> list[Run]:
    """Ids cut where the word changes, and around those that are never joined."""
    placed = zip(ids, words, count(1))
    grouped = groupby(placed, key=lambda one: (one[1], 0 if pieces[one[0]] else one[2]))
    return [tuple(id_ for id_, _, _ in group) for _, group in grouped]
