"""What a model was made from: its runs, back to the first, and the data of each, as their own files tell it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from cirilla_cli.checkpoint import Config, Found
from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.fs import hash_json
from cirilla_cli.hub.names import is_hub_name
from cirilla_cli.model.classifier import Model

_MOST_PARENTS = 16


@dataclass(frozen=True)
class Stage:
    """One training run in a model's past."""

    verb: str | None
    name: str | None
    step: int | None
    recipe_sha256: str | None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """Its resolved recipe."""
    folder: Path | None = None
    """Its run directory, where that is still there."""

    def record(self) -> dict[str, Any]:
        """What `cirilla.json` keeps of it."""
        return {"verb": self.verb, "name": self.name, "step": self.step, "recipe_sha256": self.recipe_sha256}


@dataclass
class Data:
    """One source of training data, as far as its files still stand where the recipe names them."""

    name: str
    used_by: str
    sha256: str | None = None
    licenses: Counter[str] = field(default_factory=Counter)
    """Documents by the name of their licence."""
    rows: int | None = None
    site: str | None = None
    hub: str | None = None
    """Name of the data set, if it came from the Hub."""
    attribution: Path | None = None
    """An ATTRIBUTION.md that lists its pages."""
    documents: Path | None = None

    def record(self) -> dict[str, Any]:
        """What `cirilla.json` keeps of it; no paths of this machine."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("attribution", "documents")}
        return {**kept, "licenses": dict(self.licenses)}


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
    """Lists of pages that came with a published model."""

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


def trace(loaded: Found[Model, Config]) -> Lineage:
    """The lineage of a model, read from the files of its run and of those it names."""
    lineage = Lineage([])
    stage = _stage(loaded.path, loaded.run, loaded.step, loaded.verb)
    if stage is None:
        return _imported(loaded.path, lineage)
    for _ in range(_MOST_PARENTS):
        lineage.stages.append(stage)
        lineage.data += _data_of(stage)
        parent = _parent_of(stage)
        if parent is None:
            break
        path = Path(parent)
        found = _stage(*_places(path)) if path.is_dir() else None
        if found is None:
            return _imported(path, lineage)
        stage = found
    return lineage


def sample_lines(lineage: Lineage, most: int) -> list[str]:
    """Up to ``most`` lines of the training data that still stands, the same number from each file."""
    files = list(dict.fromkeys(d.documents for d in lineage.data if d.documents is not None))
    share = most // max(1, len(files))
    return [line for file in files for line in islice(_lines(file), share)]


def _lines(file: Path) -> Iterator[str]:
    for row in read_rows(file, Complaints()):
        turns = row.data.get("messages")
        contents = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        for text in (row.data.get("text"), *contents):
            if isinstance(text, str):
                yield from filter(str.strip, text.splitlines())


def _imported(path: Path, lineage: Lineage) -> Lineage:
    """Add what a Hugging Face folder, or a bare name, tells of itself."""
    record = _json(path / "cirilla.json")
    for entry in [record, *record.get("parents", [])] if record else []:
        keys = ("verb", "name", "step", "recipe_sha256")
        lineage.stages.append(Stage(**{key: entry.get(key) for key in keys}))
    lineage.data += [_recorded(entry) for entry in record.get("data", [])]
    lineage.base = record.get("base_model") if record else _hub_name(path)
    lineage.carried += [file for file in [path / "ATTRIBUTION.md"] if file.is_file()]
    # In a folder of ours LICENSE is that of the whole; what its base asks for stands beside it.
    licenses = sorted(path.glob("LICENSE-base-model" if record else "LICENSE*")) if path.is_dir() else []
    lineage.base_license = next((file for file in licenses if file.is_file()), None)
    return lineage


def _recorded(entry: Mapping[str, Any]) -> Data:
    known = {key: entry[key] for key in Data.__dataclass_fields__ if key in entry}
    return Data(**{**known, "licenses": Counter(known.get("licenses") or {})})


def _hub_name(path: Path) -> str:
    """OWNER/NAME of a model in the Hub's cache or given by name; else the folder's own name."""
    for part in path.parts:
        if part.startswith("models--") and part.count("--") >= 2:
            return part.removeprefix("models--").replace("--", "/", 1)
    return str(path) if not path.exists() and is_hub_name(str(path)) else path.resolve().name


def _places(path: Path) -> tuple[Path, Path | None, int | None, str | None]:
    """A parent's folder, run, step and verb, from the path a recipe names it by."""
    if (path / "checkpoints").is_dir():
        return path, path, None, None
    if path.parent.name == "checkpoints":
        step = path.name.removeprefix("step-")
        return path, path.parent.parent, int(step) if step.isdigit() else None, None
    return path, None, None, None


