"""Page text on its way to a teacher stays data: marked off, without control tokens, and its language remembered."""

import re
from functools import lru_cache

from cirilla_cli.curate.language import language_of
from cirilla_cli.data.rows import short_id

_CONTROL = re.compile(
    r"<(?=[|\uff5c][^<>\n]{1,40}[|\uff5c]>)|"
    r"<(?=/?(?:s|bos|eos|pad|unk|think|tool_call|start_of_turn|end_of_turn|start_of_image|\|)>)|"
    r"<(?=</?SYS>>)|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\])|"
    r"\[(?=\[(?:end of )?page\b)",
    re.IGNORECASE,
)
"""The first character of what chat templates of Llama, Qwen, Mistral, Gemma, DeepSeek and Phi use as control tokens,
and of the marks of `fenced`."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b\u2028-\u202e\u2060-\u2069\ufeff]")


def defused(text: str) -> str:
    """``text`` in which no control token and no mark is left: a space stands after the first character of each.

    Servers render chat templates to text and read that again (Ollama, llama.cpp), so that a page's own `<|im_end|>`
    would end the user's turn. Unprintable characters become spaces: some end strings, some turn the direction of text.
    """
    return _CONTROL.sub(lambda match: f"{match[0]} ", _UNPRINTABLE.sub(" ", text))


def holds_control(text: str) -> bool:
    """Whether `defused` would change a control token in ``text``."""
    return _CONTROL.search(text) is not None


def fenced(text: str) -> str:
    """``text``, defused, between marks that hold the hash of the text, which the text itself cannot hold."""
    name = short_id("page", text)
    return f"[[page {name}]]\n{defused(text)}\n[[end of page {name}]]"


def speaks_another(text: str, page: str) -> bool:
    """Whether ``text`` is in another language than ``page``, as far as letters and common words can tell.

    Short texts in Latin letters, and pages whose language cannot be told, are never called foreign.
    """
    of_text, _ = language_of(text, min_words=8, min_common=0.2)
    return of_text is not None and _language_of_page(page) not in (None, of_text)


@lru_cache(maxsize=64)
def _language_of_page(page: str) -> str | None:
    """A page is asked about many times in a row."""
    return language_of(page)[0]
