"""The one chat format of models born here, and the neutralising of control markers in what users write."""

from collections.abc import Sequence
from dataclasses import dataclass

from cirilla_cli.data.rows import Message

REWRITES = (
    ("<|im_", "<| im_"),
    ("<|reserved_", "<| reserved_"),
    *((f"<{name}>", f"< {name}>") for name in ("s", "/s", "unk", "pad", "mask")),
)
"""What content may not hold, as readers of the rendered text would take it for control tokens; and what it becomes."""

_INERT = " | ".join(["message['content']", *(f"replace('{token}', '{text}')" for token, text in REWRITES)])

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (" + _INERT + ") + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The exported jinja template; renders exactly what `segments` describes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered chat: a marker, encoded as control tokens, or text, encoded without any."""

    text: str
    is_marker: bool = False
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a chat and which of them are trained on (the assistant's content and end of turn)."""

    ids: list[int]
    trained: list[bool]


def inert(content: str) -> str:
    """``content`` with control tokens broken up, so that no consumer of the rendered text can take them for such."""
    for token, text in REWRITES:
        content = content.replace(token, text)
    return content


def segments(messages: Sequence[Message], *, generation_prompt: bool) -> list[Segment]:
    """A chat as markers and text: begin, then per turn role, content and end."""
    parts = [Segment("<s>", is_marker=True)]
    for message in messages:
        trained = message.role == "assistant"
        parts.append(Segment("<|im_start|>", is_marker=True))
        parts.append(Segment(message.role + "\n"))
        parts.append(Segment(inert(message.content), is_trained=trained))
        parts.append(Segment("<|im_end|>", is_marker=True, is_trained=trained))
        parts.append(Segment("\n"))
    if generation_prompt:
        parts += [Segment("<|im_start|>", is_marker=True), Segment("assistant\n")]
    return parts
