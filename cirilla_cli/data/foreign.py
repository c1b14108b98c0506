"""Sentencepiece models of other programs, used by sentencepiece itself, so that ids are those it gives."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Never, Self

import sentencepiece as spm

from cirilla_cli.data.chat import Rendered
from cirilla_cli.data.extension import FILE, Extension
from cirilla_cli.data.proto import CONTROL, UNKNOWN, USER_DEFINED, Described, fast, without_prefix
from cirilla_cli.data.rows import Message
from cirilla_cli.data.segments import Block
from cirilla_cli.data.template import ChatTemplate
from cirilla_cli.data.tokenizer import MaskToken
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import write_json, write_text
from cirilla_cli.pairs import Run, Vocabulary

MODEL = "spm.model"
"""What such a model is called beside files that others read, which are made from it."""

_TEMPLATE, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_MINI_LLM = ("<user>", "<assistant>", "<system>")
MINI_LLM_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""For Mini-LLM's role tokens, which came without a template."""


class ForeignTokenizer:
    """A sentencepiece model that is not ours, behind the `Tokenizer` protocol.

    Symbols that its maker declared to be found in text are found there, as by sentencepiece; control tokens never.
    """

    extension: Extension | None = None

    def __init__(self, folder: Path, model: bytes, template: str | None = None) -> None:
        self.folder, self._model, self._given = folder, model, template
        self._described = Described.parse(model)
        self._whole = spm.SentencePieceProcessor(model_proto=model)
        # Behind a control token a text goes on, and gets no space put before it.
        goes_on = without_prefix(model) if self._described.strips else model
        self._behind = spm.SentencePieceProcessor(model_proto=goes_on)
        self.vocab_size: int = self._whole.vocab_size()
        pieces = self._described.pieces
        marks = (CONTROL, UNKNOWN, USER_DEFINED)
        self._marks = {piece.text: id for id, piece in enumerate(pieces) if piece.kind in marks}
        known = {piece.text: id for id, piece in enumerate(pieces)}
        ends = [known[name] for name in ("<|im_end|>", "<|eot_id|>") if name in known]
        self._begin, self._end = ([id] if id >= 0 else [] for id in (self._whole.bos_id(), self._whole.eos_id()))
        self.stop_ids = frozenset([*self._end, *ends])
        pad = self._whole.pad_id()
        self.pad_id = pad if pad >= 0 else min(self.stop_ids, default=0)
        hidden = next((name for name in ("<mask>", "[MASK]") if name in known), None)
        self.mask: MaskToken | None = None if hidden is None else MaskToken(hidden, known[hidden])
        self.template = template or (MINI_LLM_TEMPLATE if set(_MINI_LLM) <= known.keys() else None)
        inert = [text for text in self._marks if text.strip()]
        self._chats = ChatTemplate(self.template, inert, self._named_tokens(), folder)
        self.hash = hashlib.sha256(model + (self.template or "").encode()).hexdigest()

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a model, and the chat template beside it.

        Raises:
            CirillaError: it is no sentencepiece model.
        """
        if not is_sentencepiece(file):
            raise CirillaError(f"{file}: not a sentencepiece model", hint="take the tokenizer.json of that model")
        return cls(file.parent, file.read_bytes(), _template(file.parent))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self._model, self._given)

    @property
    def bos_ids(self) -> list[int]:
        """The model's begin of text, if it has one."""
        return list(self._begin)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, as sentencepiece gives them."""
        ids: list[int] = self._whole.encode(text)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> Block:
        """`encode` of each text."""
        return Block.of(self._whole.encode(list(texts)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens are left out."""
        text: str = self._whole.decode([id for id in ids if not self._is_control(id)])
        return text

    def piece_bytes(self, id: int) -> bytes:
        """The bytes one id stands for, empty for control tokens."""
        if not 0 <= id < self.vocab_size or self._is_control(id):
            return b""
        text = self._described.pieces[id].text
        return bytes([int(text[3:5], 16)]) if self._whole.is_byte(id) else text.replace("▁", " ").encode()

    def document(self, ids: Sequence[int]) -> list[int]:
        """Begin, text and end, where the model has them."""
        return [*self._begin, *ids, *self._end]

    def chat(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Rendered:
        """A conversation in the template; each assistant turn is what it adds to the text before it, encoded apart.

        Raises:
            CirillaError: the template is missing, fails, or rewrites earlier turns.
        """
        text = self._chats.render(messages, generation_prompt)
        rendered, place = Rendered([], []), 0
        for low, high in self._chats.spans(messages, text):
            self._add(rendered, text[place:low], learn=False)
            self._add(rendered, text[low:high], learn=True)
            place = high
        self._add(rendered, text[place:], learn=False)
        return rendered

    def save(self, folder: Path) -> None:
        """Write the model, the template, and the same vocabulary for transformers."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.model", FILE):
            (folder / name).unlink(missing_ok=True)  # of another tokenizer that was here
        (folder / MODEL).write_bytes(self._model)
        write_text(folder / "tokenizer.json", fast(self._described).to_str(pretty=False) + "\n")
        names = {name: token for name, token in self._named_tokens().items() if token}
        write_json(folder / _CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast", **names})
        (folder / _TEMPLATE).unlink(missing_ok=True)
        if self.template is not None:
            write_text(folder / _TEMPLATE, self.template)

    def vocabulary(self) -> Vocabulary:
        """Raises: CirillaError: it cannot be extended."""
        self._refuse_extension()

    def runs(self, texts: Sequence[str]) -> list[list[Run]]:
        """Raises: CirillaError: it cannot be extended."""
        self._refuse_extension()

    def with_pieces(self, pieces: Sequence[str], extension: Extension) -> "ForeignTokenizer":
        """Raises: CirillaError: it cannot be extended."""
        self._refuse_extension()

    def _refuse_extension(self) -> Never:
        raise CirillaError(
            f"{self.folder}: a sentencepiece model of another program cannot be extended",
            hint="tokenizer.kind=load uses it as it is; tokenizer.kind=sentencepiece trains a new one",
        )

    def _is_control(self, id: int) -> bool:
        return self._described.pieces[id].kind == CONTROL

    def _add(self, rendered: Rendered, text: str, *, learn: bool) -> None:
        ids = list(self._marked(text, at_start=not rendered.ids))
        rendered.ids.extend(ids)
        rendered.trained.extend([learn] * len(ids))

    def _marked(self, text: str, *, at_start: bool) -> Iterator[int]:
        """Ids of a text in which control tokens and symbols are spelt out; what is between two is a text of its own."""
        names = sorted(self._marks, key=len, reverse=True)
        for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]:
            if part in self._marks:
                yield self._marks[part]
            elif part:
                yield from (self._whole if at_start or part[0].isspace() else self._behind).encode(part)
            at_start = at_start and not part

    def _named_tokens(self) -> dict[str, str]:
        found = {
            "bos_token": self._whole.bos_id(), "eos_token": self._whole.eos_id(), "pad_token": self._whole.pad_id(),
            "unk_token": self._whole.unk_id(),
        }  # fmt: skip
        return {name: self._described.pieces[id].text if id >= 0 else "" for name, id in found.items()}


def is_sentencepiece(file: Path) -> bool:
    """Whether a file is a sentencepiece model; other programs keep other formats under such names."""
    try:
        spm.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        return False
    return True


def _template(folder: Path) -> str | None:
    """The chat template beside a model: in a file of its own, or in that of transformers."""
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    if not (folder / _CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CirillaError(f"{folder / _CONFIG}: not JSON: {error}") from None
    found = config.get("chat_template") if isinstance(config, Mapping) else None
    return found if isinstance(found, str) else None