def _stage(folder: Path, run: Path | None, step: int | None, verb: str | None) -> Stage | None:
    """The training run whose result stands in ``folder``, None if it is not a run's."""
    if run is None:
        return None
    resolved = _resolved(folder, run)
    return Stage(
        verb=verb or _verb(resolved),
        name=resolved.get("name") or run.resolve().name,
        step=step,
        recipe_sha256=hash_json(resolved) if resolved else None,
        resolved=resolved,
        folder=run,
    )


def _resolved(folder: Path, run: Path | None) -> dict[str, Any]:
    """The resolved recipe: the lock has it as JSON, the checkpoint as YAML."""
    if run is not None and (lock := _json(run / "lock.json").get("resolved")):
        return dict(lock)
    for path in (folder / "resolved.yaml", (run or folder) / "resolved.yaml"):
        if path.is_file():
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
            return value if isinstance(value, dict) else {}
    return {}


def _verb(resolved: Mapping[str, Any]) -> str | None:
    kinds = {
        "packed_text": "pretrain", "masked_text": "pretrain", "conversations": "sft", "labelled_text": "sft",
        "preferences": "dpo",
    }  # fmt: skip
    data = resolved.get("data")
    return kinds.get(str(data.get("kind"))) if isinstance(data, Mapping) else None


def _parent_of(stage: Stage) -> str | None:
    model = stage.resolved.get("model")
    if isinstance(model, Mapping) and model.get("kind") == "checkpoint":
        return str(model.get("path"))
    return None


# Data


def _data_of(stage: Stage) -> Iterator[Data]:
    section = stage.resolved.get("data")
    if not isinstance(section, Mapping):
        return
    named: dict[str, list[Any]] = {}
    sources, path = section.get("sources"), section.get("path", [])
    if isinstance(sources, Mapping):
        named = {str(name): [source.get("path")] for name, source in sources.items() if isinstance(source, Mapping)}
    elif section.get("kind") == "labelled_text":
        # Their shards name all of them.
        named = {"labelled": list(path)[:1] if isinstance(path, list | tuple) else [path]}
    else:
        # Several paths of one section are tokenized under these names.
        named = {f"part{i}": [p] for i, p in enumerate(path if isinstance(path, list | tuple) else [path])}
    for name, paths in named.items():
        for path in paths:
            yield from _sources(name, Path(str(path)), stage)


def _sources(name: str, path: Path, stage: Stage) -> list[Data]:
    """The files behind one path of a recipe: those its shards were made from, or the path itself."""
    own = stage.folder / "shards" / name if stage.folder else path
    found: dict[str, Data] = {}
    for index in chain(_indices(path), _indices(own)):
        behind = [_described(Path(str(e.get("path"))), stage, e.get("sha256")) for e in index.get("sources", [])]
        if behind and index.get("licenses") and not any(data.licenses for data in behind):
            behind[0].licenses = Counter(index["licenses"])
        # Shards of text, chats and preferences made in one go name the same sources.
        found.update({f"{data.name} {data.sha256}": data for data in behind})
    return list(found.values()) or [_described(path, stage, None)]


def _indices(path: Path) -> Iterator[dict[str, Any]]:
    places = [path / "index.json", *sorted(path.glob("*/index.json")), *sorted(path.glob("shards/*/index.json"))]
    return (index for place in places if (index := _json(place)))


def _described(path: Path, stage: Stage, sha256: str | None) -> Data:
    """What stands beside a file of rows: the journal of its scrape, the list of its pages."""
    data = Data(name=_short(path), used_by=stage.verb or "training", sha256=sha256)
    documents = path / "documents.jsonl" if path.is_dir() else path
    inside = documents.name == "documents.jsonl"
    side = documents.parent if inside else documents.with_name(f"{documents.stem}.scrape")
    if documents.is_file() and documents.suffix == ".jsonl":
        data.documents = documents
    if (side / "ATTRIBUTION.md").is_file():
        data.attribution = side / "ATTRIBUTION.md"
    journal = _last_run(side / "journal.jsonl")
    report, source = journal.get("report") or {}, (journal.get("config") or {}).get("source") or {}
    data.rows, data.site = report.get("documents"), report.get("site")
    if report.get("license") and data.rows:
        data.licenses = Counter({str(report["license"]): int(data.rows)})
    if source.get("kind") == "hub" and not Path(str(source.get("path"))).exists():
        data.hub = source.get("path")
    return data


def _last_run(journal: Path) -> dict[str, Any]:
    """The newest account of a whole run in a scrape's journal."""
    if not journal.is_file():
        return {}
    runs = [row.data for row in read_rows(journal, Complaints()) if row.data.get("kind") == "run"]
    return runs[-1] if runs else {}


def _short(path: Path) -> str:
    """The last two parts of a path: enough to know a file by, without telling where this machine keeps it."""
    return "/".join(part for part in path.parts[-2:] if part not in ("/", "..", "."))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
