"""What stands in a sentencepiece model file, and the same as a `tokenizers` tokenizer.

The file is a message of Protocol Buffers (sentencepiece_model.proto); the few fields that decide are read here.
"""

import struct
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self

from cirilla_cli.errors import CirillaError
from cirilla_cli.pairs import ways

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
_UNIGRAM, _BPE = 1, 2
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MARK = "▁"

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int
    """1 is a plain piece; the others are named above."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a model file says of itself."""

    pieces: list[Piece]
    kind: int
    """1 for Unigram, 2 for byte pairs."""
    charsmap: bytes
    """How characters are replaced before anything else; empty where they stay."""
    puts_space: bool
    strips: bool
    """Whether spaces around a text go, and several become one."""

    @classmethod
    def parse(cls, model: bytes) -> Self:
        """Read a model file that sentencepiece itself can read."""
        whole = _fields(model)
        trainer, normalizer = (_merged(whole[number]) for number in (_TRAINER, _NORMALIZER))
        pieces = [_piece(_fields(raw)) for raw in whole[_PIECES] if isinstance(raw, bytes)]
        charsmap = normalizer.get(2, b"")
        return cls(
            pieces, _number(trainer, 3, _UNIGRAM), charsmap if isinstance(charsmap, bytes) else b"",
            bool(_number(normalizer, 3, 1)), bool(_number(normalizer, 4, 1)),
        )  # fmt: skip


def without_prefix(model: bytes) -> bytes:
    """The same model, which puts no space before a text: of a repeated field, the last value counts."""
    return model + b"\x1a\x02\x18\x00"


def fast(described: Described) -> Any:
    """The same vocabulary as a `tokenizers` tokenizer.

    Ids are those of sentencepiece but for rare combinations of characters, which `push` compares.

    Raises:
        CirillaError: it is neither of byte pairs nor Unigram.
    """
    from tokenizers import AddedToken, Tokenizer, decoders

    made = Tokenizer(_model(described))
    made.normalizer, made.pre_tokenizer = _normalizer(described), _spaces(described)
    strip = [decoders.Strip(" ", 1, 0)] if described.puts_space else []
    made.decoder = decoders.Sequence([decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    controls = [piece.text for piece in described.pieces if piece.kind in (UNKNOWN, CONTROL)]
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls])
    declared = [piece.text for piece in described.pieces if piece.kind == USER_DEFINED]
    made.add_tokens([AddedToken(text, normalized=False, special=False) for text in declared])
    return made


def _model(described: Described) -> Any:
    from tokenizers import models

    pieces = described.pieces
    unknown = next((id for id, piece in enumerate(pieces) if piece.kind == UNKNOWN), 0)
    in_bytes = any(piece.kind == BYTE for piece in pieces)
    if described.kind == _UNIGRAM:
        return models.Unigram([(piece.text, piece.score) for piece in pieces], unknown, in_bytes)
    if described.kind != _BPE:
        raise CirillaError("a sentencepiece model of whole words or characters has no form for transformers")
    vocab = {piece.text: id for id, piece in enumerate(pieces)}
    plain = sorted((piece for piece in pieces if piece.kind == 1), key=lambda piece: -piece.score)
    merges = [way for piece in plain for way in ways(piece.text, vocab)]
    return models.BPE(vocab=vocab, merges=merges, unk_token=pieces[unknown].text, fuse_unk=True, byte_fallback=in_bytes)


def _normalizer(described: Described) -> Any:
    from tokenizers import Regex, normalizers

    parts: list[Any] = [normalizers.Precompiled(described.charsmap)] if described.charsmap else []
    if described.strips:
        # One space is left before a text: it is the one that is put there.
        single, none_behind = normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r" +\z"), "")
        return normalizers.Sequence([*parts, single, none_behind])
    prefix = [normalizers.Prepend(_MARK)] if described.puts_space else []
    return normalizers.Sequence([*parts, *prefix, normalizers.Replace(" ", _MARK)])


def _spaces(described: Described) -> Any:
    from tokenizers import pre_tokenizers

    if not described.strips:
        return None
    scheme = "first" if described.puts_space else "never"
    return pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme=scheme, split=False)


def _piece(fields: dict[int, list[Value]]) -> Piece:
    text, score, kind = (fields.get(number, [None])[-1] for number in (1, 2, 3))
    return Piece(
        text.decode() if isinstance(text, bytes) else "",
        struct.unpack("<f", score)[0] if isinstance(score, bytes) else 0.0,
        kind if isinstance(kind, int) else 1,
    )


def _merged(parts: list[Value]) -> dict[int, Value]:
    """The last value of each field of a message, which may come in several parts."""
    found = [_fields(part).items() for part in parts if isinstance(part, bytes)]
    return {number: values[-1] for fields in found for number, values in fields}


def _number(fields: dict[int, Value], number: int, otherwise: int) -> int:
    value = fields.get(number, otherwise)
    return value if isinstance(value, int) else otherwise


def _fields(raw: bytes) -> dict[int, list[Value]]:
    """The fields of a message by number: whole numbers, or bytes for everything else."""
    found, place = defaultdict[int, list[Value]](list), 0
    while place < len(raw):
        key, place = _varint(raw, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: Value
            value, place = _varint(raw, place)
        else:
            size, place = _varint(raw, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
            value, place = raw[place : place + size], place + size
        found[number].append(value)
    return found


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[place]
        number, shift, place = number | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return number, place
