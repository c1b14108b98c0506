"""Our own tokenizer: sentencepiece BPE that loses nothing and whose control tokens no text can produce."""

import functools
import hashlib
import io
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import sentencepiece as spm

from cirilla_cli.data.chat import CHAT_TEMPLATE, Rendered, segments
from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.extension import FILE, Extension, runs_of
from cirilla_cli.data.rows import Message
from cirilla_cli.data.segments import Block, SegmentEncoder, spanned_pairs
from cirilla_cli.data.tokenizer import MaskToken
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import naming, write_json, write_text
from cirilla_cli.pairs import Run, Vocabulary, ways

CONTROL = ("<|im_start|>", "<|im_end|>", "<mask>", *(f"<|reserved_{k}|>" for k in range(9)))
"""Control tokens from id 4 on; 0 to 3 are <unk>, <s>, </s> and <pad>."""

MARK = "▁"
"""What sentencepiece writes for a space; as a character of the text itself it becomes an underscore."""

_BOS, _EOS, _PAD, _IM_START, _IM_END, _MASK = 1, 2, 3, 4, 5, 6


def train(config: SentencePieceConfig, texts: Iterable[str]) -> "SentencePieceTokenizer":
    """Train byte-pair encoding on ``texts``.

    Raises:
        CirillaError: there is no text, or too few pieces are wanted to hold all bytes.
    """
    least = 4 + len(CONTROL) + 1 + 256
    if config.vocab_size <= least:
        raise CirillaError(
            f"`tokenizer.vocab_size` is {config.vocab_size}, must be more than {least}: every byte has a piece"
        )
    model = io.BytesIO()
    lines = _Lines(texts, config.sample_bytes)
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=config.vocab_size,
            byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
            hard_vocab_limit=False, character_coverage=1.0, max_sentence_length=1 << 24, num_threads=1,
            pad_id=_PAD, unk_id=0, bos_id=_BOS, eos_id=_EOS, control_symbols=list(CONTROL),
            # A text without a space still gets its piece: made of bytes, MARK would come back as itself.
            user_defined_symbols=["\n"], required_chars=MARK, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        if lines.failed is not None:
            raise lines.failed from None  # the trainer wraps what its input raises in its own text
        if lines.count == 0:
            raise CirillaError(
                "there is no text to train a tokenizer on", hint="are the inputs empty, or all held out?"
            ) from None
        raise _untrained(config, str(error)) from error
    return SentencePieceTokenizer(model.getvalue())


def _untrained(config: SentencePieceConfig, said: str) -> CirillaError:
    """What sentencepiece says, in the words of a recipe where it is about one."""
    short = re.search(r"smaller than required_chars\. \d+ vs (\d+)", said)
    if short is None:
        return CirillaError(f"the tokenizer could not be trained: {said}")
    return CirillaError(
        f"`tokenizer.vocab_size` is {config.vocab_size}, must be at least {short[1]}: "
        "each character of the texts has a piece",
        hint=f"tokenize.tokenizer.vocab_size={max(512, 2 * int(short[1]))}",
    )


class _Lines:
    """The lines of texts, up to a number of bytes; sentencepiece takes a text with line ends for one sentence."""

    def __init__(self, texts: Iterable[str], most_bytes: int) -> None:
        self.texts, self.most_bytes, self.count = texts, most_bytes, 0
        self.failed: CirillaError | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._lines()
        except CirillaError as error:
            self.failed = error
            raise

    def _lines(self) -> Iterator[str]:
        left = self.most_bytes
        for text in self.texts:
            for line in text.replace(MARK, "_").split("\n"):
                if line.strip() and "\0" not in line:
                    self.count += 1
                    left -= len(line)
                    yield line
            if left <= 0:
                return


def is_ours(path: Path) -> bool:
    """Whether a file is a sentencepiece model with this project's control tokens at their places."""
    try:
        processor = spm.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:  # other programs keep other formats under this name
        return False
    return processor.vocab_size() > 16 and processor.id_to_piece(list(range(4, 16))) == list(CONTROL)


