"""`cirilla trace`: from any artefact up to the pages, teachers, prompts and filters behind it, checked by hash.

model folder -> runs -> shards -> samples -> documents -> what was scraped
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cirilla_cli.data.jsonl import read_records
from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object, as_objects, hash_file, hash_path, locate
from cirilla_cli.lineage.data import Data, inputs_of, last_scrape, report_of, rows_file, rows_of, side_of
from cirilla_cli.lineage.gather import PAGES
from cirilla_cli.lineage.pages import Key, key_of, pages_of_rows, pages_of_shards
from cirilla_cli.lineage.stages import Stage, checkpoint_of, read_note, run_of, shard_folders, stage_at, stage_of

RowsKind = Literal["samples", "documents", "questions", "rejects"]
State = Literal["same", "changed", "missing", "unrecorded"]
"""What comparing with the recorded hash showed; `unrecorded` where there was none to compare with."""


@dataclass
class Node:
    """One artefact, and what it was made from."""

    kind: Literal["model", "run", "shards", "source"] | RowsKind
    path: str
    state: State = "unrecorded"
    sha256: str | None = None
    """As recorded by what was made from it."""
    facts: dict[str, Any] = field(default_factory=dict)
    parents: list["Node"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What does not agree with what was recorded."""


@dataclass
class Trace:
    """All that is known of where something comes from; `--json` prints it."""

    root: Node
    pages: list[RowOrigin]
    """Each page behind it, once."""
    licenses: dict[str, int]
    """Pages by licence; `not stated` where none is known."""
    problems: list[str]
    """Parents that are missing or not what they were."""

    def as_dict(self, *, pages: bool) -> dict[str, Any]:
        """The trace as JSON can hold it; each node once, its parents by path."""
        nodes = {node.path: node for node in _walk(self.root)}
        shown = [{**vars(node), "parents": [parent.path for parent in node.parents]} for node in nodes.values()]
        listed = {"pages": [page.model_dump(mode="json") for page in self.pages]} if pages else {}
        counts = {"n_pages": len(self.pages), "with_revision": sum(p.revision is not None for p in self.pages)}
        return {"nodes": shown, **counts, "licenses": self.licenses, "problems": self.problems, **listed}


def trace(path: Path) -> Trace:
    """Follow an artefact up to where it began.

    Raises:
        CirillaError: nothing is there, or nothing that can be followed.
    """
    if not path.exists():
        raise CirillaError(f"{path}: no such file or folder", hint="cirilla runs lists what lies under runs/")
    tracer = _Tracer()
    root = tracer.node(path)
    licenses = Counter(page.license or "not stated" for page in tracer.pages.values())
    problems = [f"{node.path}: {note}" for node in _walk(root) for note in node.notes]
    return Trace(root, list(tracer.pages.values()), dict(licenses.most_common()), list(dict.fromkeys(problems)))


def _walk(root: Node) -> Iterator[Node]:
    """Every node, each once."""
    seen, todo = set[int](), [root]
    while todo:
        node = todo.pop(0)
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            todo += node.parents


