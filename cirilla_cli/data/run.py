"""`cirilla tokenize`: a tokenizer, trained or loaded, and token shards of the inputs.

inputs --read--> records --group by kind and split, fill to a shard's size--> tasks
                         --not held out, but naming a page that is--> left_out.jsonl
                                        tasks --encode, in processes--> shards --last--> index.json
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from cirilla_cli.data.aside import forget_aside, set_aside, taken_back
from cirilla_cli.data.config import TokenizeConfig, folders_of
from cirilla_cli.data.encode import encode_all, kind_of, training_text
from cirilla_cli.data.inputs import check_inputs, read_inputs
from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.data.origins import RowOrigin, write_origins
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, Sample, content_hash, held_out
from cirilla_cli.data.shard_cache import ShardCache
from cirilla_cli.data.shards import Kind, ShardIndex, ShardInfo, TokenShards, write_shard
from cirilla_cli.data.splits import NAMES_HELD_OUT, LeftOut, held_pages, is_trained_on
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import atomic_write, hash_path, read_json, write_json
from cirilla_cli.progress import Progress

_DRAWN_CHARS = 256
"""Of a record's text, what decides whether a shard ends before it."""
_DOCUMENT_EXTRA = 8
"""Most control tokens around one plain document."""
_MAKING = {"sentencepiece": "training", "load": "loading", "extended": "extending"}

Record = Document | Sample


