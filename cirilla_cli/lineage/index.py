"""The suffix arrays of a model's shards: made once, kept beside each shard under its hash, mapped from then on."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.data.origins import RowOrigin, read_origins, row_of
from cirilla_cli.data.shards import Kind, ShardIndex, ShardInfo, read_ends
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import CACHE, atomic_write
from cirilla_cli.lineage.suffixes import Suffixes, suffix_array
from cirilla_cli.progress import Progress

_LOOKED_AT = 1024
"""Places of an index that are looked at before it is used."""


@dataclass(frozen=True)
class IndexedShard:
    """One shard of training data that can be searched."""

    kind: Kind
    folder: Path
    info: ShardInfo
    suffixes: Suffixes

    def origins(self, documents: set[int]) -> dict[int, RowOrigin]:
        """The rows that some of its documents were made from; none where no list of rows was written."""
        if self.info.rows_sha256 is None:
            return {}
        rows = {document: row_of(self.kind, document) for document in documents}
        found = read_origins(self.folder / self.info.rows, set(rows.values()))
        return {document: found[row] for document, row in rows.items() if row in found}


def open_shards(folder: Path, index: ShardIndex, progress: Progress) -> Iterator[IndexedShard]:
    """The training shards of a folder; what has no index yet gets one, which is said.

    Raises:
        CirillaError: files are missing or of another size than recorded.
    """
    for info in index.splits.get("train", []):
        if info.tokens:
            ids_N, ends_D = _ids(folder, info, index.dtype), read_ends(folder / info.ends, info).astype(np.int64)
            order_N = _order(folder, info, ids_N, ends_D, progress)
            yield IndexedShard(index.kind, folder, info, Suffixes(ids_N, ends_D, order_N))


def _ids(folder: Path, info: ShardInfo, dtype: str) -> NDArray[np.integer[Any]]:
    path = folder / info.file
    size = path.stat().st_size if path.is_file() else -1
    if size != info.tokens * np.dtype(dtype).itemsize:
        raise CirillaError(f"{path}: missing or damaged", hint="cirilla trace MODEL says what has changed")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _order(
    folder: Path, info: ShardInfo, ids_N: NDArray[np.integer[Any]], ends_D: NDArray[np.int64], progress: Progress
) -> NDArray[np.int32]:
    """The shard's suffix array: from the file named by the shard's hash, else made and, where that can be, kept."""
    path = folder / CACHE / f"{info.file[:-4]}.suffixes-{info.sha256[:16]}.npy"
    kept = _kept(path, info.tokens)
    if kept is not None:
        return kept
    progress.say(f"indexing {info.tokens:,} tokens of {folder}; done once")
    order_N = suffix_array(ids_N, ends_D)
    for stale in path.parent.glob(f"{info.file[:-4]}.suffixes-*.npy"):
        with contextlib.suppress(OSError):
            stale.unlink()
    try:
        with atomic_write(path) as file:
            np.save(file, order_N)
    except OSError as error:
        progress.say(f"{folder}: cannot be written ({error.strerror}), so the index is not kept")
    return order_N


def _kept(path: Path, tokens: int) -> NDArray[np.int32] | None:
    """The suffix array in a file, if it is one of so many tokens; what is damaged is made anew."""
    with io.BytesIO() as begin:
        np.lib.format.write_array_header_1_0(begin, {"descr": "<i4", "fortran_order": False, "shape": (tokens,)})
        header = begin.getvalue()
    try:
        with path.open("rb") as file:
            whole = file.read(len(header)) == header and path.stat().st_size == len(header) + 4 * tokens
        order_N = np.asarray(np.memmap(path, "<i4", "r", len(header))) if whole else np.zeros(0, np.int32)
    except OSError:
        return None
    some = order_N[:: max(1, tokens // _LOOKED_AT)]
    sound = some.size > 0 and some.min() >= 0 and some.max() < tokens and len(np.unique(some)) == len(some)
    return order_N if sound else None
