"""The rows behind a run, and what those were made from, as the files beside them tell it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.data.formats.tables import parquet_rows
from cirilla_cli.data.jsonl import Complaints, last_of_kind, read_rows
from cirilla_cli.fs import as_object, as_objects, locate
from cirilla_cli.lineage.stages import Stage, read_note, shard_folders

_RECORDED = ("name", "used_by", "sha256", "licenses", "rows", "site", "hub")
_ROWS = ("documents.jsonl", "samples.jsonl")
_BESIDE = ("questions.jsonl", "rejects.jsonl", "validation.jsonl", "test.jsonl", "rejected.jsonl")
"""What the verbs leave beside them, of the same report."""
_EXPORTED = ("train.parquet", "data/train-00000-of-00001.parquet")
"""Training rows as `curate.export` writes them."""
_PARQUET = re.compile(r"(train|validation|test)(-00000-of-00001)?\.parquet")


@dataclass
class Data:
    """One source of training data, as far as its files still stand where the recipe names them."""

    name: str
    used_by: str
    sha256: str | None = None
    """What was recorded when it was read."""
    licenses: Counter[str] = field(default_factory=Counter)
    """Documents by the name of their licence."""
    rows: int | None = None
    site: str | None = None
    hub: str | None = None
    """Name of the data set, if it came from the Hub."""
    attribution: Path | None = None
    """An ATTRIBUTION.md that lists its pages."""
    documents: Path | None = None
    """Its file of rows."""
    path: Path | None = None
    shards: list[Path] = field(default_factory=list)
    """The folders of shards that were made of it, for what a run read itself."""

    def record(self) -> dict[str, Any]:
        """What `cirilla.json` keeps of it; no paths of this machine."""
        return {key: getattr(self, key) for key in _RECORDED} | {"licenses": dict(self.licenses)}

    @classmethod
    def recorded(cls, entry: Mapping[str, Any]) -> "Data":
        """What a published model tells of one."""
        known = {key: entry[key] for key in _RECORDED if key in entry}
        named = {"name": str(entry.get("name")), "used_by": str(entry.get("used_by"))}
        return cls(**{**known, **named, "licenses": Counter(as_object(known.get("licenses")))})


def data_of(stage: Stage) -> Iterator[Data]:
    """The data of a run, each followed by what it was made from; nothing twice."""
    seen: set[str] = set()
    for name, path in stage.sources().items():
        for data in _sources(name, path, stage):
            for one in (data, *behind(data)):
                key = f"{one.name} {one.sha256}"
                if key not in seen:
                    seen.add(key)
                    yield one


def behind(data: Data, below: frozenset[Path] = frozenset()) -> Iterator[Data]:
    """What the verb that made some rows had read, and so on, as its report says; ``below`` is made from them."""
    if data.documents is None or data.documents.resolve() in below:
        return
    for entry in inputs_of(data.documents):
        made_from = described(locate(Path(str(entry.get("path"))), data.documents), "synth", entry.get("sha256"))
        yield made_from
        yield from behind(made_from, below | {data.documents.resolve()})


def inputs_of(rows: Path) -> list[dict[str, Any]]:
    """Path and hash of each file that was read for a file of rows, as the report beside it says."""
    note = report_of(rows)
    read = note.get("inputs", note.get("sources"))
    entries = list(read.values()) if isinstance(read, dict) else read if isinstance(read, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("path")]


def report_of(rows: Path) -> dict[str, Any]:
    """The account of the verb that made a file of rows; empty where it left none."""
    if (exported := _export_of(rows)) is not None:
        note = read_note(exported.parent / "report.json")
        return note if Path(str(note.get("export"))).name == exported.resolve().name else {}
    beside = [rows.with_name(f"{rows.stem}.{verb}") / "report.json" for verb in ("synth", "curate")]
    folder = rows.parent.resolve()
    also = (*_ROWS, f"{folder.stem}.jsonl") if rows.name in _BESIDE else ()
    for report in (rows.parent / "report.json", *beside):
        note = read_note(report)
        if Path(str(note.get("out"))).name in (rows.name, folder.name, *also):
            return note
    return {}


def _sources(name: str, path: Path, stage: Stage) -> list[Data]:
    """The files behind one path of a recipe: those its shards were made from, or the path itself."""
    verb = stage.verb or "training"
    own = [stage.folder / "shards" / name] if stage.folder is not None else []
    found: dict[str, Data] = {}
    for folder in (below for place in (path, *own) for below in shard_folders(place)):
        index = read_note(folder / "index.json")
        entries = as_objects(index.get("sources"))
        made_from = [(locate(Path(str(e.get("path"))), folder), e.get("sha256")) for e in entries]
        read = [described(source, verb, sha256) for source, sha256 in made_from]
        if read and index.get("licenses") and not any(data.licenses for data in read):
            read[0].licenses = Counter(index["licenses"])
        # Shards of text, chats and preferences made in one go name the same sources.
        for data in read:
            found.setdefault(f"{data.name} {data.sha256}", data).shards.append(folder)
    return list(found.values()) or [described(path, verb, None)]


def described(path: Path, used_by: str, sha256: str | None) -> Data:
    """What stands beside a file of rows: the journal of its scrape, the list of its pages."""
    data = Data(name=_short(path), used_by=used_by, sha256=sha256, path=path)
    data.documents = rows_file(path)
    documents = data.documents or path
    side = side_of(documents)
    if (side / "ATTRIBUTION.md").is_file():
        data.attribution = side / "ATTRIBUTION.md"
    journal = last_scrape(side / "journal.jsonl")
    report, source = as_object(journal.get("report")), as_object(as_object(journal.get("config")).get("source"))
    data.rows, data.site = report.get("documents"), report.get("site")
    if report.get("license") and data.rows:
        data.licenses = Counter({str(report["license"]): int(data.rows)})
    if source.get("kind") == "hub" and not Path(str(source.get("path"))).exists():
        data.hub = source.get("path")
    return data


def rows_file(path: Path) -> Path | None:
    """The file of rows that a path means: itself, or the training rows in a folder as the verbs leave it."""
    places = [path / name for name in (*_ROWS, *_EXPORTED)] if path.is_dir() else [path]
    return next((file for file in places if file.is_file() and file.suffix in (".jsonl", ".parquet")), None)


def side_of(rows: Path) -> Path:
    """The folder where a scrape, or an export, leaves what stands beside its rows."""
    if (exported := _export_of(rows)) is not None:
        return exported
    return rows.parent if rows.name in _ROWS else rows.with_name(f"{rows.stem}.scrape")


def _export_of(rows: Path) -> Path | None:
    """The folder that `curate.export` wrote a Parquet file into; None for other rows."""
    if _PARQUET.fullmatch(rows.name) is None:
        return None
    return rows.parent.parent if rows.parent.name == "data" else rows.parent


def last_scrape(journal: Path) -> dict[str, Any]:
    """The newest account of a whole run in a scrape's journal."""
    return last_of_kind(journal, "run")


def rows_of(file: Path) -> Iterator[Mapping[str, Any]]:
    """The objects in a file of rows; lines that are none are passed over.

    Raises:
        CirillaError: it is unreadable, or no whole Parquet file.
    """
    return parquet_rows(file) if file.suffix == ".parquet" else (row.data for row in read_rows(file, Complaints()))


def _short(path: Path) -> str:
    """The last two parts of a path: enough to know a file by, without telling where this machine keeps it."""
    return "/".join(part for part in path.parts[-2:] if part not in ("/", "..", "."))
