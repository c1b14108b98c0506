"""The kinds of rows that are told apart, and which of them a row is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from cirilla_cli.data.formats import chats, pairs, texts
from cirilla_cli.data.formats.drafts import Draft, NotThat
from cirilla_cli.data.rows import Document

Data = dict[str, Any]

_ABOUT = frozenset({"subject", "id", "source", "model", "metadata", "system", "split_key", "prompt_id"})
"""Keys that say something about a row, in any format."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One kind of row: how it is recognised and read."""

    about: str
    """What stands in it, for help and messages."""
    keys: tuple[frozenset[str], ...]
    """It has all keys of one of these."""
    read: Callable[[Data], Draft]
    uses: frozenset[str] = frozenset()
    """Keys that are read if they are there."""

    def claims(self, data: Mapping[str, Any]) -> bool:
        """Whether ``data`` has the keys of this format."""
        names = data.keys()
        return any([wanted <= names for wanted in self.keys])

    def unused(self, data: Mapping[str, Any]) -> set[str]:
        """Keys of ``data`` that are not read."""
        return data.keys() - self.uses - _ABOUT - frozenset().union(*self.keys)


def _has(*spellings: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(spelling.split()) for spelling in spellings)


ROWS: dict[str, RowFormat] = {
    "data-type": RowFormat(
        "`data type` with `text`: the lines of earlier tools", (frozenset({"data type"}),), texts.data_type,
        frozenset({"text"}),
    ),
    "messages": RowFormat(
        "`messages`, `conversations` or `conversation`: OpenAI, ShareGPT, Belle",
        _has("messages", "conversations", "conversation"), chats.conversation,
    ),
    "preference": RowFormat(
        "`chosen` and `rejected`, `prompt` or `question` beside or within them: TRL, HH, UltraFeedback binarized",
        _has("chosen rejected"), pairs.preference, frozenset({"prompt", "question", "messages"}),
    ),
    "completions": RowFormat(
        "`instruction` and scored `completions`: UltraFeedback", _has("instruction completions"),
        pairs.scored_completions,
    ),
    "alpaca": RowFormat(
        "`instruction`, perhaps `input`, and `output`: Alpaca", _has("instruction output"), chats.alpaca,
        frozenset({"input", "history"}),
    ),
    "dolly": RowFormat(
        "`instruction`, perhaps `context`, and `response`: Dolly", _has("instruction response"), chats.dolly,
        frozenset({"context"}),
    ),
    "prompt-completion": RowFormat(
        "`prompt` and `completion` or `response`: TRL, KTO's good ones",
        _has("prompt completion", "prompt response"), chats.prompt_completion, frozenset({"label"}),
    ),
    "question-answer": RowFormat(
        "`question` and `answer`", _has("question answer"), chats.question_answer,
    ),
    "text": RowFormat("`text`, perhaps with `title`", _has("text"), texts.text, frozenset({"title", "url"})),
}  # fmt: skip
"""By name, as `format` has it; `text` is taken only where nothing else is."""


_WORDS = sorted({*frozenset().union(*(keys for one in ROWS.values() for keys in one.keys)), *Document.model_fields})
"""Keys that a misspelt one may stand for."""


def format_of(data: Data) -> str:
    """The name of the format of a row.

    Raises:
        NotThat: none is known, or several are possible.
    """
    if "data type" in data:
        return "data-type"
    found = _claimants(tuple(data))
    if len(found) > 1:
        found = [name for name in found if not _is_repeated(name, data)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotThat(f"could be {' or '.join(found)}: `format` says which (format: {found[0]})")
    if isinstance(data.get("text"), str):
        return "text"
    raise NotThat(_unknown(data))


@lru_cache(maxsize=256)
def _claimants(keys: tuple[str, ...]) -> list[str]:
    """The formats whose keys a row has; most rows of a file have the same."""
    return [name for name, one in ROWS.items() if name != "text" and one.claims(dict.fromkeys(keys))]


def as_format(data: Data, name: str) -> RowFormat:
    """The format that was asked for.

    Raises:
        NotThat: the row has not its keys.
    """
    wanted = ROWS[name]
    if not wanted.claims(data) or (name == "text" and not isinstance(data["text"], str)):
        raise NotThat(f"is not of the format {name} ({wanted.about}): it has the keys {_keys(data)}")
    return wanted


def _is_repeated(name: str, data: Data) -> bool:
    """Whether a format is there only because another one's content stands there twice."""
    if name == "messages":
        return "chosen" in data and data.get("messages") == data["chosen"]
    return name in ("question-answer", "prompt-completion") and "chosen" in data and data["chosen"] in (
        data.get("answer"), data.get("completion"), data.get("response"),
    )  # fmt: skip


def _unknown(data: Data) -> str:
    if {"question", "answers"} <= data.keys():
        return "a question of an evaluation set, which `cirilla eval` reads; training on it would spoil the score"
    if {"id", "title", "text"} <= data.keys() or not isinstance(data.get("text", ""), str | list):
        return "`text` must be a string"
    known = (
        "documents, samples, `data type`, `messages` or `conversations`, `question`/`answer`, `instruction`/`output`, "
        "`prompt`/`completion`, `prompt`/`chosen`/`rejected`, `text`"
    )
    meant = [near for key in data if key not in _WORDS for near in get_close_matches(str(key), _WORDS, n=1)]
    remedy = f"; did you mean `{meant[0]}`?" if meant else ""
    return f"no known kind of row ({f'keys {_keys(data)}' if data else 'no keys'}){remedy}; known: {known}"


def _keys(data: Data) -> str:
    return ", ".join(sorted(map(str, data)))[:80]