@dataclass
class TokenizeReport:
    """What a run of tokenize left, as `report.json` has it."""

    out: str
    vocab_size: int
    tokenizer_hash: str
    kinds: dict[str, dict[str, dict[str, int]]]
    """Per kind and split: documents, tokens, trained tokens."""
    bytes_per_token: float
    unused_ids: int
    round_trip_failures: int
    rows: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows of no split, by reason; `shards/left_out.jsonl` lists them."""
    licenses: dict[str, int] = field(default_factory=dict)
    extension: dict[str, Any] | None = None
    """What it adds to another tokenizer."""


def tokenize(config: TokenizeConfig, out: Path, progress: Progress) -> TokenizeReport:
    """Write ``out/tokenizer``, ``out/shards/{text,chat,preference}``, ``out/report.json``; continues what was cut off.

    Raises:
        CirillaError: no inputs, no rows in them, or rows that are not understood (all of them named).
    """
    if not config.inputs:
        raise CirillaError("nothing to tokenize", hint="name files or folders: cirilla tokenize documents.jsonl")
    paths = [_spooled(path, out) for path in config.inputs]
    return finished(config, paths, encode_inputs(config, paths, out, progress, ALONE), out)


def finished(config: TokenizeConfig, paths: Sequence[Path], shards: "Sharder", out: Path) -> TokenizeReport:
    """Write the indexes of shards that are all there, and the report.

    Raises:
        CirillaError: there was not one row.
    """
    if shards.rows == 0:
        raise CirillaError(f"{', '.join(map(str, config.inputs))}: no rows, so nothing to tokenize")
    shards.finish([{"path": str(path), "sha256": hash_path(path)} for path in paths])
    report = _report(shards, shards.tokenizer, out, read_inputs(paths, format=config.format))
    write_json(out / "report.json", asdict(report))
    return report


def encode_inputs(
    config: TokenizeConfig, paths: Sequence[Path], out: Path, progress: Progress, spread: Spread
) -> "Sharder":
    """Write the tokenizer and the shards that ``spread`` takes; no index yet.

    Raises:
        CirillaError: rows are not understood.
    """
    _check_folders(config, out)
    cache = None if config.cache is None else ShardCache.opened(config.cache)
    progress.say("checking the rows")
    check_inputs(paths, format=config.format)
    shards = opened(config, paths, out, progress, spread, cache)
    with shards:
        for record in read_inputs(paths, format=config.format):
            shards.add(record)
    return shards


def opened(
    config: TokenizeConfig, paths: Sequence[Path], out: Path, progress: Progress, spread: Spread,
    cache: ShardCache | None = None,
) -> "Sharder":  # fmt: skip
    """The tokenizer, written, and a place for shards that nothing vouches for."""
    tokenizer = _tokenizer(config, paths, out, progress)
    # An index vouches for every shard beside it; those may be about to change.
    for index in (out / "shards").glob("*/index.json"):
        index.unlink()
    return Sharder(config, tokenizer, out / "shards", progress, spread, cache)


def _check_folders(config: TokenizeConfig, out: Path) -> None:
    """Raises: CirillaError: no tokenizer is where one shall be, or it would be overwritten by what it is made into."""
    for folder in folders_of(config.tokenizer):
        load_tokenizer(folder)
        if config.tokenizer.kind == "extended" and folder.resolve() in (out.resolve(), (out / "tokenizer").resolve()):
            raise CirillaError(
                f"`tokenizer.base` is {folder}: must not be where the extended one goes, which would overwrite it",
                hint=f"--out {out}-extended",
            )


def _spooled(path: Path, out: Path) -> Path:
    """Standard input, copied to a file because a tokenizer is trained on one pass and applied in another."""
    if path != STDIO:
        return path
    import sys

    spool = out / "input.jsonl"
    with atomic_write(spool) as file:
        for chunk in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
            file.write(chunk)
    return spool


def _tokenizer(config: TokenizeConfig, paths: Sequence[Path], out: Path, progress: Progress) -> Tokenizer:
    folder = out / "tokenizer"
    # The special texts first: a large corpus alone would use up what a tokenizer reads.
    every = [*config.tokenizer_inputs, *paths]
    read = [hash_path(path) for path in [*every, *folders_of(config.tokenizer)]]
    made_from = content_hash(config.tokenizer.model_dump(mode="json"), config.val, read)
    marker = folder / "made_from.json"
    if marker.is_file() and read_json(marker) == made_from:
        return load_tokenizer(folder)
    progress.say(f"{_MAKING[config.tokenizer.kind]} the tokenizer")
    records = chain(read_inputs(config.tokenizer_inputs), read_inputs(paths, format=config.format))
    # Not the held-out rows: their words would have pieces of their own.
    tokenizer = config.tokenizer.build(
        training_text(record) for record in records if is_trained_on(record.split_key, record.parents, frac=config.val)
    )
    tokenizer.save(folder)
    write_json(marker, made_from)
    return load_tokenizer(folder)


class Sharder:
    """Groups records by kind and split into shards, encodes those in order, and remembers what it wrote."""

    def __init__(
        self, config: TokenizeConfig, tokenizer: Tokenizer, folder: Path, progress: Progress, spread: Spread,
        cache: ShardCache | None,
    ) -> None:  # fmt: skip
        self.config, self.tokenizer, self.folder, self.progress = config, tokenizer, folder, progress
        self._spread, self._cache = spread, cache
        self.rows = 0
        self.left_out = LeftOut(folder)
        self.done: dict[Kind, dict[str, list[ShardInfo]]] = {}
        self.licenses: dict[str, int] = {}
        self.keys: list[str] = []
        """Every shard, also those that are made elsewhere, in order."""
        self._open: dict[tuple[Kind, str], list[Record]] = {}
        self._size: dict[tuple[Kind, str], int] = {}
        self._count: dict[tuple[Kind, str], int] = {}
        self._running: list[tuple[Kind, str, Any]] = []
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Sharder":
        set_aside(self.folder)
        if self.config.workers > 1:
            self._pool = ProcessPoolExecutor(self.config.workers, mp_context=get_context("spawn"))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.left_out.close()
        if error is None:
            self.left_out.tell(self.progress)
            for place in list(self._open):
                self._close_shard(place)
            self._collect(0)
            forget_aside(self.folder)
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add(self, record: Record) -> None:
        """Take one record; a full shard is encoded at once."""
        self.rows += 1
        kind = kind_of(record)
        split = "val" if held_out(record.split_key, frac=self.config.val) else "train"
        if split == "train" and (held := held_pages(record.split_key, record.parents, frac=self.config.val)):
            self.left_out.add({"id": record.id}, held)
            return
        if isinstance(record, Document) and record.license is not None:
            self.licenses[record.license.name] = self.licenses.get(record.license.name, 0) + 1
        place = kind, split
        size = _most_tokens(record)
        if self._open.get(place) and self._is_cut(record, self._size[place], size):
            self._close_shard(place)
        self._open.setdefault(place, []).append(record)
        self._size[place] = self._size.get(place, 0) + size

    def _is_cut(self, record: Record, held: int, size: int) -> bool:
        """Whether a shard that holds so much ends before a record: by what the record says, and where it is full.

        By the record alone, once a quarter is there: rows that come or go move the ends near them, and no others.
        """
        most = self.config.shard_tokens
        said = record.text if isinstance(record, Document) else record.conversation()[-1].content
        draw = crc32(said[:_DRAWN_CHARS].encode()) / 2**32
        return held + size > most or (held >= most // 4 and draw < size / (most / 4))

    def _close_shard(self, place: tuple[Kind, str]) -> None:
        kind, split = place
        number = self._count.get(place, 0)
        self._count[place] = number + 1
        records, self._open[place], self._size[place] = self._open[place], [], 0
        name = f"{split}-{number:05d}"
        key = f"{kind}/{name}"
        self.keys += [key] * bool(records)
        if records and self._spread.takes(key):
            # The tokenizer by its place: a process that has it already keeps what it learned of the words.
            known_as = self.folder.parent / "tokenizer", self.tokenizer.hash
            task = (self.folder / kind, name, records, *known_as, self._cache)
            future = self._pool.submit(encode_shard, *task) if self._pool else encode_shard(*task)
            self._running.append((kind, split, future))
            self._collect(2 * self.config.workers)

    def _collect(self, most_running: int) -> None:
        """Take finished shards in order, until no more than ``most_running`` are under way."""
        while len(self._running) > most_running or (self._running and self._pool is None):
            kind, split, future = self._running.pop(0)
            info = future.result() if self._pool else future
            self.done.setdefault(kind, {}).setdefault(split, []).append(info)
            self.progress.step("tokenize", sum(len(s) for k in self.done.values() for s in k.values()), None)

    def finish(self, sources: list[dict[str, Any]]) -> None:
        """Write each kind's index."""
        dtype = "<u2" if self.tokenizer.vocab_size <= 65_536 else "<u4"
        for kind, splits in self.done.items():
            index = ShardIndex(
                kind, dtype, self.tokenizer.vocab_size, self.tokenizer.hash, splits, sources, self.licenses
            )
            write_json(self.folder / kind / "index.json", index.to_json())


