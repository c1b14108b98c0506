"""Token shards: memory-mapped ids with document ends and, where it matters, which tokens are trained on.

rows --encode--> {split}-00000.bin   little-endian ids, header-less
                 {split}-00000.idx.npy   uint64 document ends
                 {split}-00000.mask   one byte a token, for chats and preferences
                 index.json   written last: its existence means the rest is whole
"""

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import atomic_write, hash_file, read_object

VERSION = 1
Kind = Literal["text", "chat", "preference", "labelled"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document's ids and which are trained on (None: all)."""

    ids: list[int]
    trained: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as `index.json` lists it."""

    file: str
    tokens: int
    trained: int
    documents: int
    sha256: str


def write_shard(folder: Path, name: str, documents: Sequence[Encoded], vocab_size: int) -> ShardInfo:
    """Write one shard's files and say what they hold."""
    kind = np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")
    ids = np.concatenate([np.asarray(d.ids, dtype=kind) for d in documents]) if documents else np.zeros(0, kind)
    masks = [d.trained for d in documents]
    trained = len(ids)
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
    return ShardInfo(f"{name}.bin", len(ids), trained, len(documents), hash_file(folder / f"{name}.bin"))


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

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The index of a folder.

        Raises:
            CirillaError: there is none, or another version wrote it.
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
        splits = {name: [ShardInfo(**shard) for shard in shards] for name, shards in data["splits"].items()}
        return cls(**{**data, "splits": splits})


class TokenShards:
    """One split of a folder of shards, read through memory maps."""

    def __init__(self, folder: Path, split: str) -> None:
        self.index = ShardIndex.read(folder)
        self.folder, self.split = folder, split
        infos = self.index.splits.get(split, [])
        self._ids = [_map(folder / info.file, np.dtype(self.index.dtype), info) for info in infos]
        self._ends = [_ends(folder / f"{info.file[:-4]}.idx.npy", info) for info in infos]
        masks = [folder / f"{info.file[:-4]}.mask" for info in infos]
        self._masks = [
            _map(mask, np.dtype(np.uint8), info) if mask.is_file() or info.trained < info.tokens else None
            for mask, info in zip(masks, infos, strict=True)
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


def _ends(path: Path, info: ShardInfo) -> NDArray[np.uint64]:
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
