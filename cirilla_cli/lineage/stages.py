"""The training runs behind a model, the last first, as their locks and checkpoints tell them; nothing heavy is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.fs import as_object, hash_json, locate

MOST_PARENTS = 16
"""Longest chain of runs that is followed."""

_VERBS = {
    "packed_text": "pretrain", "masked_text": "pretrain", "conversations": "sft", "labelled_text": "sft",
    "preferences": "dpo",
}  # fmt: skip


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

    @property
    def lock(self) -> dict[str, Any]:
        """What the run noted when it began; empty where nothing is left of it."""
        return read_note(self.folder / "lock.json") if self.folder is not None else {}

    def parent(self) -> str | None:
        """The model it started from, as its recipe names it; None for fresh weights."""
        model = self.resolved.get("model")
        if isinstance(model, Mapping) and model.get("kind") == "checkpoint":
            return str(model.get("path"))
        return None

    def sources(self) -> dict[str, Path]:
        """The paths of its data, by the names its shards have in `shards/`."""
        section = self.resolved.get("data")
        if not isinstance(section, Mapping):
            return {}
        sources, path = section.get("sources"), section.get("path", [])
        if isinstance(sources, Mapping):
            named = {str(n): source.get("path") for n, source in sources.items() if isinstance(source, Mapping)}
        elif section.get("kind") == "labelled_text":
            # Their shards name all of them.
            named = {"labelled": path[0] if isinstance(path, list | tuple) and path else path}
        else:
            # Several paths of one section are tokenized under these names.
            named = {f"part{i}": p for i, p in enumerate(path if isinstance(path, list | tuple) else [path])}
        return {name: self.locate(Path(str(p))) for name, p in named.items()}

    def locate(self, path: Path) -> Path:
        """Where a path that its recipe names lies now."""
        return path if self.folder is None else locate(path, self.folder)

    def shards(self) -> Iterator[tuple[str, Path, ShardIndex]]:
        """The shards that it was trained on, each with its source's name: those whose content its lock recorded."""
        recorded = self.lock.get("data")
        known = set(recorded.values()) if isinstance(recorded, dict) else set()
        for name, path in self.sources().items():
            own = [self.folder / "shards" / name] if self.folder is not None else []
            for folder in dict.fromkeys(place.resolve() for place in (path, *own)):
                found = ((below, ShardIndex.read(below)) for below in shard_folders(folder))
                yield from ((name, below, index) for below, index in found if index.fingerprint() in known)


def shard_folders(path: Path) -> Iterator[Path]:
    """The folders of finished shards at or below ``path``, where the verbs put them."""
    places = [path / "index.json", *sorted(path.glob("*/index.json")), *sorted(path.glob("shards/*/index.json"))]
    return (place.parent for place in places if "splits" in read_note(place))


def stages_from(stage: Stage) -> Iterator[tuple[Stage, Path | None]]:
    """A run and those before it, each with the path of a parent that is no run of ours, or None."""
    for _ in range(MOST_PARENTS):
        parent = stage.parent()
        path = None if parent is None else stage.locate(Path(parent))
        # A run is named, and one of its checkpoints was taken: the one whose weights were recorded then.
        before = None if path is None else stage_at(checkpoint_of(path, stage.lock.get("base")) or path)
        yield stage, path if before is None else None
        if before is None:
            return
        stage = before


def checkpoint_of(path: Path, base: Any) -> Path | None:
    """The checkpoint at or below ``path`` whose weights have the hash that a run recorded of them."""
    found = sorted(path.glob("checkpoints/step-*")) if (path / "checkpoints").is_dir() else [path]
    return next((folder for folder in reversed(found) if base is not None and _weights(folder) == base), None)


def _weights(checkpoint: Path) -> str:
    """Hash of a checkpoint's weights from its manifest, as a run's lock records it."""
    files = read_note(checkpoint / "MANIFEST.json").get("files")
    names = sorted(files) if isinstance(files, dict) else []
    taken = [name for name in names if name.endswith(".safetensors") and name != "optimizer.safetensors"]
    return hash_json([[name, files[name].get("sha256")] for name in taken] if isinstance(files, dict) else [])


def stage_at(path: Path) -> Stage | None:
    """The run at a path: a run's folder or one of its checkpoints; None for anything else."""
    if (path / "checkpoints").is_dir():
        return stage_of(path, path, None, None)
    if path.is_dir() and path.parent.name == "checkpoints":
        step = path.name.removeprefix("step-")
        return stage_of(path, path.parent.parent, int(step) if step.isdigit() else None, None)
    return None


def stage_of(folder: Path, run: Path | None, step: int | None, verb: str | None) -> Stage | None:
    """The training run whose result stands in ``folder``, None if it is not a run's."""
    if run is None:
        return None
    resolved = _resolved(folder, run)
    data = resolved.get("data")
    return Stage(
        verb=verb or (_VERBS.get(str(data.get("kind"))) if isinstance(data, Mapping) else None),
        name=resolved.get("name") or run.resolve().name,
        step=step,
        recipe_sha256=hash_json(resolved) if resolved else None,
        resolved=resolved,
        folder=run,
    )


def run_of(record: Mapping[str, Any], beside: Path) -> Path | None:
    """The run that a published model came from, if it is still near: found by the hash of its recipe, not by a path.

    Looked for beside the model, two folders up, and under `runs/`.
    """
    wanted = record.get("recipe_sha256")
    above = beside.resolve().parents[:3]
    places = [lock for folder in above for lock in sorted(folder.glob("*/lock.json"))]
    for lock in [*places, *sorted(Path("runs").glob("**/lock.json"))]:
        if wanted is not None and hash_json(read_note(lock).get("resolved")) == wanted:
            return lock.parent
    return None


def _resolved(folder: Path, run: Path) -> dict[str, Any]:
    """The resolved recipe: the lock has it as JSON, the checkpoint as YAML."""
    if lock := as_object(read_note(run / "lock.json").get("resolved")):
        return dict(lock)
    for path in (folder / "resolved.yaml", run / "resolved.yaml"):
        if path.is_file():
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
            return value if isinstance(value, dict) else {}
    return {}


def read_note(path: Path) -> dict[str, Any]:
    """The object in a file that a verb left; empty where it is missing or damaged, for lineage tells what there is."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
