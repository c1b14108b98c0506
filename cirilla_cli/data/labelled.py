"""Texts with labels, for classifiers: rows of `text` and `label` into token shards.

Each document of these shards begins with the number of its label, in place of a file of labels beside it, so that
whatever vouches for the tokens vouches for the labels; `labels.json` holds their names.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, field_validator

from cirilla_cli.data.encode import framed
from cirilla_cli.data.jsonl import STDIO, Complaints, read_rows, validate
from cirilla_cli.data.rows import Record, content_hash, held_out
from cirilla_cli.data.shards import Encoded, ShardIndex, ShardInfo, write_shard
from cirilla_cli.data.splits import LeftOut, held_pages
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import files_below, hash_path, read_json, write_json
from cirilla_cli.progress import Progress

LABELS = "labels.json"
_MADE_FROM = "made_from.json"
_PER_SHARD = 100_000
"""Documents in one file of shards."""


class LabelledRow(Record):
    """A text and its label; other keys are passed over, for such rows come from everywhere."""

    model_config = ConfigDict(extra="ignore")

    text: str
    label: str | int
    split_key: str | None = None
    """What decides on which side of the split the row falls; the text itself where there is none."""
    parents: tuple[str, ...] = ()
    """Pages that the text was made of."""

    @property
    def key(self) -> str:
        """What the split hashes."""
        return self.split_key or self.text

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be empty")
        return text

    @field_validator("parents", mode="before")
    @classmethod
    def _names_pages(cls, parents: Any) -> Any:
        return tuple(one for one in parents if isinstance(one, str)) if isinstance(parents, list | tuple) else ()

    @field_validator("label", mode="before")
    @classmethod
    def _names_a_class(cls, label: Any) -> Any:
        if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
            raise ValueError("must be the name of a class, or its number")
        if str(label) != str(label).strip():
            raise ValueError("must not begin or end with white space")
        if len(str(label).splitlines()) > 1:
            raise ValueError("must be on one line")
        return label


def read_labelled(paths: Sequence[Path]) -> Iterator[LabelledRow]:
    """Every row of the files (`-` is standard input), and of the `.jsonl` files of folders.

    Raises:
        CirillaError: at the end, naming every line that is no such row; or a path is missing.
    """
    complaints = Complaints()
    for path in paths:
        if path != STDIO and not path.exists():
            raise CirillaError(f"{path}: no such file or folder")
        for file in [f for f in files_below(path) if f.suffix == ".jsonl"] if path.is_dir() else [path]:
            for row in read_rows(file, complaints):
                labelled = validate(row, LabelledRow, complaints)
                if labelled is not None:
                    yield labelled
    complaints.raise_if_any()


def shard_labelled(
    paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, progress: Progress, *, val: float
) -> list[str]:
    """Write the rows' shards into ``folder``, unless they stand there already; returns the labels' names.

    Raises:
        CirillaError: rows are not understood, or there are fewer than two labels.
    """
    made_from = content_hash(tokenizer.hash, val, [hash_path(path) for path in paths if path.exists()])
    marker, index = folder / _MADE_FROM, folder / "index.json"
    if index.is_file() and marker.is_file() and read_json(marker) == made_from:
        return label_names(folder)
    rows = list(read_labelled(paths))
    labels = class_names({row.label for row in rows}, paths)
    if len(labels) >= tokenizer.vocab_size:
        raise CirillaError(
            f"{', '.join(map(str, paths))}: {len(labels)} labels, more than the tokenizer has pieces",
            hint="fewer labels, or a tokenizer with more pieces (tokenizer.vocab_size)",
        )
    index.unlink(missing_ok=True)
    splits = _splits(rows, val, folder, progress)
    infos = {split: _write(some, split, labels, tokenizer, folder) for split, some in splits.items() if some}
    write_json(folder / LABELS, labels)
    write_json(marker, made_from)
    dtype = "<u2" if tokenizer.vocab_size <= 65_536 else "<u4"
    sources = [{"path": str(path), "sha256": hash_path(path)} for path in paths]
    write_json(index, ShardIndex("labelled", dtype, tokenizer.vocab_size, tokenizer.hash, infos, sources, {}).to_json())
    return labels


def _splits(rows: Iterable[LabelledRow], val: float, folder: Path, progress: Progress) -> dict[str, list[LabelledRow]]:
    splits: dict[str, list[LabelledRow]] = {"train": [], "val": []}
    left_out = LeftOut(folder)
    for row in rows:
        if held_out(row.key, frac=val):
            splits["val"].append(row)
        elif held := held_pages(row.key, row.parents, frac=val):
            left_out.add({"text": row.text}, held)
        else:
            splits["train"].append(row)
    left_out.close()
    left_out.tell(progress)
    return splits


def label_names(folder: Path) -> list[str]:
    """Names of the labels of finished shards, by number."""
    return [str(name) for name in read_json(folder / LABELS)]


def class_names(labels: Collection[str | int], paths: Sequence[Path]) -> list[str]:
    """The classes' names in order, numbers by size; ``paths`` are named in complaints.

    Raises:
        CirillaError: there are fewer than two, or a number stands there as text too.
    """
    where = ", ".join(map(str, paths))
    numbers, names = sorted(x for x in labels if isinstance(x, int)), sorted(x for x in labels if isinstance(x, str))
    both = [number for number in numbers if str(number) in names]
    if both:
        raise CirillaError(
            f"{where}: `label` is {both[0]} in some rows and {str(both[0])!r} in others: one class or two?",
            hint="write the label alike in all rows",
        )
    if len(labels) < 2:
        found = f"only the label {next(iter(labels))!r}" if labels else "no rows"
        raise CirillaError(f"{where}: {found}; a classifier tells at least two labels apart")
    return list(map(str, [*numbers, *names]))


def _write(
    rows: Sequence[LabelledRow], split: str, labels: Sequence[str], tokenizer: Tokenizer, folder: Path
) -> list[ShardInfo]:
    numbers, infos = {label: number for number, label in enumerate(labels)}, []
    for shard, start in enumerate(range(0, len(rows), _PER_SHARD)):
        some = rows[start : start + _PER_SHARD]
        encoded = framed(tokenizer, [row.text for row in some])
        documents = [
            Encoded(np.insert(ids, 0, numbers[str(row.label)])) for row, ids in zip(some, encoded.parts(), strict=True)
        ]
        infos.append(write_shard(folder, f"{split}-{shard:05d}", documents, tokenizer.vocab_size))
    return infos
