"""A second place for a run's checkpoints: a folder, or a repository on the Hub, with a run's own layout.

run --put--> mirror --fetch--> the same run on another machine
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import atomic_write, read_object
from cirilla_cli.progress import Progress

RECORDS = ("lock.json", "recipe.yaml", "resolved.yaml", "metrics.jsonl", "samples.jsonl")
"""What a run goes on from besides a checkpoint."""

_FOLDER, _MANIFEST = "dir:", "MANIFEST.json"


class Store(Protocol):
    """A place for files, under names with `/` in them."""

    where: str
    """What to call it in messages."""

    def prepare(self) -> None:
        """Find out that files can be put there; raises what keeps them out."""

    def names(self) -> set[str]:
        """Every file that is there."""

    def read(self, name: str, into: Path) -> Path:
        """A copy of a file, below the folder ``into``."""

    def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
        """Put the files ``add`` there, manifests last, then take away those in ``remove``."""


class FolderStore:
    """A folder, on another disk as a rule."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def prepare(self) -> None:
        """Make the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CirillaError(
                f"`checkpoint.mirror`: {self.folder}: {error.strerror}", hint="checkpoint.mirror=dir:PATH"
            ) from None

    def names(self) -> set[str]:
        """Every file in the folder, but not those that are being written."""
        files = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return {name for name in files if not name.rpartition("/")[2].startswith(".")}

    def read(self, name: str, into: Path) -> Path:
        """A copy of a file."""
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / name, target)
        return target

    def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
        """A checkpoint whose files are being replaced has no manifest meanwhile, so that it does not count."""
        manifests = [name for name in add if name.endswith(_MANIFEST)]
        self._remove(manifests)
        for name in [*(name for name in add if name not in manifests), *manifests]:
            with add[name].open("rb") as source, atomic_write(self.folder / name) as target:
                shutil.copyfileobj(source, target, 1 << 20)
        self._remove(sorted(remove, key=lambda name: not name.endswith(_MANIFEST)))

    def _remove(self, names: Collection[str]) -> None:
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()


def folder_of(mirror: str) -> Path | None:
    """The folder that ``dir:PATH`` names; None for a repository."""
    return Path(mirror.removeprefix(_FOLDER)) if mirror.startswith(_FOLDER) else None


def open_store(mirror: str) -> Store:
    """The place that ``dir:PATH`` or ``OWNER/NAME`` names."""
    folder = folder_of(mirror)
    if folder is not None:
        return FolderStore(folder)
    from cirilla_cli.hub.mirror import HubStore

    return HubStore(mirror)


def held_steps(store: Store) -> set[int]:
    """Steps whose checkpoints a mirror holds."""
    found = (re.fullmatch(rf"checkpoints/step-(\d+)/{_MANIFEST}", name) for name in store.names())
    return {int(match[1]) for match in found if match}


def put(store: Store, run: Path, checkpoint: Checkpoint, kept: Collection[int]) -> None:
    """Make the mirror hold ``checkpoint`` and the run's records; of other checkpoints it keeps those in ``kept``."""
    there = store.names()
    prefix = f"checkpoints/{checkpoint.path.name}/"
    add = {}
    if not _same(store, prefix + _MANIFEST, checkpoint.path / _MANIFEST, there):
        add = {prefix + file.name: file for file in checkpoint.path.iterdir()}
    steps = {f"step-{step:06d}" for step in (*kept, checkpoint.step)}
    remove = [name for name in there if name.startswith("checkpoints/step-") and name.split("/")[1] not in steps]
    with tempfile.TemporaryDirectory(prefix="cirilla-mirror-") as folder:
        for name in RECORDS:
            if (run / name).is_file():
                # Logs grow while they are sent.
                add[name] = Path(shutil.copyfile(run / name, Path(folder) / name))
        store.change(add, remove, f"step {checkpoint.step}")


def _same(store: Store, name: str, file: Path, there: Collection[str]) -> bool:
    if name not in there:
        return False
    with tempfile.TemporaryDirectory(prefix="cirilla-mirror-") as folder:
        return store.read(name, Path(folder)).read_bytes() == file.read_bytes()


def fetch(store: Store, run: Path, check: Callable[[Path], object], progress: Progress) -> Checkpoint | None:
    """Bring the newest sound checkpoint of a mirror, and the run's records, into the run; None where there is none.

    Args:
        check: raises if the folder with the mirror's records is not of this run.
    """
    there = store.names()
    names = {name.split("/")[1] for name in there if name.startswith("checkpoints/") and name.endswith("/" + _MANIFEST)}
    staging = run / ".mirror"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        records = [store.read(name, staging) for name in RECORDS if name in there]
        check(staging)
        for name in sorted((n for n in names if n.startswith("step-")), reverse=True):
            found = _fetch_one(store, f"checkpoints/{name}", staging, there)
            if found is None:
                progress.say(f"{store.where}: checkpoint {name} is damaged; looking for an earlier one")
                continue
            target = run / "checkpoints" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            for record in records:
                os.replace(record, run / record.name)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(found.path, target)
            progress.say(f"{store.where}: step {found.step} fetched")
            return Checkpoint(found.step, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return None


def _fetch_one(store: Store, prefix: str, staging: Path, there: Collection[str]) -> Checkpoint | None:
    """A checkpoint brought into ``staging``, if every byte is the one that was written."""
    try:
        files = read_object(store.read(f"{prefix}/{_MANIFEST}", staging))["files"]
        # Names come from outside: only those that are files of the mirror are read.
        wanted = [f"{prefix}/{name}" for name in files if f"{prefix}/{name}" in there]
    except (CirillaError, KeyError, TypeError):
        return None
    for name in wanted:
        store.read(name, staging)
    checkpoint = Checkpoint.at(staging / prefix)
    return checkpoint if checkpoint is not None and not checkpoint.verify() else None
