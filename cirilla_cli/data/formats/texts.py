"""Rows that hold running text, and the lines of earlier tools that say themselves what they hold."""

from typing import Any, TypeGuard

from cirilla_cli.data.formats.chats import chat
from cirilla_cli.data.formats.drafts import Draft, NotThat, Text, exchange, optional, turns_of

Data = dict[str, Any]


def text(data: Data) -> Text:
    """`text`, perhaps with `title` and `url`."""
    return Text(optional(data.get("title")) or "", data["text"], url=optional(data.get("url")))


def data_type(data: Data) -> Draft:
    """`subject`, `text`, `data type`; plain text may be a list of paragraphs, a conversation nested pairs."""
    kind, said = data["data type"], data.get("text")
    if kind == "plain text":
        return _plain(data, said)
    if kind == "conv":
        return chat(data, turns_of(said) if not _is_nested(said) else _nested(said))
    if kind == "bert":
        raise NotThat(
            "`data type` is 'bert', a text with a label: `cirilla sft` reads those with data.kind=labelled_text"
        )
    raise NotThat(f"`data type` is {kind!r}, must be 'plain text' or 'conv' (or 'bert', for a classifier)")


def _plain(data: Data, said: Any) -> Text:
    if isinstance(said, list) and all(isinstance(part, str) for part in said):
        said = "\n\n".join(said)
    if not isinstance(said, str):
        raise NotThat("`text` must be a string or a list of strings for data type 'plain text'")
    return Text(str(data.get("subject") or ""), said)


def _is_nested(said: Any) -> TypeGuard[list[Any]]:
    return isinstance(said, list) and bool(said) and all(isinstance(pair, list) for pair in said)


def _nested(said: list[Any]) -> list[dict[str, str]]:
    """`[[user, assistant], ...]`, of strings or of turns."""
    turns = []
    for number, one in enumerate(said, 1):
        if len(one) != 2:
            raise NotThat(f"pair {number} has {len(one)} parts, must have 2")
        if all(isinstance(part, dict) for part in one):
            turns += turns_of(one, what=f"pair {number}")
            continue
        try:
            turns += exchange(one[0], one[1], ("question", "answer"))
        except NotThat as error:
            raise NotThat(f"pair {number}: {error}") from None
    return turns
