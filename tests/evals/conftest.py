"""A small tokenizer, tiny models, and subjects whose answers are known."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.rows import Message
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, train
from cirilla_cli.evals.base import Ask, Surprise
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig
from cirilla_cli.progress import Silent


class Heard(Silent):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


CORPUS = [
    "Geralt of Rivia is a witcher. His horse is called Roach, and his teacher was Vesemir of Kaer Morhen.",
    "Ciri, the child of surprise, fights with Zireael. Yennefer of Vengerberg wears black and white.",
    "Zażółć gęślą jaźń: the bard Dandelion sings of Oxenfurt, where he once studied the liberal arts.",
]


@pytest.fixture(scope="session")
def tokenizer() -> SentencePieceTokenizer:
    return train(SentencePieceConfig(vocab_size=340), CORPUS * 3)


@pytest.fixture
def load(tokenizer: SentencePieceTokenizer) -> Callable[..., Loaded]:
    """A random model wide enough in its weights that it is sure of much, all of it wrong."""

    def make(
        *, context_length: int = 64, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 8.0
    ) -> Loaded:
        config = DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            d_model=32,
            n_layers=2,
            context_length=context_length,
            mixers={"A": AttentionConfig(n_heads=4, n_kv_heads=2)},
            mlp=SwiGLUConfig(d_ff=64),
        )
        model = fresh(config, seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
        return Loaded(model.to(dtype).eval(), config, tokenizer, Path("runs/test"))

    return make


@dataclass
class Person:
    """A subject made of functions: question to answer, answer to log-probability."""

    says: Callable[[str], str] = lambda question: ""
    weighs: Callable[[str, str], float | None] = lambda question, answer: 0.0

    def answers(self, asks: Sequence[Ask]) -> list[str]:
        return [self.says(ask.messages[-1].content) for ask in asks]

    def likelihoods(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[float | None]:
        return [self.weighs(messages[-1].content, answer) for messages, answer in pairs]

    def surprises(self, texts: Sequence[str]) -> list[Surprise]:
        return [Surprise(float(len(text)), len(text)) for text in texts]


@pytest.fixture
def person() -> type[Person]:
    return Person


@pytest.fixture
def dice() -> random.Random:
    return random.Random(0)


@pytest.fixture
def teach(tokenizer: SentencePieceTokenizer) -> Callable[..., None]:
    """Train a model until it answers as told."""

    def run(loaded: Loaded, told: dict[str, str], steps: int = 80) -> None:
        rows = [
            tokenizer.chat([Message(role="user", content=q), Message(role="assistant", content=a)])
            for q, a in told.items()
        ]
        T = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [0] * (T - len(row.ids)) for row in rows])
        targets = torch.tensor(
            [
                [i if t else -100 for i, t in zip(r.ids, r.trained, strict=True)] + [-100] * (T - len(r.ids))
                for r in rows
            ]
        )
        optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3, weight_decay=0.0)
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(
                every_logit(loaded, ids[:, :-1]).flatten(0, 1), targets[:, 1:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loaded.model.eval()

    return run


def every_logit(loaded: Loaded, tokens: torch.Tensor) -> Any:
    from cirilla_cli.model.layout import SequenceLayout
    from cirilla_cli.model.readout import LastLogits

    return loaded.model(tokens, SequenceLayout.rows(*tokens.shape), readout=LastLogits(tokens.shape[1]))


@pytest.fixture
def logits() -> Callable[[Loaded, torch.Tensor], Any]:
    """Logits of a plain forward pass."""
    return every_logit
