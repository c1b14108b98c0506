"""A curated set as Parquet: plain files, or a folder that `datasets` and the Hub read, with its card."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cirilla_cli.curate.card import card
from cirilla_cli.curate.report import CurateReport
from cirilla_cli.curate.terms import Terms
from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import replace_folder, write_text

if TYPE_CHECKING:
    import pyarrow as pa

Layout = Literal["parquet", "datasets"]

FOLDERS: Mapping[Layout, str] = {"parquet": "parquet", "datasets": "dataset"}
"""Where each layout goes, beside the other files."""
_GROUP_ROWS = 4096
"""Rows of a row group: what is in memory at once."""
_AS_JSON = "verify"
"""The one column whose objects differ from row to row; it holds them as JSON text."""


def export(layout: Layout, report: CurateReport, files: Mapping[str, Path], folder: Path) -> Path:
    """Write the sides of a set to ``folder``/parquet or ``folder``/dataset, whole or not at all.

    Args:
        layout: `parquet` for {side}.parquet files; `datasets` for data/{side}-00000-of-00001.parquet and README.md.
            Either has ATTRIBUTION.md where samples were made of pages.
        report: what the set is.
        files: its sides as JSON lines.
        folder: where the new folder goes.

    Returns:
        The new folder.
    """
    place = folder / FOLDERS[layout]
    new = folder / f".{place.name}.partial"
    shutil.rmtree(new, ignore_errors=True)
    for side, path in files.items():
        name = f"data/{side}-00000-of-00001.parquet" if layout == "datasets" else f"{side}.parquet"
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        _write(path, new / name, _schema(report.kind))
    sources = [Path(str(source["path"])) for source in report.sources.values()]
    # Documents state their terms themselves, row by row.
    terms = Terms.of(files.values() if report.kind == "samples" else (), sources)
    if attribution := terms.attribution():
        write_text(new / "ATTRIBUTION.md", attribution)
    if layout == "datasets":
        write_text(new / "README.md", _front_matter(report, terms) + card(report) + terms.section())
    replace_folder(new, place)
    return place


def _write(rows: Path, path: Path, schema: "pa.Schema") -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(path, schema, compression="zstd") as writer:
        objects = _objects(rows)
        while group := list(islice(objects, _GROUP_ROWS)):
            try:
                table = pa.Table.from_pylist(group, schema=schema)
            except (OverflowError, pa.ArrowInvalid):
                raise CirillaError(
                    f"{rows}: a number (such as `revision`) is beyond 64 bits, and Parquet holds no such",
                    hint="mend the row, or leave out curate.export",
                ) from None
            writer.write_table(table)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    complaints = Complaints()
    for row in read_rows(path, complaints):
        if _AS_JSON in row.data:
            yield row.data | {_AS_JSON: json.dumps(row.data[_AS_JSON], ensure_ascii=False)}
        else:
            yield row.data
    complaints.raise_if_any()


def _schema(kind: str) -> "pa.Schema":
    """The columns of documents or samples; null where a row has no such field."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    origin = pa.struct({"strategy": text, "version": pa.int64(), "teacher": text, "prompt_sha": text})
    if kind == "documents":
        licence = pa.struct({"name": text, "url": text})
        fact = pa.struct({"label": text, "values": texts})
        section = pa.struct({"level": pa.int64(), "heading": text, "text": text})
        return pa.schema({
            "id": text, "title": text, "text": text, "url": text, "permalink": text, "revision": pa.int64(),
            "timestamp": text, "license": licence, "site": text, "categories": texts, "aliases": texts,
            "infobox": pa.list_(fact), "sections": pa.list_(section), "kind": text, "sha256": text, "parents": texts,
            "generator": origin,
        })  # fmt: skip
    turn = pa.struct({"role": text, "content": text})
    return pa.schema({
        "kind": text, "id": text, "messages": pa.list_(turn), "chosen": text, "rejected": text, "answer": text,
        "verify": text, "split_key": text, "evidence": texts, "source": text, "parents": texts, "generator": origin,
    })  # fmt: skip


def _front_matter(report: CurateReport, terms: Terms) -> str:
    """What the Hub reads of a card: licence, size, and which file is which split."""
    splits = [
        f"  - split: {side}\n    path: data/{side}-*.parquet"
        for side in ("train", "validation", "test")
        if side in report.splits
    ]
    lines = [
        "---",
        *_licence(report, terms),
        f"size_categories:\n- {_size(sum(split['rows'] for split in report.splits.values()))}",
    ]
    return "\n".join([*lines, "configs:", "- config_name: default", "  data_files:", *splits, "---", "", ""])


def _licence(report: CurateReport, terms: Terms) -> list[str]:
    """The licence's name in the Hub's spelling, where all rows and pages have one and it is one of the common ones."""
    names = {name for split in report.splits.values() for name in split.get("licences", {})} | terms.licences.keys()
    if len(names) != 1:
        return []
    spelt = re.sub(r"[^a-z0-9.]+", "-", names.pop().lower()).strip("-")
    known = re.fullmatch(r"cc0-1\.0|cc-by(-sa|-nc|-nd|-nc-sa|-nc-nd)?-[234]\.0|odc-by|mit|apache-2\.0", spelt)
    return [f"license: {spelt}"] if known else []


_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def _size(rows: int) -> str:
    return next((name for most, name in _SIZES if rows < most), "10M<n<100M" if rows < 10**8 else "100M<n<1B")