class SentencePieceTokenizer:
    """A trained sentencepiece model behind the `Tokenizer` protocol."""

    def __init__(self, model: bytes, extension: Extension | None = None) -> None:
        self._model, self.extension = model, extension
        self._processor = spm.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.pad_id = _PAD
        self.mask: MaskToken | None = MaskToken("<mask>", _MASK, lstrip=True)
        self.stop_ids = frozenset({_EOS, _IM_END})
        self.hash = hashlib.sha256(model + CHAT_TEMPLATE.encode()).hexdigest()
        self._markers = {"<s>": _BOS, "<|im_start|>": _IM_START, "<|im_end|>": _IM_END}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``tokenizer.model``."""
        path, record = folder / "tokenizer.model", folder / FILE
        extension = Extension.parse(record.read_text(encoding="utf-8"), record) if record.is_file() else None
        try:
            return cls(path.read_bytes(), extension)
        except RuntimeError as error:
            raise CirillaError(f"{path}: no sentencepiece model", hint="the file is damaged or half-written") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.extension)

    @property
    def bos_ids(self) -> list[int]:
        """A document begins with <s>."""
        return [_BOS]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; U+2581, which sentencepiece cannot tell from a space, is read as an underscore."""
        ids: list[int] = self._processor.encode(text.replace(MARK, "_"))
        return ids

    def encode_batch(self, texts: Iterable[str]) -> Block:
        """`encode` of each text, faster than one by one: what recurs is encoded once."""
        return self._segments(text.replace(MARK, "_") for text in texts)

    @functools.cached_property
    def _segments(self) -> SegmentEncoder:
        merged = (self.piece_bytes(i) for i in range(16, self.vocab_size) if i == 16 or self._is_merged(i))
        return SegmentEncoder(self._processor.encode, spanned_pairs(merged), self._processor.piece_to_id("\n"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens are left out, incomplete UTF-8 becomes U+FFFD."""
        return b"".join(self.piece_bytes(i) for i in ids).decode("utf-8", "replace")

    def piece_bytes(self, id: int) -> bytes:
        """The bytes one id stands for, empty for control tokens."""
        if id < 16 or id >= self.vocab_size:
            return b""
        piece: str = self._processor.id_to_piece(id)
        if self._processor.is_byte(id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(MARK, " ").encode()

    def document(self, ids: Sequence[int]) -> list[int]:
        """<s> text </s>."""
        return [_BOS, *ids, _EOS]

    def chat(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Rendered:
        """A conversation; content is encoded apart from markers, so it can never contain one."""
        rendered = Rendered([], [])
        for segment in segments(messages, generation_prompt=generation_prompt):
            ids = [self._markers[segment.text]] if segment.is_marker else self.encode(segment.text)
            rendered.ids.extend(ids)
            rendered.trained.extend([segment.is_trained] * len(ids))
        return rendered

    def save(self, folder: Path) -> None:
        """Write tokenizer.model for sentencepiece and llama.cpp, and the same vocabulary for transformers."""
        folder.mkdir(parents=True, exist_ok=True)
        with naming(folder / "tokenizer.model"):
            (folder / "tokenizer.model").write_bytes(self._model)
        write_text(folder / "tokenizer.json", self._fast_tokenizer().to_str(pretty=False) + "\n")
        write_json(folder / "tokenizer_config.json", _TRANSFORMERS_CONFIG)
        write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
        (folder / FILE).unlink(missing_ok=True)
        if self.extension is not None:
            write_text(folder / FILE, self.extension.text())

    def vocabulary(self) -> Vocabulary:
        """Its pieces; sentencepiece joins any two neighbours that make one, even one that was made of no text."""
        pieces = [self._processor.id_to_piece(i) if self._is_merged(i) else "" for i in range(self.vocab_size)]
        known, halves = [piece for piece in pieces if piece], defaultdict[str, set[str]](set)
        found = self._processor.encode([piece.replace(MARK, " ") for piece in known])
        for piece in (piece for piece, ids in zip(known, found, strict=True) if len(ids) > 1):
            for cut in range(1, len(piece)):
                halves[piece[:cut]].add(piece[cut:])
                halves[piece[cut:]].add(piece[:cut])
        return Vocabulary(pieces, [self._processor.id_to_piece(i) for i in range(17 + 256)], halves)

    def runs(self, texts: Sequence[str]) -> list[list[Run]]:
        """Of each text its ids, apart around line ends and bytes: anything else may be joined."""
        pieces = self.vocabulary().pieces
        return [runs_of(ids, [0] * len(ids), pieces) for ids in self.encode_batch(texts).lists()]

    def with_pieces(self, pieces: Sequence[str], extension: Extension) -> "SentencePieceTokenizer":
        """The same with further pieces of lower scores than all others: fields put behind the model's own."""
        lowest = self._processor.get_score(self.vocab_size - 1)
        scores = (struct.pack("<f", lowest - place) for place in range(1, len(pieces) + 1))
        added = [_field(1, _field(1, p.encode()) + b"\x15" + score) for p, score in zip(pieces, scores, strict=True)]
        size = _field(2, b"\x20" + _varint(self.vocab_size + len(pieces)))
        return SentencePieceTokenizer(b"".join([self._model, *added, size]), extension)

    def _is_merged(self, id: int) -> bool:
        return id > 16 and not self._processor.is_byte(id)

    def _fast_tokenizer(self) -> Any:
        """The same vocabulary as a Hugging Face `tokenizers` BPE, which gives the same ids for every text."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

        pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        vocab = {piece: i for i, piece in enumerate(pieces)}
        fast = Tokenizer(models.BPE(vocab, self._merges(vocab), unk_token="<unk>", byte_fallback=True, fuse_unk=False))
        fast.normalizer = normalizers.Sequence([normalizers.Replace(MARK, "_"), normalizers.Replace(" ", MARK)])
        fast.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
        fast.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", _BOS)]
        )
        # A piece brings the space before it along, so what hides one swallows it.
        swallows = {pieces[_MASK]}
        fast.add_special_tokens(
            [AddedToken(piece, normalized=False, special=True, lstrip=piece in swallows) for piece in pieces[:16]]
        )
        fast.add_tokens([AddedToken("\n", normalized=False, special=False)])
        return fast

    def _merges(self, vocab: dict[str, int]) -> list[tuple[str, str]]:
        """Every way to make a piece of two others, in the order sentencepiece prefers: by the score of the result."""
        merged = filter(lambda piece: self._is_merged(vocab[piece]), vocab)
        return [way for piece in sorted(merged, key=vocab.__getitem__) for way in ways(piece, vocab)]


# A field of Protocol Buffers that holds bytes; of a repeated one, a further element.
def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


_TRANSFORMERS_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "<|im_end|>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1_000_000_000,
}
