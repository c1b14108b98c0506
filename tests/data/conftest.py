"""A small tokenizer of each back end, and shards of known tokens."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, train
from cirilla_cli.data.shards import Encoded, Kind, ShardIndex, TokenShards, write_shard

WIKI = Path(__file__).parents[2] / "recipes" / "quickstart" / "wiki.xml"


@pytest.fixture(scope="session")
def wiki() -> str:
    """The bundled wiki as it stands in the export, markup and all."""
    return WIKI.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(wiki: str) -> SentencePieceTokenizer:
    """Ours, of 1,200 pieces."""
    return train(SentencePieceConfig(vocab_size=1200), [wiki])


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """A file of lines: objects as JSON, strings and bytes as they are."""

    def write(*lines: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        raw = [x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode() for x in lines]
        path.write_bytes(b"".join(line + b"\n" for line in raw))
        return path

    return write


Document = Sequence[int] | tuple[Sequence[int], Sequence[bool]]


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., TokenShards]:
    """Shards of the given documents (ids, or ids with what is trained), ``per_shard`` in each."""
    made = 0

    def make(
        documents: Sequence[Document], kind: Kind = "text", per_shard: int = 3, vocab_size: int = 60_000
    ) -> TokenShards:
        nonlocal made
        folder, made = tmp_path / f"shards-{made}", made + 1
        encoded = [Encoded(list(d[0]), list(d[1])) if isinstance(d, tuple) else Encoded(list(d)) for d in documents]
        parts = [encoded[i : i + per_shard] for i in range(0, len(encoded), per_shard)]
        infos = [write_shard(folder, f"train-{n:05d}", part, vocab_size) for n, part in enumerate(parts)]
        dtype = "<u2" if vocab_size <= 65_536 else "<u4"
        index = ShardIndex(kind, dtype, vocab_size, "hash", {"train": infos}, [], {})
        folder.mkdir(exist_ok=True)
        (folder / "index.json").write_text(json.dumps(asdict(index)))
        return TokenShards.open(folder)

    return make
