"""Tiny random models, and a tokenizer made by hand whose every piece is known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.data.chat import Rendered, segments
from cirilla_cli.data.segments import Block
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig

WINDOW = 5
FIRST = 16
"""Id of byte 0; the ids before it are control tokens."""


class Bytes:
    """One id a byte, for reading and writing texts; ids 1, 2, 4 and 5 are begin, end, and the ends of a turn."""

    def __init__(self) -> None:
        self.vocab_size, self.pad_id, self.stop_ids, self.hash = FIRST + 256, 3, frozenset({2, 5}), "bytes"
        self.bos_ids = [1]

    def encode(self, text: str) -> list[int]:
        return [FIRST + byte for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> Block:
        return Block.of(map(self.encode, texts))

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.piece_bytes(i) for i in ids).decode("utf-8", "replace")

    def piece_bytes(self, id: int) -> bytes:
        return bytes([id - FIRST]) if id >= FIRST else b""

    def document(self, ids: Sequence[int]) -> list[int]:
        return [1, *ids, 2]

    def chat(self, messages: Sequence[Any], *, generation_prompt: bool = False) -> Rendered:
        markers = {"<s>": 1, "<|im_start|>": 4, "<|im_end|>": 5}
        rendered = Rendered([], [])
        for part in segments(messages, generation_prompt=generation_prompt):
            ids = [markers[part.text]] if part.is_marker else self.encode(part.text)
            rendered.ids.extend(ids)
            rendered.trained.extend([part.is_trained] * len(ids))
        return rendered


def make_config(pattern: str = "A", context_length: int = 64) -> DecoderConfig:
    base = AttentionConfig(n_heads=4, n_kv_heads=2)
    mixers = {"A": base, "L": base.model_copy(update={"window": WINDOW})}
    return DecoderConfig(
        vocab_size=FIRST + 256,
        d_model=32,
        n_layers=2,
        context_length=context_length,
        mixers={letter: mixers[letter] for letter in sorted(set(pattern))},
        pattern=pattern,
        mlp=SwiGLUConfig(d_ff=48),
    )


def make_model(config: DecoderConfig, seed: int = 0) -> Decoder:
    """Random weights wide enough that greedy continuations vary."""
    model = fresh(config, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model.eval()


@pytest.fixture
def load() -> Callable[..., Loaded]:
    """A loaded model with the tokenizer above, or with none."""

    def make(
        *, pattern: str = "A", seed: int = 0, tokenizer: bool = True, verb: str | None = None, **keys: Any
    ) -> Loaded:
        config = make_config(pattern, **keys)
        # Reading and writing texts is all that generating asks of a tokenizer; it saves none.
        own = cast(Tokenizer, Bytes()) if tokenizer else None
        return Loaded(make_model(config, seed), config, own, Path("runs/test"), verb=verb)

    return make


@pytest.fixture
def tokenizer() -> Bytes:
    return Bytes()
