"""Token shards: memory-mapped ids with document ends and, where it matters, which tokens are trained on.

rows --encode--> {split}-00000.bin   little-endian ids, header-less
                 {split}-00000.idx.npy   uint64 document ends
                 {split}-00000.mask   one byte a token, for chats and preferences
                 {split}-00000.rows.jsonl   a line for each row: which page or sample it is (`data/origins.py`)
                 index.json   written last: its existence means the rest is whole

Every file is hashed once, when it is written, and `index.json` keeps the hashes. Opening shards compares sizes alone:
reading gigabytes at each start would cost more than it finds. A run that goes on reads those files again whose size
or time of change is not what it was when the run began, and only those (`ShardIndex.altered`).
"""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import atomic_write, hash_file, hash_json, read_object

VERSION = 1
Kind = Literal["text", "chat", "preference", "labelled"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document's ids and which are trained on (None: all)."""

    ids: Sequence[int] | NDArray[np.integer[Any]]
    trained: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as `index.json` lists it."""

    file: str
    tokens: int
    trained: int
    documents: int
    sha256: str
    """Of the ids."""
    ends_sha256: str | None = None
    """Of the document ends; None in indexes that were written before these were recorded."""
    mask_sha256: str | None = None
    """Of the mask; None where every token is trained on."""
    rows_sha256: str | None = None
    """Of the list of rows; None where none was written."""

    @property
    def ends(self) -> str:
        """The file of document ends."""
        return f"{self.file[:-4]}.idx.npy"

    @property
    def mask(self) -> str:
        """The file that says which tokens are trained on, where there is one."""
        return f"{self.file[:-4]}.mask"

    @property
    def rows(self) -> str:
        """The file that says which row each document was made from."""
        return f"{self.file[:-4]}.rows.jsonl"

    def content(self) -> dict[str, Any]:
        """What training reads, not which rows it came from."""
        return {key: value for key, value in asdict(self).items() if key != "rows_sha256"}

    def hashes(self) -> Iterator[tuple[str, str]]:
        """Each file that training reads and that was hashed, and its SHA-256."""
        recorded = (self.file, self.sha256), (self.ends, self.ends_sha256), (self.mask, self.mask_sha256)
        return ((name, digest) for name, digest in recorded if digest is not None)


def write_shard(folder: Path, name: str, documents: Sequence[Encoded], vocab_size: int) -> ShardInfo:
    """Write one shard's files and say what they hold."""
    kind = np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")
    ids = np.concatenate([np.asarray(d.ids, dtype=kind) for d in documents]) if documents else np.zeros(0, kind)
    masks = [d.trained for d in documents]
    trained, mask_sha256 = len(ids), None
    with atomic_write(folder / f"{name}.bin") as file:
        file.write(ids.tobytes())
    with atomic_write(folder / f"{name}.idx.npy") as file:
        np.save(file, np.cumsum([len(d.ids) for d in documents], dtype=np.uint64))
    if any(mask is not None for mask in masks):
        flat = np.concatenate(
            [
                np.asarray(m if m is not None else [True] * len(d.ids), np.uint8)
                for m, d in zip(masks, documents, strict=True)
            ]
        )
        trained = int(flat.sum())
        with atomic_write(folder / f"{name}.mask") as file:
            file.write(flat.tobytes())
        mask_sha256 = hash_file(folder / f"{name}.mask")
    return ShardInfo(
        f"{name}.bin", len(ids), trained, len(documents), hash_file(folder / f"{name}.bin"),
        hash_file(folder / f"{name}.idx.npy"), mask_sha256,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What `index.json` says about a folder of shards."""

    kind: Kind
    dtype: str
    vocab_size: int
    tokenizer_hash: str
    splits: dict[str, list[ShardInfo]]
    sources: list[dict[str, Any]]
    licenses: dict[str, int]
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 of what the shards hold: their hashes and the tokenizer's, not where the rows came from."""
        splits = {name: [info.content() for info in infos] for name, infos in self.splits.items()}
        return hash_json([self.kind, self.dtype, self.vocab_size, self.tokenizer_hash, splits])

    def stamps(self, folder: Path) -> dict[str, list[int]]:
        """Size and time of change, in nanoseconds, of every file of the shards in ``folder``."""
        return {name: _stamp(folder / name) for name, _ in self._hashes()}

    def altered(self, folder: Path, stamps: Mapping[str, Any]) -> list[Path]:
        """Files whose bytes are not those recorded; only those whose stamp differs from ``stamps`` are read.

        What keeps size and time of change while it changes is not noticed; copying or touching costs one reading.
        """
        suspects = [
            (folder / name, digest) for name, digest in self._hashes() if _stamp(folder / name) != stamps.get(name)
        ]
        return [path for path, digest in suspects if hash_file(path) != digest]

    def _hashes(self) -> Iterator[tuple[str, str]]:
        return (pair for infos in self.splits.values() for info in infos for pair in info.hashes())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The index of a folder.

        Raises:
            CirillaError: there is none, it is damaged, or another version wrote it.
        """
        path = folder / "index.json"
        if not path.is_file():
            raise CirillaError(
                f"{folder}: no index.json, so no finished token shards",
                hint="run `cirilla tokenize` again: it continues",
            )
        data = read_object(path)
        if data.get("version") != VERSION:
            raise CirillaError(f"{path}: shard format version {data.get('version')}, this program reads {VERSION}")
        try:
            splits = {name: [ShardInfo(**shard) for shard in shards] for name, shards in data["splits"].items()}
            return cls(**{**data, "splits": splits})
        except (AttributeError, KeyError, TypeError):
            raise _damaged(f"{path}: keys are missing or strange") from None


class TokenShards:
    """One split of a folder of shards, read through memory maps."""

    def __init__(self, folder: Path, split: str) -> None:
        self.index = ShardIndex.read(folder)
        self.folder, self.split = folder, split
        infos = self.index.splits.get(split, [])
        self._ids = [_map(folder / info.file, np.dtype(self.index.dtype), info) for info in infos]
        self._ends = [read_ends(folder / info.ends, info) for info in infos]
        self._masks = [
            _map(folder / info.mask, np.dtype(np.uint8), info) if _masked(folder, info) else None for info in infos
        ]
        self._first = np.cumsum([0, *(info.documents for info in infos)]).tolist()
        self.n_documents = self._first[-1]
        self.n_tokens = sum(info.tokens for info in infos)
        parts = [np.diff(ends, prepend=np.uint64(0)) for ends in self._ends]
        self.lengths: NDArray[np.int64] = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        """Tokens of each document."""
        self._all_ends = np.cumsum(self.lengths)
        self._token_first = np.cumsum([0, *(info.tokens for info in infos)])[:-1]

    @classmethod
    def open(cls, folder: Path, split: str = "train") -> Self:
        """The ``split`` of the shards in ``folder``; an absent split is empty."""
        return cls(folder, split)

    def document(self, i: int) -> NDArray[np.integer[Any]]:
        """The ids of document ``i``."""
        shard, span = self._locate(i)
        return self._ids[shard][span]

    def files(self) -> Iterator[NDArray[np.integer[Any]]]:
        """The ids of each file, whole; one file after another in memory, if they are dropped as they come."""
        dtype = np.dtype(self.index.dtype)
        # Not the maps that are kept: pages read through those count as this process's memory from then on.
        return (_map(self.folder / info.file, dtype, info) for info in self.index.splits.get(self.split, []))

    def counted(self, i: int) -> NDArray[np.bool_]:
        """Which tokens of document ``i`` are trained on."""
        shard, span = self._locate(i)
        mask = self._masks[shard]
        if mask is None:
            return np.ones(span.stop - span.start, dtype=np.bool_)
        return mask[span].astype(np.bool_)

    def read(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``count`` tokens of all documents in a row from token ``start`` on, around the end, and each one's document.

        A document met again after the end has another number, so that its end does not run into its own beginning.
        """
        lap, at = np.divmod(start + np.arange(count), self.n_tokens)
        ids = np.empty(count, dtype=np.int64)
        shard_T = np.searchsorted(self._token_first, at, side="right") - 1
        for shard in np.unique(shard_T):
            here = shard_T == shard
            ids[here] = self._ids[shard][at[here] - self._token_first[shard]]
        return ids, np.searchsorted(self._all_ends, at, side="right") + lap * self.n_documents

    def _locate(self, i: int) -> tuple[int, slice]:
        shard = bisect.bisect_right(self._first, i) - 1
        local = i - self._first[shard]
        ends = self._ends[shard]
        return shard, slice(int(ends[local - 1]) if local else 0, int(ends[local]))


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise _damaged(f"{path}: missing") from None
    return [found.st_size, found.st_mtime_ns]


def _masked(folder: Path, info: ShardInfo) -> bool:
    """Whether a shard has a mask: as its index recorded it, so that a stray file is none."""
    if info.ends_sha256 is None:
        return (folder / info.mask).is_file() or info.trained < info.tokens
    return info.mask_sha256 is not None


def read_ends(path: Path, info: ShardInfo) -> NDArray[np.uint64]:
    """Where each document of a shard ends.

    Raises:
        CirillaError: the file is missing or damaged.
    """
    try:
        ends: NDArray[np.uint64] = np.load(path)
    except (OSError, EOFError, ValueError):
        ends = np.zeros(0, np.uint64)
    if len(ends) != info.documents or (len(ends) and int(ends[-1]) != info.tokens):
        raise _damaged(f"{path}: missing, or not the ends of {info.documents} documents in {info.tokens} tokens")
    return ends


def _damaged(said: str) -> CirillaError:
    return CirillaError(f"{said}: the shard is damaged", hint="remove the folder and run `cirilla tokenize` again")


def _map(path: Path, dtype: np.dtype[Any], info: ShardInfo) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != info.tokens * dtype.itemsize:
        raise _damaged(f"{path}: {size} bytes, its index says {info.tokens * dtype.itemsize}")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if size else np.zeros(0, dtype)
