"""`cirilla why`: which pages the words of an answer come from.

model --lock--> shards and tokenizer --spans--> pieces of the answer --rows--> pages, revisions, licences
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import Complaints, read_rows, validate
from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object
from cirilla_cli.lineage.data import data_of
from cirilla_cli.lineage.index import IndexedShard, open_shards
from cirilla_cli.lineage.pages import pages_in
from cirilla_cli.lineage.spans import find_spans
from cirilla_cli.lineage.stages import Stage, read_note, run_of, stage_at, stages_from
from cirilla_cli.progress import Progress


@dataclass(frozen=True)
class Source:
    """A page that a piece of an answer comes from, or a row that no page is known of."""

    title: str | None
    permalink: str | None
    revision: int | None
    license: str | None
    row: str
    """Id of the row of training data."""
    strategy: str | None
    """What made the row; None where it is the page itself."""


@dataclass(frozen=True)
class Found:
    """A piece of the answer and where it stands."""

    text: str
    start: int
    """Its first byte in the answer."""
    tokens: int
    """Whole tokens of the training data in it."""
    sources: list[Source]
    rows: int
    """Rows of training data that hold it, as far as they were looked at."""


@dataclass(frozen=True)
class Why:
    """What was found; `--json` prints it."""

    answer: str
    """As the tokenizer reads it."""
    spans: list[Found]
    covered: float
    """Share of the answer that stands in some span, the spans not shown included."""
    searched_tokens: int
    query_ms: float
    """Of the search alone; the index was opened before."""
    runs: list[str] = field(default_factory=list)
    """The runs whose data was searched."""

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Searched:
    """A model's training data, ready to be searched."""

    tokenizer: Tokenizer
    shards: list[IndexedShard]
    documents: list[Path]
    """Files of documents behind it, for pages that stand in no shard themselves."""
    runs: list[Path]


def open_model(model: Path, progress: Progress) -> Searched:
    """The shards that a model and its parents were trained on, found through their locks; no weights are read.

    Raises:
        CirillaError: there is no such model, its run is not here, or its shards are gone.
    """
    stages = [stage for stage, _ in stages_from(_last_stage(model))]
    own = {stage.folder: {folder: index for _, folder, index in stage.shards()} for stage in stages if stage.folder}
    folders = {folder: index for found in own.values() for folder, index in found.items()}
    if any(index.kind == "labelled" for index in folders.values()):
        raise CirillaError(f"{model}: a classifier, which writes no answers", hint=f"cirilla trace {model}")
    if not folders:
        raise CirillaError(
            f"{model}: the shards it was trained on are not there, or have changed", hint=f"cirilla trace {model}"
        )
    _check_unaltered(stages)
    hashes = {index.tokenizer_hash for index in folders.values()}
    if len(hashes) > 1:
        raise CirillaError(f"{model}: its runs used different tokenizers", hint="ask for one of them")
    tokenizer = _tokenizer(hashes.pop(), [model, *(stage.folder for stage in stages if stage.folder), *folders])
    shards = [shard for folder, index in folders.items() for shard in open_shards(folder, index, progress)]
    documents = [data.documents for stage in stages for data in data_of(stage) if data.documents is not None]
    for run in (run for run, found in own.items() if not found):
        progress.say(f"{run}: the shards it was trained on are not there, or have changed; they are not searched")
    return Searched(tokenizer, shards, list(dict.fromkeys(documents)), [run for run, found in own.items() if found])


def _check_unaltered(stages: Sequence[Stage]) -> None:
    """Raises: CirillaError: a shard is not as it was tokenized; an index of it would be wrong from then on."""
    for stage in stages:
        files = as_object(stage.lock.get("files"))
        for name, folder, index in stage.shards():
            for path in index.altered(folder, as_object(files.get(name))):
                raise CirillaError(f"{path}: not as it was tokenized", hint="run `cirilla tokenize` again")


