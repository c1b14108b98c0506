"""Good rows, and twenty ways in which a row of text goes wrong on its way: each takes a good line and spoils it."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

_WORDS = re.findall(r"\S+", 'the witcher rides a grey horse through rain toward Żywiec and says "wait" at every : gate')


def good_rows(kind: str, count: int) -> Iterator[dict[str, Any]]:
    """``count`` documents or chats of about 1 kB, as our own verbs write them."""
    draw = random.Random(kind)
    for number in range(count):
        yield document(number, draw) if kind == "document" else chat(number, draw)


def document(number: int, draw: random.Random) -> dict[str, Any]:
    """A page."""
    return {
        "id": str(number), "title": f"Page {number}", "text": _prose(draw, 780), "license": {"name": "CC BY-SA 3.0"},
        "infobox": [{"label": "Race", "values": ["Human"]}], "sha256": "0" * 64,
    }  # fmt: skip


def chat(number: int, draw: random.Random) -> dict[str, Any]:
    """A conversation of four turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": _prose(draw, 180)} for i in range(4)]
    return {
        "kind": "chat", "id": str(number), "messages": turns, "split_key": f"page {number}", "source": "fandom",
        "generator": {"strategy": "infobox"},
    }  # fmt: skip


def _prose(draw: random.Random, size: int) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size:
        words.append(draw.choice(_WORDS))
    return " ".join(words)


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def spoil(raw: bytes) -> bytes:
        data = json.loads(raw)
        made = change(data)
        return json.dumps(data if made is None else made, ensure_ascii=False).encode() + b"\n"

    return spoil


def _set(**values: Any) -> Callable[[bytes], bytes]:
    return _changed(lambda data: data.update(values))


def _deep(data: dict[str, Any]) -> None:
    if "messages" in data:
        data["messages"][0]["content"] = None
    else:
        data["infobox"][0]["values"] = [3]


def _into(raw: bytes, what: bytes) -> bytes:
    """The line with ``what`` at the beginning of its first text."""
    return re.sub(rb'("(?:content|text)": ")', lambda begin: begin[1] + what, raw, count=1) + b"\n"


def _key(data: dict[str, Any]) -> str:
    return "source" if "messages" in data else "text"


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "not JSON": lambda raw: raw.replace(b'"', b"'") + b"\n",
    "cut short": lambda raw: raw[: len(raw) // 2] + b"\n",
    "torn last line": lambda raw: raw[:-20],
    "two rows on one line": lambda raw: raw + raw + b"\n",
    "comma too many": lambda raw: raw[:-1] + b",}\n",
    "bare control character": lambda raw: _into(raw, b"\x07"),
    "not UTF-8": lambda raw: _into(raw, b"\xe4"),
    "surrogate as bytes": lambda raw: raw[:-2] + b"\xed\xa0\x80" + raw[-2:] + b"\n",
    "half a surrogate pair": lambda raw: _into(raw, b"\\ud83d "),
    "an array": lambda raw: b"[" + raw + b"]\n",
    "a number": lambda raw: b"17\n",
    "null": lambda raw: b"null\n",
    "nested without end": lambda raw: b'{"id": ' + b"[" * 5000 + b"\n",
    "a key twice": lambda raw: raw[:-1] + b', "id": "again"}\n',
    "a key twice, inside": lambda raw: raw.replace(b'{"role": "user"', b'{"role": "user", "role": "user"', 1).replace(
        b'{"label": "Race"', b'{"label": "Race", "label": "Sex"', 1) + b"\n",
    "a missing field": _changed(lambda data: data.pop(_key(data)) and None),
    "a wrong type": _set(id=7),
    "a wrong type, inside": _changed(_deep),
    "an unknown key": _set(titel="x"),
    "an unknown kind of row": _changed(lambda data: {"foo": 1, "bar": data["id"]}),
}  # fmt: skip
"""By name: a good line without its line end, to a spoiled one with it (or without: the torn one is the last)."""
