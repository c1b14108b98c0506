"""Recipes that the tests of this folder start from."""

from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = """\
# A model for tests.
recipe: 1
model:
  kind: decoder
  d_model: 64
  n_layers: 2
  context_length: 128
  mixers: {A: {kind: attention, n_heads: 4, n_kv_heads: 2}}
  mlp: {kind: swiglu, d_ff: 176}
data:
  kind: packed_text
  sources: {wiki: {path: runs/wiki}}
objective: {kind: cross_entropy}
train: {steps: 10, batch_tokens: 1Ki}
optim:
  kind: adamw
  lr: 1e-3
schedule: {kind: wsd, warmup: 5%}
"""


@pytest.fixture
def good() -> str:
    """A pretraining recipe without mistakes."""
    return GOOD


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file into the working directory, which is empty and the test's own; returns its relative path."""
    monkeypatch.chdir(tmp_path)

    def put(text: str, name: str = "toy.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return put


FROM_PAGES = """\
tokenizer: {kind: sentencepiece, vocab_size: 1Ki}
data:
  kind: packed_text
  sources:
    pages: {path: pages.jsonl}
"""


@pytest.fixture
def from_pages(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a recipe that learns from pages, with the sections it is given."""

    def put(sections: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text("recipe: 1\n" + sections + FROM_PAGES)
        return path

    return put
