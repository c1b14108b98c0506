"""What a model was made from: its runs, back to the first, and the data of each, as their own files tell it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import read_records
from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.fs import as_objects
from cirilla_cli.lineage.data import Data, data_of, rows_of
from cirilla_cli.lineage.pages import Key, key_of, pages_of_rows, pages_of_shards
from cirilla_cli.lineage.stages import Stage, read_note, stage_of, stages_from

PAGES = "pages.jsonl"
"""The pages behind a published model, one a line."""


@dataclass
class Lineage:
    """Where a model comes from; what is not known is absent."""

    stages: list[Stage]
    """The run it was trained by last first."""
    base: str | None = None
    """The imported model the first stage started from."""
    base_license: Path | None = None
    data: list[Data] = field(default_factory=list)
    carried: list[Path] = field(default_factory=list)
    """Lists of pages for people that came with a published model."""
    carried_pages: list[Path] = field(default_factory=list)
    """The same for machines."""

    @property
    def licenses(self) -> Counter[str]:
        """Documents by licence, over all data; a source that several stages read counts once."""
        return sum((d.licenses for d in self._distinct()), Counter())

    def _distinct(self) -> list[Data]:
        return list({d.sha256 or f"{d.used_by}/{d.name}": d for d in self.data}.values())

    def attributions(self) -> list[Path]:
        """The lists of pages, each once; a data set of the Hub is named instead of listed."""
        own = [d.attribution.resolve() for d in self.data if d.attribution is not None and not d.hub]
        return list(dict.fromkeys([*own, *self.carried]))

    def unlisted(self) -> list[Path]:
        """Documents that no list of pages accompanies, each once."""
        bare = [d.documents for d in self.data if d.documents is not None and d.attribution is None and not d.hub]
        return list(dict.fromkeys(path.resolve() for path in bare))

    def pages(self) -> list[RowOrigin]:
        """Every page that is known to stand behind it, each once; those of data sets of the Hub are not listed."""
        found: dict[Key, RowOrigin] = {}
        for page in self._read():
            found.setdefault(key_of(page), page)
        for key in {key_of(page) for one in self.data if one.hub for page in _pages_of(one)}:
            found.pop(key, None)
        for file in self.carried_pages:
            found.update({key_of(page): page for page in read_records(file, RowOrigin)})
        return list(found.values())

    def _read(self) -> Iterator[RowOrigin]:
        """The pages behind what the runs read, by the lists beside their shards where there are some."""
        read = [one for one in self.data if one.used_by != "synth" and not one.hub]
        yield from (page for one in read if not one.shards for page in _pages_of(one))
        for folder in dict.fromkeys(folder.resolve() for one in read for folder in one.shards):
            yield from pages_of_shards(folder, ShardIndex.read(folder))

    def left_out(self) -> set[str]:
        """Addresses of pages that stand in the data's sources and, by what the rows name, not behind the model."""
        taken = {page.permalink for page in self.pages()}
        known = (page for one in self.data if not one.hub for page in _pages_of(one))
        return {page.permalink for page in known if page.permalink is not None} - taken


def _pages_of(data: Data) -> Iterator[RowOrigin]:
    return iter(()) if data.documents is None else pages_of_rows(data.documents)


def gather(path: Path, run: Path | None, step: int | None, verb: str | None) -> Lineage:
    """The lineage of the model in ``path``, read from the files of its run and of those it names.

    Args:
        run: the run directory it belongs to, None for what was published or imported.
        step: of the checkpoint.
        verb: what trained it last, where that is known.
    """
    lineage = Lineage([])
    last = stage_of(path, run, step, verb)
    if last is None:
        return _imported(path, lineage)
    base = None
    for stage, foreign in stages_from(last):
        lineage.stages.append(stage)
        lineage.data += data_of(stage)
        base = foreign
    lineage.data = list(_once(lineage.data))
    return lineage if base is None else _imported(base, lineage)


def _once(data: list[Data]) -> Iterator[Data]:
    """``data`` without what samples were made from where a run read the same itself, or it stands there already."""
    seen = {one.sha256 for one in data if one.used_by != "synth"}
    for one in data:
        if one.used_by != "synth" or one.sha256 is None or one.sha256 not in seen:
            yield one
            seen.add(one.sha256)


def sample_lines(lineage: Lineage, most: int) -> list[str]:
    """Up to ``most`` lines of the training data that still stands, the same number from each file."""
    files = list(dict.fromkeys(d.documents for d in lineage.data if d.documents is not None))
    share = most // max(1, len(files))
    return [line for file in files for line in islice(_lines(file), share)]


def _lines(file: Path) -> Iterator[str]:
    for row in rows_of(file):
        turns = row.get("messages")
        contents = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        for text in (row.get("text"), *contents):
            if isinstance(text, str):
                yield from filter(str.strip, text.splitlines())


def _imported(path: Path, lineage: Lineage) -> Lineage:
    """Add what a Hugging Face folder, or a bare name, tells of itself."""
    record = read_note(path / "cirilla.json")
    for entry in [record, *as_objects(record.get("parents"))] if record else []:
        keys = ("verb", "name", "step", "recipe_sha256")
        told: dict[str, Any] = {key: entry.get(key) for key in keys}
        lineage.stages.append(Stage(**told))
    lineage.data += [Data.recorded(entry) for entry in as_objects(record.get("data"))]
    lineage.base = record.get("base_model") if record else _hub_name(path)
    lineage.carried += [file for file in [path / "ATTRIBUTION.md"] if file.is_file()]
    lineage.carried_pages += [file for file in [path / PAGES] if record and file.is_file()]
    # In a folder of ours LICENSE is that of the whole; what its base asks for stands beside it.
    licenses = sorted(path.glob("LICENSE-base-model" if record else "LICENSE*")) if path.is_dir() else []
    lineage.base_license = next((file for file in licenses if file.is_file()), None)
    return lineage


def _hub_name(path: Path) -> str:
    """OWNER/NAME of a model in the Hub's cache or given by name; else the folder's own name."""
    from cirilla_cli.hub.names import is_hub_name

    for part in path.parts:
        if part.startswith("models--") and part.count("--") >= 2:
            return part.removeprefix("models--").replace("--", "/", 1)
    return str(path) if not path.exists() and is_hub_name(str(path)) else path.resolve().name
