"""What a run would read, looked at without writing anything."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cirilla_cli.data.config import FormatName, LabelledTextConfig
from cirilla_cli.data.encode import kind_of
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.data.labelled import class_names, read_labelled
from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.shards import (
    Prepared,
    find_shards,
    finished,
    no_tokenizer,
    nothing_of,
    opened,
    tokenizer_folder,
    untokenized,
)
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_path
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_count

_OTHER_ROWS = "; not the rows that the run began with: it goes on only if their tokens are the same"


@dataclass(frozen=True)
class Survey:
    """What a run's sources hold."""

    lines: dict[str, str]
    """Of each source, in words."""
    tokenizer: Tokenizer | None
    """None where the run would train it, or fetch it from the Hub."""
    prepared: Prepared | None
    """The shards, where those of all sources are finished."""
    labels: Sequence[str] = ()
    """Names of the classes, where texts have labels."""


def survey(
    job: Job, model_folder: Path | None, *, afresh: bool, begun: bool, remote: bool, progress: Progress
) -> Survey:
    """Look at every source of ``job``; rows are read to the end, because the last may be the one that is wrong.

    Args:
        model_folder: where the starting checkpoint keeps its tokenizer.
        afresh: the run's own shards would be made anew.
        begun: the run has shards of its own already, wherever it wants rows tokenized.
        remote: the tokenizer would come from the Hub, and is not known.

    Raises:
        CirillaError: a source is missing, damaged or of the wrong kind, or tokenizers disagree.
    """
    found = finished(job.paths, job.kinds)
    chosen = tokenizer_folder(job.tokenizer, model_folder, found, progress)
    made = {} if afresh else _made(job, found)
    chosen = chosen or _tokenizer_of(made)
    lines = {name: _of_shards(folder) for name, folder in (found | made).items()}
    labels = _labels(job)
    for name, path in job.paths.items():
        if name in labels:
            lines[name] = f"{path}: {show_count(labels[name].total())} texts with labels, to be tokenized"
        elif name not in lines:
            if chosen is None and job.tokenizer is None and not remote:
                raise untokenized(path)
            lines[name] = _of_rows(path, job, job.formats.get(name)) + (_OTHER_ROWS if begun else "")
    names = class_names(sum(labels.values(), Counter()), list(job.paths.values())) if labels else ()
    if chosen is None:
        if found and not remote:
            raise no_tokenizer(next(iter(found.values())))
        return Survey(lines, None, None, names)
    prepared = opened({name: (found | made)[name] for name in job.paths if name in found | made}, chosen)
    return Survey(lines, prepared.tokenizer, prepared if len(prepared.folders) == len(job.paths) else None, names)


def _made(job: Job, found: Mapping[str, Path]) -> dict[str, Path]:
    """Shards that an earlier sitting made of rows which are still the same, by source."""
    made = {}
    for name, path in job.paths.items():
        folder = None if name in found else find_shards(job.out / "shards" / name, job.kinds)
        if folder is not None and path.exists():
            recorded = [source.get("sha256") for source in ShardIndex.read(folder).sources]
            if recorded == [hash_path(path)]:
                made[name] = folder
    return made


def _tokenizer_of(made: Mapping[str, Path]) -> Path | None:
    """The tokenizer with which the first of the run's own shards were made."""
    return next((folder.parent.parent / "tokenizer" for folder in made.values()), None)


def _of_shards(folder: Path) -> str:
    splits = ShardIndex.read(folder).splits
    sizes = {name: sum(info.tokens for info in infos) for name, infos in splits.items()}
    documents = sum(info.documents for infos in splits.values() for info in infos)
    return (
        f"{folder}: {show_count(documents)} documents, {show_count(sizes.get('train', 0))} tokens to train on, "
        f"{show_count(sizes.get('val', 0))} held out"
    )


def _labels(job: Job) -> dict[str, Counter[str | int]]:
    """How many texts have each label, by source, where texts have labels."""
    if not isinstance(job.data, LabelledTextConfig):
        return {}
    return {name: Counter(row.label for row in read_labelled([path])) for name, path in job.paths.items()}


def _of_rows(path: Path, job: Job, format: FormatName | None) -> str:
    if path == STDIO:
        return "standard input, not looked at"
    counts = Counter(kind_of(record) for record in read_inputs([path], format=format))
    if not counts:
        raise CirillaError(f"{path}: no rows, so nothing to tokenize")
    kind = next((kind for kind in job.kinds if counts[kind]), None)
    if kind is None:
        raise nothing_of(job.kinds, path)
    return f"{path}: {show_count(counts[kind])} rows of kind {kind}, to be tokenized"
