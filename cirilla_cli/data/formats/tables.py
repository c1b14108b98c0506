"""Rows of Parquet files and of folders that `datasets` saved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cirilla_cli.data.jsonl import shown
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_object

if TYPE_CHECKING:
    from collections.abc import Iterable

L = TypeVar("L")

_SAVE = "save it anew: dataset.save_to_disk(...)"
_AT_ONCE = 1024
"""Rows of a Parquet file that are in memory together."""
_AS_JSON = ("verify",)
"""Fields that stand in a table as JSON text, because their form differs from row to row."""


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row of a Parquet file, without what is null in it.

    Raises:
        CirillaError: the file is damaged.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield from _rows(file.iter_batches(_AT_ONCE))
    except (pa.ArrowException, OSError) as error:
        raise CirillaError(f"{path}: not a whole Parquet file: {error}") from None


def arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row of an Arrow file as `datasets` writes it (a stream), without what is null in it.

    Raises:
        CirillaError: the file is damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            yield from _rows(_batches(source, path))
    except (pa.ArrowException, OSError) as error:
        raise CirillaError(f"{path}: not a whole Arrow file: {error}") from None


def _batches(source: Any, path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    if not is_file:
        yield from pa.ipc.open_stream(source)
        return
    reader = pa.ipc.open_file(source)
    yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def is_dataset(folder: Path) -> bool:
    """Whether `datasets` saved a dataset, or several splits, into ``folder``."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved dataset, in order.

    Raises:
        CirillaError: it holds several splits, of which one must be named, or rows picked out by an index.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits", str)
        if len(splits) == 1:
            return dataset_files(folder / splits[0])
        raise CirillaError(
            f"{folder}: holds the splits {', '.join(splits)}, which are not for one purpose",
            hint=f"name one of them: {folder / splits[0]}",
        )
    if read_object(_whole(folder / "state.json")).get("_indices_files"):
        raise CirillaError(
            f"{folder}: a selection of rows, kept as an index",
            hint="save it whole: dataset.flatten_indices().save_to_disk(...)",
        )
    files = _listed(folder / "state.json", "_data_files", dict)
    return [_whole(folder / Path(str(file.get("filename") or "filename")).name) for file in files]


def _listed(path: Path, key: str, kind: type[L]) -> list[L]:
    """What a list in one of the files of a dataset names; there must be something."""
    found = read_object(path).get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, kind) for one in found):
        raise CirillaError(f"{path}: `{key}` is {shown(found)}: must be a list, not empty", hint=_SAVE)
    return found


def _whole(path: Path) -> Path:
    if not path.is_file():
        raise CirillaError(f"{path}: not there, so this is only a part of a dataset", hint=_SAVE)
    return path


def _rows(batches: "Iterable[Any]") -> Iterator[dict[str, Any]]:
    for batch in batches:
        for row in batch.to_pylist():
            yield {key: _value(key, value) for key, value in row.items() if value is not None}


def _value(key: str, value: Any) -> Any:
    if key in _AS_JSON and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
