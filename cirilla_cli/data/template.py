"""Chat templates that came with tokenizers: somebody's programs, which run in jinja2's sandbox."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cirilla_cli.data.rows import Message
from cirilla_cli.errors import CirillaError

_MISSTEPS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What a downloaded template, which is somebody's program, may raise: dividing by zero, adding text to a list."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it may name."""

    text: str | None
    special: Sequence[str]
    """Control tokens, which are broken up in what users write."""
    tokens: Mapping[str, str]
    """`bos_token` and the like."""
    folder: Path
    """Where it comes from, for messages."""

    def render(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        """A conversation as text.

        Raises:
            CirillaError: the template is missing or fails.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.text is None:
            raise CirillaError(f"{self.folder}: the model has no chat template", hint="put a chat_template.jinja there")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        turns = [{"role": m.role, "content": self._inert(m.content)} for m in messages]
        try:
            template = environment.from_string(self.text)
            return template.render(messages=turns, add_generation_prompt=generation_prompt, tools=None, **self.tokens)
        except (TemplateError, *_MISSTEPS) as error:
            raise CirillaError(f"{self.folder}: its chat template fails: {error}") from None

    def spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where in the rendered ``text`` each assistant turn is: what it adds to the text before it.

        Raises:
            CirillaError: the template rewrites earlier turns, so that no part is the assistant's.
        """
        return [self._span(messages, turn, text) for turn, m in enumerate(messages) if m.role == "assistant"]

    def _span(self, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
        before = self.render(messages[:turn], True)
        after = self.render(messages[: turn + 1], False)
        if not text.startswith(after.rstrip("\n")) or not after.startswith(before):
            raise CirillaError(
                f"{self.folder}: its chat template rewrites earlier turns, "
                "so it is not clear which part is the assistant's",
                hint="train on single exchanges, or give the folder a chat_template.jinja that only appends",
            )
        return len(before), len(after.rstrip("\n"))

    def _inert(self, content: str) -> str:
        """Control tokens in content broken up after their second character: the template's text is parsed for them."""
        for token in self.special:
            if len(token) > 2:
                content = content.replace(token, f"{token[:2]} {token[2:]}")
        return content


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