class _Tracer:
    """Remembers what was looked at, so that a file that several runs read is read once."""

    def __init__(self) -> None:
        self.pages: dict[Key, RowOrigin] = {}
        self._nodes: dict[Path, Node] = {}

    def node(self, path: Path) -> Node:
        """The node of whatever lies at ``path``."""
        if (path / "cirilla.json").is_file():
            return self._model(path)
        stage = stage_at(path) or stage_of(path, path if (path / "lock.json").is_file() else None, None, None)
        if stage is not None:
            return self._run(stage, path)
        folders = list(shard_folders(path)) if path.is_dir() else []
        for folder in folders:
            self._take(pages_of_shards(folder, ShardIndex.read(folder)))
        if len(folders) == 1:
            return self._shards(folders[0])
        if folders:
            return Node("shards", str(path), parents=[self._shards(folder) for folder in folders])
        rows = rows_file(path)
        if rows is None:
            raise _untraceable(path)
        self._take(pages_of_rows(rows))
        return self._rows(rows)

    def _known(self, path: Path, node: Node) -> tuple[Node, bool]:
        """The node of a path, and whether it is new."""
        key = path.resolve()
        new = key not in self._nodes
        return self._nodes.setdefault(key, node), new

    # A published model

    def _model(self, path: Path) -> Node:
        record = read_note(path / "cirilla.json")
        node = Node("model", str(path), facts={key: record.get(key) for key in ("verb", "name", "step", "base_model")})
        self._check_files(path, record.get("files"), node)
        if (path / PAGES).is_file():
            self._take(read_records(path / PAGES, RowOrigin))
        run = run_of(record, path)
        if run is None:
            node.facts["carried"] = "its run is not here; what the folder itself records is shown"
            node.parents = [
                Node("source", data.name, sha256=data.sha256, facts={"used_by": data.used_by, "rows": data.rows})
                for data in map(Data.recorded, as_objects(record.get("data")))
            ]
            return node
        step = record.get("step")
        at = run / "checkpoints" / f"step-{step if isinstance(step, int) else 0:06d}"
        node.parents = [self.node(at if at.is_dir() else run)]
        return node

    def _check_files(self, folder: Path, files: Any, node: Node) -> None:
        """Compare files with the hashes that were recorded of them."""
        recorded = files if isinstance(files, Mapping) else {}
        for name, known in recorded.items():
            file = folder / Path(str(name)).name
            if not file.is_file():
                node.notes.append(f"{file.name} is missing")
            elif hash_file(file) != as_object(known).get("sha256"):
                node.notes.append(f"{file.name} is not as it was published")
        node.state = "changed" if node.notes else "same" if recorded else "unrecorded"

    # Runs

    def _run(self, stage: Stage, path: Path) -> Node:
        recipe = {"recipe_sha256": stage.recipe_sha256}
        node, new = self._known(path, Node("run", _short(path)))
        if not new:
            return node
        node.facts = {"verb": stage.verb, "name": stage.name, "step": stage.step, **recipe}
        lock = stage.lock
        recorded = as_object(lock.get("data"))
        found = {name: (folder, index) for name, folder, index in stage.shards()}
        for name, source in stage.sources().items():
            if name in found:
                folder, index = found[name]
                shards = self._shards(folder)
                self._take(pages_of_shards(folder, index))
                node.parents.append(shards)
                altered = _altered(folder, index, as_object(as_object(lock.get("files")).get(name)))
                shards.state = "changed" if altered else "same"
                node.notes += altered
            else:
                lost = "is gone" if name in recorded else "is recorded nowhere"
                node.notes.append(f"what was tokenized of `{name}` ({source}) {lost}")
        self._start(stage, lock.get("base"), node)
        node.state = "changed" if node.notes else "same" if recorded else "unrecorded"
        return node

    def _start(self, stage: Stage, base: Any, node: Node) -> None:
        """The model that a run began from: the checkpoint whose weights it recorded, if that is still there."""
        named = stage.parent()
        if named is None:
            return
        path = stage.locate(Path(named))
        if not path.is_dir():
            node.parents.append(Node("source", named, "missing", base))
            node.notes.append(f"the model it started from, {named}, is not there")
            return
        begun = checkpoint_of(path, base)
        parent = self.node(begun or path) if stage_at(path) or (path / "cirilla.json").is_file() else None
        node.parents.append(parent or Node("source", str(path), sha256=base, facts={"what": "an imported model"}))
        if stage_at(path) is not None and base is not None and begun is None:
            node.notes.append(f"no checkpoint in {path} holds the weights it started from")

    # Shards and rows

    def _shards(self, folder: Path) -> Node:
        index = ShardIndex.read(folder)
        node, new = self._known(folder, Node("shards", _short(folder), sha256=index.fingerprint()))
        if not new:
            return node
        infos = [info for split in index.splits.values() for info in split]
        splits = {name: sum(info.documents for info in split) for name, split in index.splits.items()}
        node.facts = {"kind": index.kind, "documents": splits, "tokens": sum(info.tokens for info in infos)}
        if extended := read_note(folder.parent.parent / "tokenizer" / "extends.json"):
            node.facts |= {"tokenizer_sha256": index.tokenizer_hash, "extends_sha256": extended.get("parent")}
        for name, digest in ((info.rows, info.rows_sha256) for info in infos if info.rows_sha256):
            if not (folder / name).is_file() or hash_file(folder / name) != digest:
                node.notes.append(f"{name} is missing or not as it was written")
        node.parents = [self._made_from(entry, folder, node) for entry in index.sources]
        return node

    def _made_from(self, entry: Mapping[str, Any], beside: Path, child: Node) -> Node:
        """A file or folder that something was made from, compared with the hash recorded then."""
        named, recorded = str(entry.get("path")), entry.get("sha256")
        path = locate(Path(named), beside)
        if not path.exists():
            child.notes.append(f"{named}, which it was made from, is not there")
            return Node("source", named, "missing", recorded)
        rows = rows_file(path)
        node = self._rows(rows) if rows is not None else self._folder(path)
        now = hash_path(path)
        node.sha256, node.state = recorded, "unrecorded" if recorded is None else "same"
        if recorded is not None and now != recorded:
            node.state = "changed"
            child.notes.append(f"{named} has changed since it was read")
        return node

    def _folder(self, path: Path) -> Node:
        """Text files, each of them a page."""
        node, _ = self._known(path, Node("source", _short(path)))
        return node

    def _rows(self, rows: Path) -> Node:
        node, new = self._known(rows, Node("samples", _short(rows)))
        if not new:
            return node
        node.facts, node.kind = _count_rows(rows)
        self._scraped(rows, node)
        report, made_from = report_of(rows), inputs_of(rows)
        node.facts |= {key: report[key] for key in ("rejected", "duplicates") if report.get(key)}
        node.parents += [self._made_from(entry, rows, node) for entry in made_from]
        return node

    def _scraped(self, rows: Path, node: Node) -> None:
        """What a scrape noted of where its documents came from."""
        journal = last_scrape(side_of(rows) / "journal.jsonl")
        source, report = as_object(as_object(journal.get("config")).get("source")), as_object(journal.get("report"))
        if not source:
            return
        node.facts |= {"site": report.get("site"), "rejected": report.get("rejected") or {}}
        named = str(source.get("path") or source.get("api"))
        parent = Node("source", named, sha256=journal.get("sha256"), facts={"source": source.get("kind")})
        node.parents.append(parent)
        # What was downloaded lies beside the rows, or where they were first made.
        kept = side_of(rows) if journal.get("kept") is None else locate(Path(str(journal["kept"])), rows)
        path = kept / "raw" / "dump" if "://" in named else locate(Path(named), rows)
        if journal.get("sha256") is not None:
            parent.state = "missing" if not path.exists() else "same"
            if path.exists() and hash_path(path) != journal["sha256"]:
                parent.state = "changed"
            if parent.state != "same":
                node.notes.append(f"{named}, which it was read from, {_SAID[parent.state]}")

    def _take(self, pages: Iterator[RowOrigin]) -> None:
        for page in pages:
            self.pages.setdefault(key_of(page), page)


