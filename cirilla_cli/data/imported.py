"""Tokenizers of downloaded models: `tokenizer.json` with the model's own chat template."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from cirilla_cli.data.chat import CHAT_TEMPLATE, Rendered
from cirilla_cli.data.rows import Message
from cirilla_cli.data.segments import Block
from cirilla_cli.data.tokenizer import MaskToken
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_json

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip

_MISSTEPS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What a downloaded template, which is somebody's program, may raise: dividing by zero, adding text to a list."""


class ImportedTokenizer:
    """A `tokenizers` tokenizer and the template that came with it."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.folder = folder
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every malformed file
            raise CirillaError(f"{folder / 'tokenizer.json'}: not a tokenizer: {error}") from None
        # What the file says of cutting and filling is for other uses; here nothing may be lost.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Kept in memory: a run's own old checkpoint, where these may stand, is removed while the run goes on.
        self._files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
        # Text is encoded with control tokens off, so that nobody's text can contain one.
        self._tokenizer.encode_special_tokens = True
        self._config = _json(folder / "tokenizer_config.json")
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._special = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        self.template = self._find_template()
        self.stop_ids = frozenset(self._stops())
        pad = self._id("pad_token")
        self.pad_id = pad if pad is not None else min(self.stop_ids, default=0)
        self.mask = self._find_mask()
        self._begin, self._end = self._find_ends()
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes() + (self.template or "").encode())
        self.hash = digest.hexdigest()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files of a downloaded model."""
        return cls(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)

    @property
    def bos_ids(self) -> list[int]:
        """What the model's own post-processor puts before text."""
        return list(self._begin)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, control tokens off."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Iterable[str]) -> Block:
        """`encode` of each text."""
        return Block.of(e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without control tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def piece_bytes(self, id: int) -> bytes:
        """The bytes one id stands for, by the conventions of byte-level and byte-fallback vocabularies."""
        piece = self._tokenizer.id_to_token(id)
        if piece is None or piece in self._special:
            return b""
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        if self._is_byte_level():
            table = _byte_level_table()
            if all(c in table for c in piece):
                return bytes(table[c] for c in piece)
        return str(piece).replace("▁", " ").encode()

    def document(self, ids: Sequence[int]) -> list[int]:
        """Begin (where the model has one), text, and the end of text."""
        return [*self._begin, *ids, *self._end]

    def chat(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Rendered:
        """A conversation in the model's own template; each assistant turn is what it adds to the text before it.

        Raises:
            CirillaError: the template is missing, fails, or rewrites earlier turns, so that no part is the assistant's.
        """
        text = self._render(messages, generation_prompt)
        spans = [self._span(messages, turn, text) for turn, m in enumerate(messages) if m.role == "assistant"]
        self._tokenizer.encode_special_tokens = False
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        self._tokenizer.encode_special_tokens = True
        trained = [any(low <= start < high for low, high in spans) for start, _ in encoding.offsets]
        return Rendered(list(encoding.ids), trained)

    def save(self, folder: Path) -> None:
        """Write the files the tokenizer came with."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        if self.template and "chat_template" not in self._config:
            (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")

    def _span(self, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
        before = self._render(messages[:turn], True)
        after = self._render(messages[: turn + 1], False)
        if not text.startswith(after.rstrip("\n")) or not after.startswith(before):
            raise CirillaError(
                f"{self.folder}: its chat template rewrites earlier turns, "
                "so it is not clear which part is the assistant's",
                hint="train on single exchanges, or give the folder a chat_template.jinja that only appends",
            )
        return len(before), len(after.rstrip("\n"))

    def _render(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.template is None:
            raise CirillaError(f"{self.folder}: the model has no chat template", hint="put a chat_template.jinja there")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        turns = [{"role": m.role, "content": self._inert(m.content)} for m in messages]
        tokens = {name: self._token(name) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            template = environment.from_string(self.template)
            return template.render(messages=turns, add_generation_prompt=generation_prompt, tools=None, **tokens)
        except (TemplateError, *_MISSTEPS) as error:
            raise CirillaError(f"{self.folder}: its chat template fails: {error}") from None

    def _inert(self, content: str) -> str:
        """Control tokens in content broken up after their second character: the template's text is parsed for them."""
        for token in self._special:
            if len(token) > 2:
                content = content.replace(token, f"{token[:2]} {token[2:]}")
        return content

    def _find_mask(self) -> MaskToken | None:
        name, id = self._token("mask_token"), self._id("mask_token")
        if name is None or id is None:
            return None
        added = self._tokenizer.get_added_tokens_decoder().get(id)
        return MaskToken(name, id) if added is None else MaskToken(name, id, added.lstrip, added.rstrip)

    def _find_ends(self) -> tuple[list[int], list[int]]:
        """What the model's own post-processor puts before and behind text; else the end of text is behind it."""
        whole, end = self._tokenizer.encode("a", add_special_tokens=True), self._id("eos_token")
        text = [place for place, added in enumerate(whole.special_tokens_mask) if not added]
        begin, behind = whole.ids[: text[0]], whole.ids[text[-1] + 1 :]
        return begin, behind or ([] if end is None else [end])

    def _find_template(self) -> str | None:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):
            template = next((t["template"] for t in template if t.get("name") == "default"), None)
        if isinstance(template, str):
            return template
        # A base model without a template gets ours, where it knows the markers.
        known = {"<|im_start|>", "<|im_end|>"} <= set(self._special)
        return CHAT_TEMPLATE if known else None

    def _stops(self) -> set[int]:
        stops = _json(self.folder / "generation_config.json").get("eos_token_id", [])
        found = {int(i) for i in (stops if isinstance(stops, list) else [stops]) if i is not None}
        names = [self._token("eos_token"), "<|im_end|>", "<|eot_id|>"]
        for name in names:
            id = self._tokenizer.token_to_id(name) if name else None
            if id is not None:
                found.add(int(id))
        return found

    def _token(self, name: str) -> str | None:
        token = self._config.get(name)
        return token.get("content") if isinstance(token, dict) else token

    def _id(self, name: str) -> int | None:
        token = self._token(name)
        id = self._tokenizer.token_to_id(token) if token else None
        return None if id is None else int(id)

    def _is_byte_level(self) -> bool:
        return self._tokenizer.token_to_id("Ġ") is not None


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise CirillaError(f"{path}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _byte_level_table() -> dict[str, int]:
    """Byte of each character of GPT-2's byte-level alphabet: printable Latin-1 is itself, the rest follows 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in set(plain)]
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table
