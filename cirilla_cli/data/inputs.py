"""Everything people bring along, read into documents and samples, told apart by content.

file --sniff--> container --open--> rows --known--> drafts --record--> documents and samples
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cirilla_cli.data.config import FormatName
from cirilla_cli.data.fits import Sieve
from cirilla_cli.data.formats.drafts import Draft
from cirilla_cli.data.formats.files import found_in, judged_in
from cirilla_cli.data.formats.grpo import UNANSWERED, Prompts
from cirilla_cli.data.formats.sniff import ROW_SUFFIXES, TEXT_SUFFIXES
from cirilla_cli.data.formats.tables import dataset_files, is_dataset
from cirilla_cli.data.intake import Intake
from cirilla_cli.data.jsonl import STDIO, Row, validate
from cirilla_cli.data.rows import Document, Record, Sample
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_written, files_below, on_the_hub

OTHER_SUFFIXES = frozenset({".parquet", ".arrow", ".bin", ".db", ".sqlite", ".sqlite3"})
"""Files of a folder that are looked into besides text and rows."""

TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "encoder.json", "generation_config.json", "config.json",
})  # fmt: skip
"""What lies beside token files, and holds no rows."""

_SPLIT = re.compile(r"(train|validation|test)(?:-\d{5}-of-\d{5})?\.parquet")
"""A file of a dataset on the Hub, and of `curate.export`."""

_OWN: dict[str, type[Record]] = {"document": Document, "sample": Sample}


def read_inputs(
    paths: Iterable[Path], *, format: FormatName | None = None, intake: Intake | None = None
) -> Iterator[Document | Sample]:
    """Every document and sample in files, folders and standard input (`-`), in order.

    Args:
        paths: what to read; docs/formats.md lists everything that is understood.
        format: what the rows are, where that cannot be seen; None: it is found out, row by row.
        intake: counts what was read, and may keep a file for rows that cannot be.

    Raises:
        CirillaError: at the end, naming every line that is none of these, unless ``intake`` sets them aside; the good
            rows have been yielded by then.
    """
    intake = intake or Intake()
    for row, name, draft in _found(paths, format, intake):
        record = draft.record() if draft is not None else validate(row, _OWN[name], intake)
        if isinstance(record, Document | Sample):
            intake.formats[name] += 1
            yield record
    intake.raise_if_any()


def check_inputs(paths: Iterable[Path], *, format: FormatName | None = None) -> int:
    """Look at every row and make none; returns how many there are. Standard input can be read once, and is left alone.

    Raises:
        CirillaError: naming every line that `read_inputs` would refuse.
    """
    intake, sieve, rows = Intake(), Sieve(Document, Sample), 0
    for row, name, draft in _found([path for path in paths if path != STDIO], format, intake, sieve):
        rows += 1
        if draft is None:
            validate(row, _OWN[name], intake)
    intake.raise_if_any()
    return rows + sieve.taken


def _found(
    paths: Iterable[Path], format: FormatName | None, intake: Intake, sieve: Sieve | None = None
) -> Iterator[tuple[Row, str, Draft | None]]:
    """Each row, its format, and what it says (None: it is one of ours, which validation reads)."""
    prompts = Prompts()
    for path in paths:
        for file in input_files(path, intake):
            yield from found_in(file, format, prompts, intake, sieve)
    yield from judged_in(prompts, intake)
    for file_name, line, data in prompts.unanswered():
        intake.add(file_name, line, UNANSWERED, row=data)


def input_files(path: Path, intake: Intake | None = None) -> Iterator[Path]:
    """The files that `read_inputs` reads for one path; ``intake`` is told of those in a folder that are passed over.

    Raises:
        CirillaError: there are none.
    """
    if path == STDIO or path.is_file():
        yield path
        return
    try:
        if not path.is_dir():
            hint = f"cirilla curate {as_written(path)} --out set fetches it" if on_the_hub(path) else None
            raise CirillaError(f"{as_written(path)}: no such file or folder", hint=hint)
        if is_dataset(path):
            yield from dataset_files(path)
            return
        named = path / "samples.jsonl", path / "documents.jsonl"
        if any(file.is_file() for file in named):
            yield from (file for file in named if file.is_file())
            return
        below = _of_one_split(path, files_below(path))
    except PermissionError:
        raise CirillaError(f"{path}: cannot be read: permission denied", hint=f"chmod u+rx {path}") from None
    kinds = TEXT_SUFFIXES | ROW_SUFFIXES | OTHER_SUFFIXES
    found = [file for file in below if file.suffix.lower() in kinds and file.name not in TOKENIZER_FILES]
    if not found:
        raise CirillaError(
            f"{path}: no text or rows in this folder; files ending in {', '.join(sorted(kinds))} are read"
        )
    if intake is not None:
        for file in set(below) - set(found):
            intake.notes[f"file passed over: {file.suffix or file.name}"] += 1
    yield from found


def _of_one_split(folder: Path, files: Sequence[Path]) -> Sequence[Path]:
    """The files of a folder as the Hub lays out datasets, without its card and attribution; other folders as they are.

    Raises:
        CirillaError: it holds several splits, of which one must be named.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        split = _SPLIT.fullmatch(file.name) if file.parent in (folder, folder / "data") else None
        if split is not None:
            splits.setdefault(split[1], []).append(file)
    if len(splits) > 1:
        raise CirillaError(
            f"{folder}: holds the splits {', '.join(splits)}, which are not for one purpose",
            hint="name the files of one: " + " ".join(map(str, splits.get("train") or next(iter(splits.values())))),
        )
    told = (folder / "README.md", folder / "ATTRIBUTION.md")
    return [file for file in files if file not in told] if splits else files