def _short(path: Path) -> str:
    """A path as it is named from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


_SAID = {"missing": "is not there", "changed": "has changed since"}


def _untraceable(path: Path) -> CirillaError:
    return CirillaError(
        f"{path}: nothing here that leads further: no model, run, checkpoint, shards, samples or documents",
        hint="cirilla trace runs/quickstart/push/model; cirilla trace samples.jsonl",
    )


def _altered(folder: Path, index: ShardIndex, stamps: Mapping[str, Any]) -> list[str]:
    """What training read and is not what it was; only files whose stamp differs are read."""
    try:
        return [f"{path.name} in {folder} is not as it was tokenized" for path in index.altered(folder, stamps)]
    except CirillaError as error:
        return [str(error)]


def _count_rows(rows: Path) -> tuple[dict[str, Any], RowsKind]:
    """Counts of what stands in a file of rows, and what those are."""
    counts = {key: Counter[str]() for key in ("kinds", "strategies", "teachers", "prompts", "licenses")}
    total, revisions, shapes = 0, 0, Counter[RowsKind]()
    for row in rows_of(rows):
        total += 1
        revisions += row.get("revision") is not None
        shapes[_shape(row)] += 1
        made, terms = (as_object(row.get(key)) for key in ("generator", "license"))
        found = {
            "kinds": row.get("kind"), "strategies": made.get("strategy"), "teachers": made.get("teacher"),
            "prompts": made.get("prompt_sha"), "licenses": terms.get("name"),
        }  # fmt: skip
        for key, value in found.items():
            if value is not None:
                counts[key][str(value)] += 1
    facts = {"rows": total, **{key: dict(count.most_common()) for key, count in counts.items() if count}}
    kind = next(iter(shapes)) if len(shapes) == 1 else "documents"
    return {**facts, "with_revision": revisions} if kind == "documents" else facts, kind


def _shape(row: Mapping[str, Any]) -> RowsKind:
    """What a row is by itself; a file is what all of its rows are, and with pages among them a file of documents."""
    if as_object(row.get("generator")).get("strategy") is not None:
        return "samples"
    if "question" in row and "answers" in row:
        return "questions"
    return "rejects" if "reason" in row and "text" not in row else "documents"