def encode_shard(
    folder: Path, name: str, records: list[Record], tokenizer_at: Path, tokenizer_hash: str, cache: ShardCache | None
) -> ShardInfo:
    """Encode one shard, or find that another run already did, from the same records with the same tokenizer."""
    made_from = _fingerprint(tokenizer_hash, records)
    if (found := taken_back(folder, name, made_from)) is not None:
        return found
    if cache is not None and (found := cache.take(made_from, folder, name)) is not None:
        return found
    tokenizer = _kept_tokenizer(tokenizer_at, tokenizer_hash)
    info = write_shard(folder, name, encode_all(records, tokenizer), tokenizer.vocab_size)
    info = replace(info, rows_sha256=write_origins(folder / info.rows, records))
    write_json(folder / f"{name}.json", {"made_from": made_from, "info": asdict(info)})
    if cache is not None:
        cache.add(made_from, folder, info)
    return info


def _fingerprint(tokenizer_hash: str, records: Sequence[Record]) -> str:
    """SHA-256 of all that a shard's files follow from: the tokenizer, each row's text, and what else is said of it."""
    digest = hashlib.sha256(tokenizer_hash.encode())
    for record in records:
        # Of a page its text and what leads back to it: its infobox and sections stand in no shard.
        parts = (RowOrigin.of(record).line(), record.text) if isinstance(record, Document) else (record.line(),)
        for part in map(str.encode, parts):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _kept_tokenizer(folder: Path, hash_: str) -> Tokenizer:
    """The tokenizer in ``folder``, which has that hash; the same one at every call of a process."""
    return load_tokenizer(folder)


def _most_tokens(record: Record) -> int:
    """A bound on a record's tokens: no tokenizer here makes more tokens than bytes."""
    if isinstance(record, Document):
        return len(record.text.encode()) + _DOCUMENT_EXTRA
    texts = [m.content for m in record.conversation()]
    size = sum(len(text.encode()) + 24 for text in texts)
    answers = [len(a.encode()) + 24 for a in (record.chosen, record.rejected) if a]
    return 2 * size + sum(answers) if answers else size


def _report(shards: Sharder, tokenizer: Tokenizer, out: Path, records: Iterator[Record]) -> TokenizeReport:
    kinds: dict[str, dict[str, dict[str, int]]] = {}
    used = np.zeros(tokenizer.vocab_size, dtype=bool)
    for kind, splits in shards.done.items():
        for split, infos in splits.items():
            kinds.setdefault(kind, {})[split] = {
                "documents": sum(i.documents for i in infos),
                "tokens": sum(i.tokens for i in infos),
                "trained": sum(i.trained for i in infos),
            }
            read = TokenShards.open(shards.folder / kind, split)
            for stored in read.files():
                used[stored] = True
    text_bytes = text_tokens = failures = 0
    for record in _first(records, 500):
        text = training_text(record)
        ids = tokenizer.encode(text)
        text_bytes, text_tokens = text_bytes + len(text.encode()), text_tokens + len(ids)
        failures += tokenizer.decode(ids) != text.replace("▁", "_")
    return TokenizeReport(
        out=str(out), vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash, kinds=kinds,
        bytes_per_token=round(text_bytes / max(1, text_tokens), 3), unused_ids=int((~used).sum()),
        round_trip_failures=failures, rows=shards.rows, licenses=shards.licenses,
        rejected={NAMES_HELD_OUT: shards.left_out.rows} if shards.left_out.rows else {},
        extension=asdict(said) | {"spelled": len(said.spelled)} if (said := tokenizer.extension) else None,
    )  # fmt: skip


def _first(records: Iterator[Record], n: int) -> Iterator[Record]:
    for _, record in zip(range(n), records, strict=False):
        yield record
