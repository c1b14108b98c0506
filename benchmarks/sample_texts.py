"""The corpora of `sample_efficiency.py`: documents, a split, one tokenizer, and ids that every system reads."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.sentencepiece import train
from cirilla_cli.data.shards import Encoded, ShardIndex, write_shard
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.fs import write_json

VOCABULARY, CHARACTERS = 8192, 72
"""Pieces of the tokenizer, and of texts read by characters."""


def dictionary(path: Path) -> list[str]:
    """Entries of Debian's dict-gcide, as `zcat gcide.dict.dz` gives it: each begins at the left edge."""
    text = path.read_text(encoding="utf-8", errors="replace")
    entries = re.split(r"\n\n(?=\S)", text[text.index("\n\nA \\") :])
    return [entry.strip("\n") + "\n" for entry in entries if len(entry) > 20]


def articles(path: Path) -> list[str]:
    """Articles of a WikiText file: each begins with a heading between single equals signs."""
    parts = re.split(r"\n(?= = [^=].*[^=] = \n)", path.read_text(encoding="utf-8"))
    return [part.strip("\n") + "\n" for part in parts if part.strip()]


def held_out(document: str) -> bool:
    """One document in ten, by its own hash."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=4).digest(), "little") % 10 == 0


def corpora(gcide: Path | None, wikitext: Path | None) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, documents to train on and documents to validate on."""
    if gcide is not None:
        entries = dictionary(gcide)
        yield "gcide", [e for e in entries if not held_out(e)], [e for e in entries if held_out(e)]
    if wikitext is not None:
        yield "wikitext2", articles(wikitext / "test.txt"), articles(wikitext / "valid.txt")


def some(documents: Sequence[str], most_bytes: int) -> list[str]:
    """Documents in an order by hash, as many as ``most_bytes`` hold; a long one is cut to a quarter of that."""
    chosen, left = [], most_bytes
    for document in sorted(documents, key=lambda d: hashlib.blake2b(d.encode()).digest()):
        part = document.encode()[: most_bytes // 4].decode("utf-8", "ignore")
        if len(part.encode()) <= left:
            chosen.append(part)
            left -= len(part.encode())
    return chosen


def prepare(name: str, train_texts: list[str], val_texts: list[str], folder: Path, most_bytes: int) -> Path:
    """Token shards `folder`/`name` with the splits train and val, once; their validation bytes in `bytes.json`."""
    out = folder / name
    wanted = {"validation": most_bytes}
    if (out / "bytes.json").is_file() and wanted.items() <= json.loads((out / "bytes.json").read_text()).items():
        return out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train(SentencePieceConfig(vocab_size=VOCABULARY), train_texts)
    chosen = some(val_texts, most_bytes)
    splits = {"train": train_texts, "val": chosen}
    infos = {
        split: [write_shard(out, f"{split}-00000", _encoded(t, tokenizer), VOCABULARY)] for split, t in splits.items()
    }
    index = ShardIndex("text", "<u2", VOCABULARY, tokenizer.hash, infos, [], {})
    write_json(out / "index.json", asdict(index))
    counts = {s: {"bytes": sum(len(t.encode()) for t in texts), "documents": len(texts)} for s, texts in splits.items()}
    write_json(out / "bytes.json", wanted | counts)
    return out


def characters(path: Path, folder: Path) -> Path:
    """A text as one document of characters, numbered from 4 on; the last tenth is held out."""
    out = folder / "characters"
    out.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8")
    numbers = {c: 4 + i for i, c in enumerate(sorted(set(text)))}
    cut = len(text) * 9 // 10
    splits = {"train": text[:cut], "val": text[cut:]}
    infos = {
        split: [write_shard(out, f"{split}-00000", [Encoded([numbers[c] for c in part])], CHARACTERS)]
        for split, part in splits.items()
    }
    write_json(out / "index.json", asdict(ShardIndex("text", "<u2", CHARACTERS, "characters", infos, [], {})))
    write_json(out / "bytes.json", {split: {"bytes": len(part.encode())} for split, part in splits.items()})
    return out


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded]:
    return [Encoded(tokenizer.document(ids)) for ids in tokenizer.encode_batch(texts)]