def _last_stage(model: Path) -> Stage:
    if not model.exists():
        raise CirillaError(f"{model}: no such model here", hint="cirilla runs lists what lies under runs/")
    stage = stage_at(model)
    if stage is None and (model / "cirilla.json").is_file():
        run = run_of(read_note(model / "cirilla.json"), model)
        stage = None if run is None else stage_at(run)
        if stage is None:
            raise CirillaError(
                f"{model}: the run it came from is not here, and only runs know their training data",
                hint="call it beside the run: cirilla why ANSWER runs/NAME",
            )
    if stage is None:
        raise CirillaError(
            f"{model}: no run, no checkpoint and no model that `cirilla push` wrote",
            hint="cirilla runs lists what lies under runs/",
        )
    return stage


def _tokenizer(wanted: str, places: Sequence[Path]) -> Tokenizer:
    """The tokenizer that shards were made with."""
    beside = (place / below for place in places for below in ("", "tokenizer", "../../tokenizer"))
    steps = (step for place in places for step in sorted(place.glob("checkpoints/step-*")))
    for place in (*beside, *steps):
        if any((place / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
            tokenizer = load_tokenizer(place)
            if tokenizer.hash == wanted:
                return tokenizer
    raise CirillaError(
        f"{places[0]}: the tokenizer that its shards were made with is nowhere beside it",
        hint="put its folder back beside the shards",
    )


def why(answer: str, searched: Searched, *, min_tokens: int, top: int) -> Why:
    """The longest spans of an answer in the training data, the longest first.

    Args:
        min_tokens: whole tokens of training data that a span has at least.
        top: most spans shown, and most sources of each.
    """
    started = time.perf_counter()
    read, spans = find_spans(answer, searched.tokenizer, searched.shards, min_tokens)
    rows = [span.origins(searched.shards) for span in spans[:top]]
    pages = _pages({parent for found in rows for row in found[:top] for parent in row.parents}, searched)
    shown = [
        Found(span.text, span.start, span.tokens, _sources(found, pages)[:top], len(found))
        for span, found in zip(spans, rows, strict=False)
    ]
    length, size = len(read.encode()), sum(shard.info.tokens for shard in searched.shards)
    covered, reached = 0, 0
    for span in sorted(spans, key=lambda span: span.start):
        covered += max(0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    milliseconds = round(1000 * (time.perf_counter() - started), 2)
    runs = [str(run) for run in searched.runs]
    return Why(read, shown, round(covered / length, 4) if length else 0.0, size, milliseconds, runs)


def _sources(rows: Sequence[RowOrigin], pages: dict[str, list[RowOrigin]]) -> list[Source]:
    """Pages behind rows, those the text stands in themselves first; a row whose page is not known stands for itself."""
    found: dict[tuple[str | None, str | None], Source] = {}
    for row in sorted(rows, key=lambda row: row.strategy is not None):
        for page in _parents(row, pages):
            source = Source(page.title, page.permalink, page.revision, page.license, row.id, row.strategy)
            found.setdefault((page.permalink, page.title), source)
    return list(found.values())


def _parents(row: RowOrigin, pages: dict[str, list[RowOrigin]]) -> list[RowOrigin]:
    """The pages of a row; of several wikis' pages of one id, that of the row's own address."""
    if row.strategy is None:
        return [row]
    found = [page for parent in row.parents for page in pages.get(parent, [])]
    same = [page for page in found if page.permalink == row.permalink]
    return (found if len(row.parents) > 1 else same or found) or [row]


def _pages(wanted: set[str], searched: Searched) -> dict[str, list[RowOrigin]]:
    """The pages of some ids: from the lists of rows beside the shards of text, else from the documents themselves."""
    found: dict[str, list[RowOrigin]] = {}
    if wanted:
        for page in _listed(wanted, searched.shards):
            found.setdefault(page.id, []).append(page)
        for file in searched.documents if wanted - found.keys() else ():
            for page in pages_in(file):
                if page.id in wanted and page not in found.get(page.id, []):
                    found.setdefault(page.id, []).append(page)
    return found


def _listed(wanted: set[str], shards: Sequence[IndexedShard]) -> Iterator[RowOrigin]:
    for shard in shards:
        if shard.kind == "text" and shard.info.rows_sha256 is not None:
            for row in read_rows(shard.folder / shard.info.rows, Complaints()):
                page = validate(row, RowOrigin, Complaints()) if row.data.get("id") in wanted else None
                if page is not None:
                    yield page
