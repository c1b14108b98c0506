"""Tokenizers of downloaded models: `tokenizer.json` with the model's own chat template."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cirilla_cli.data.chat import CHAT_TEMPLATE, Rendered
from cirilla_cli.data.earlier import MERGES, VOCABULARIES, completed
from cirilla_cli.data.extension import FILE, Extension, runs_of
from cirilla_cli.data.rows import Message
from cirilla_cli.data.segments import Block
from cirilla_cli.data.template import ChatTemplate
from cirilla_cli.data.tokenizer import MaskToken
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import naming
from cirilla_cli.pairs import Run, Vocabulary, ways

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", FILE,
)  # fmt: skip
# What older programs keep the vocabulary in.
_OLD_FORMS = {"added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"}


class ImportedTokenizer:
    """A `tokenizers` tokenizer and the template that came with it."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        from tokenizers import Tokenizer

        # Kept in memory: a run's own old checkpoint, where these may stand, is removed while the run goes on.
        self.folder, self._files = folder, files
        try:
            self._tokenizer: Any = Tokenizer.from_str(files["tokenizer.json"].decode())
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every malformed file
            raise CirillaError(f"{folder / 'tokenizer.json'}: not a tokenizer: {error}") from None
        # What the file says of cutting and filling is for other uses; here nothing may be lost.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Text is encoded with control tokens off, so that nobody's text can contain one.
        self._tokenizer.encode_special_tokens = True
        self._config = self._object("tokenizer_config.json")
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._special = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        self.template = self._find_template()
        self._chats = ChatTemplate(self.template, self._special, self._named_tokens(), folder)
        self.stop_ids = frozenset(self._stops())
        pad = self._id("pad_token")
        self.pad_id = pad if pad is not None else min(self.stop_ids, default=0)
        self.mask = self._find_mask()
        self._begin, self._end = self._find_ends()
        self.hash = hashlib.sha256(files["tokenizer.json"] + (self.template or "").encode()).hexdigest()
        self.extension = Extension.parse(files[FILE].decode(), folder / FILE) if FILE in files else None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files of a downloaded model, or those of an earlier tool, completed."""
        names = _FILES if (folder / "tokenizer.json").is_file() else (*_FILES, *VOCABULARIES, *MERGES)
        found = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
        return cls(folder, completed(found, folder))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self._files)

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
        text = self._chats.render(messages, generation_prompt)
        spans = self._chats.spans(messages, text)
        self._tokenizer.encode_special_tokens = False
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        self._tokenizer.encode_special_tokens = True
        trained = [any(low <= start < high for low, high in spans) for start, _ in encoding.offsets]
        return Rendered(list(encoding.ids), trained)

    def save(self, folder: Path) -> None:
        """Write the files the tokenizer came with."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*_FILES, "spm.model"):
            (folder / name).unlink(missing_ok=True)  # of another tokenizer that was here
        for name, content in self._files.items():
            with naming(folder / name):
                (folder / name).write_bytes(content)
        if self.template and "chat_template" not in self._config:
            (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")

    def vocabulary(self) -> Vocabulary:
        """Its pieces; added tokens and single bytes are never joined.

        Raises:
            CirillaError: they are not byte pairs, or their ids have gaps.
        """
        model, vocab = json.loads(self._files["tokenizer.json"])["model"], self._tokenizer.get_vocab()
        plain = model.get("type") == "BPE" and not model.get("continuing_subword_prefix")
        if not plain or model.get("end_of_word_suffix") or len(vocab) != max(vocab.values()) + 1:
            raise CirillaError(
                f"{self.folder}: only byte pairs without marks or gaps can be extended, this is {model.get('type')}",
                hint="tokenizer.kind=load uses it as it is; tokenizer.kind=sentencepiece trains a new one",
            )
        added = self._tokenizer.get_added_tokens_decoder()
        pieces = [""] * len(vocab)
        for piece, id in vocab.items():
            pieces[id] = "" if id in added or (len(piece) == 6 and piece.startswith("<0x")) else piece
        return Vocabulary(pieces, vocab, {})

    def runs(self, texts: Sequence[str]) -> list[list[Run]]:
        """Of each text its ids, apart where the tokenizer cuts a text before it joins, and around added tokens."""
        pieces, found = self.vocabulary().pieces, self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [runs_of(encoding.ids, encoding.word_ids, pieces) for encoding in found]

    def with_pieces(self, pieces: Sequence[str], extension: Extension) -> "ImportedTokenizer":
        """The same with further pieces, whose merges come last.

        Raises:
            CirillaError: the tokenizer would take control tokens out of text.
        """
        values = json.loads(self._files["tokenizer.json"])
        model = values["model"]
        merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
        vocab = model["vocab"] | {piece: self.vocab_size + place for place, piece in enumerate(pieces)}
        model["merges"] = merges + [way for piece in pieces for way in ways(piece, vocab)]
        # Added tokens get the next free id when the file is read, unless the vocabulary has them.
        model["vocab"] = vocab | {token["content"]: token["id"] for token in values["added_tokens"]}
        kept = {name: content for name, content in self._files.items() if name not in _OLD_FORMS}
        text = json.dumps(values, ensure_ascii=False).encode()
        made = ImportedTokenizer(self.folder, {**kept, "tokenizer.json": text, FILE: extension.text().encode()})
        special = {made._tokenizer.token_to_id(token) for token in self._special}
        if any(special.intersection(made.encode(token)) for token in self._special):
            raise CirillaError(f"{self.folder}: extended, its tokenizer would find control tokens in text")
        return made

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
        if (file := self._files.get("chat_template.jinja")) is not None:
            return file.decode()
        template = self._config.get("chat_template")
        if isinstance(template, list):
            template = next((t["template"] for t in template if t.get("name") == "default"), None)
        if isinstance(template, str):
            return template
        # A base model without a template gets ours, where it knows the markers.
        known = {"<|im_start|>", "<|im_end|>"} <= set(self._special)
        return CHAT_TEMPLATE if known else None

    def _stops(self) -> set[int]:
        stops = self._object("generation_config.json").get("eos_token_id", [])
        found = {int(i) for i in (stops if isinstance(stops, list) else [stops]) if i is not None}
        names = [self._token("eos_token"), "<|im_end|>", "<|eot_id|>"]
        for name in names:
            id = self._tokenizer.token_to_id(name) if name else None
            if id is not None:
                found.add(int(id))
        return found

    def _named_tokens(self) -> dict[str, str]:
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {name: self._token(name) or "" for name in names}

    def _token(self, name: str) -> str | None:
        token = self._config.get(name)
        return token.get("content") if isinstance(token, dict) else token

    def _id(self, name: str) -> int | None:
        token = self._token(name)
        id = self._tokenizer.token_to_id(token) if token else None
        return None if id is None else int(id)

    def _object(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._files.get(name, b"{}"))
        except ValueError as error:
            raise CirillaError(f"{self.folder / name}: not JSON: {error}") from None
        return value if isinstance(value, dict) else {}

    def _is_byte_level(self) -> bool:
        return self._tokenizer.token_to_id("Ġ") is not None


# Byte of each character of GPT-2's byte-level alphabet: printable Latin-1 is itself, the rest follows 256.
@functools.cache
def _byte_level_table() -> dict[str, int]:
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (b for b in range(256) if b not in plain)
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
