"""The tokenizer protocol and the door through which every tokenizer is loaded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cirilla_cli.data.chat import Rendered
from cirilla_cli.data.extension import Extension
from cirilla_cli.data.rows import Message
from cirilla_cli.data.segments import Block
from cirilla_cli.errors import CirillaError
from cirilla_cli.pairs import Run, Vocabulary


@dataclass(frozen=True, slots=True)
class MaskToken:
    """The token that hides another from an encoder, and how a user writes it."""

    text: str
    id: int
    lstrip: bool = False
    """Whether it swallows white space before it."""
    rstrip: bool = False
    """Whether it swallows white space behind it."""

    def encode(self, text: str, plain: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text in which `text` stands for this token; ``plain`` gives those of what is between."""
        first, *others = text.split(self.text)
        ids = plain(first.rstrip() if self.lstrip and others else first)
        for place, part in enumerate(others, 1):
            part = part.lstrip() if self.rstrip else part
            ids += [self.id, *plain(part.rstrip() if self.lstrip and place < len(others) else part)]
        return ids


class Tokenizer(Protocol):
    """Text to ids and back. Text can never produce control tokens; those come from `document` and `chat` alone."""

    vocab_size: int
    """Ids are below this."""
    stop_ids: frozenset[int]
    """Ids that end a document or a turn."""
    pad_id: int
    """Fills rows; never attended, never a target."""
    mask: MaskToken | None
    """Stands for a token that an encoder has to restore; None where the tokenizer has none."""
    hash: str
    """Fingerprint of vocabulary and chat template."""
    extension: Extension | None
    """What it adds to another tokenizer; None where it was trained by itself."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, no begin or end added."""

    def encode_batch(self, texts: Iterable[str]) -> Block:
        """`encode` of each text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens are left out, incomplete UTF-8 becomes U+FFFD."""

    def piece_bytes(self, id: int) -> bytes:
        """The bytes one id stands for, empty for control tokens: for streaming across characters."""

    def document(self, ids: Sequence[int]) -> list[int]:
        """A document's ids with the begin and end tokens the model knows."""

    @property
    def bos_ids(self) -> list[int]:
        """What stands before the first token of a document, possibly nothing."""

    def chat(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Rendered:
        """A conversation in the model's own template."""

    def save(self, folder: Path) -> None:
        """Write every file that this project, transformers and llama.cpp need to load the tokenizer."""

    def vocabulary(self) -> Vocabulary:
        """Its pieces; an error where none can be added because they are not byte pairs."""

    def runs(self, texts: Sequence[str]) -> list[list[Run]]:
        """Of each text its ids in runs, beyond which nothing is ever joined."""

    def with_pieces(self, pieces: Sequence[str], extension: Extension) -> "Tokenizer":
        """The same with further pieces, made last of any two pieces that make them; ``extension`` goes with it."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder (or in its `tokenizer` subfolder), or a sentencepiece model by its file.

    Raises:
        CirillaError: there is none, or several could be meant.
    """
    from cirilla_cli.data.foreign import ForeignTokenizer, is_sentencepiece
    from cirilla_cli.data.sentencepiece import is_ours

    if path.is_file() and is_sentencepiece(path) and not is_ours(path):
        return ForeignTokenizer.load(path)
    place = path.parent if path.is_file() else path
    for folder in (place, place / "tokenizer"):
        if (found := _in_folder(folder)) is not None:
            return found
    raise CirillaError(
        f"{path}: no tokenizer here (tokenizer.model or another sentencepiece model, tokenizer.json, merges of GPT-2)",
        hint="`cirilla tokenize FILE` trains one; a checkpoint's folder holds its own",
    )


def _in_folder(folder: Path) -> Tokenizer | None:
    """Ours by its sentencepiece model; `spm.model` before the `tokenizer.json` that was made of it; any other."""
    from cirilla_cli.data.earlier import MERGES
    from cirilla_cli.data.foreign import MODEL, ForeignTokenizer, is_sentencepiece
    from cirilla_cli.data.imported import ImportedTokenizer
    from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, is_ours

    if (folder / "tokenizer.model").is_file() and is_ours(folder / "tokenizer.model"):
        return SentencePieceTokenizer.load(folder)
    if (folder / MODEL).is_file():
        return ForeignTokenizer.load(folder / MODEL)
    if any((folder / name).is_file() for name in ("tokenizer.json", *MERGES)):
        return ImportedTokenizer.load(folder)
    models = [file for file in sorted(folder.glob("*.model")) if is_sentencepiece(file)]
    if len(models) > 1:
        raise CirillaError(
            f"{folder}: holds the sentencepiece models {', '.join(file.name for file in models)}",
            hint=f"name one of them: {models[0]}",
        )
    return ForeignTokenizer.load(models[0]) if models else None
