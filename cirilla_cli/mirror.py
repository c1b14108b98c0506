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
from cirilla_cli.fs import atomic_write, read_object, write_json
from cirilla_cli.progress import Progress

RECORDS = ("lock.json", "recipe.yaml", "resolved.yaml", "metrics.jsonl", "samples.jsonl")
"""What a run goes on from besides a checkpoint."""

MARK = "mirror.json"
"""What tells a mirror apart from a run's own folder."""

_FOLDER, _MANIFEST = "dir:", "MANIFEST.json"
_OURS = re.compile(rf"{'|'.join(map(re.escape, (MARK, *RECORDS)))}|checkpoints/step-\d+/[^/]+")
_OF_A_RUN = "checkpoints/index.json"
_LEFT = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
"""Name of a file that `atomic_write` has not finished."""


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

    def tidy(self) -> None:
        """Take away what a change that was cut short has left behind."""


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

    def tidy(self) -> None:
        """Remove half-written files of a mirror, and no others."""
        for path in (*self.folder.glob(".*"), *self.folder.glob("checkpoints/step-*/.*")):
            left = _LEFT.fullmatch(path.name)
            if left is not None and _OURS.fullmatch(path.with_name(left[1]).relative_to(self.folder).as_posix()):
                self._remove([path.relative_to(self.folder).as_posix()])

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
    return _steps(store.names())


def _steps(there: Collection[str]) -> set[int]:
    found = (re.fullmatch(rf"checkpoints/step-(\d+)/{_MANIFEST}", name) for name in there)
    return {int(match[1]) for match in found if match}


def check_mirror(store: Store, there: Collection[str]) -> None:
    """Insist that the files ``there`` in a store are a mirror, so that nothing else is ever written over or removed.

    Raises:
        CirillaError: they are not; those that do not belong to one are named.
    """
    there = {name for name in there if not name.rpartition("/")[2].startswith(".")}
    if not there:
        return
    if _OF_A_RUN in there:
        raise _not_ours(store, "is a run's own folder, not a mirror")
    foreign = sorted(name for name in there if _OURS.fullmatch(name) is None)
    # A file that stands beside those of a mirror that says so is in nobody's way.
    if foreign and MARK not in there:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise _not_ours(store, f"holds what is no part of a mirror: {', '.join(foreign[:3])}{more}")
    if "lock.json" not in there and {MARK, *foreign} != there:
        raise _not_ours(store, "has no lock.json, so that it is no mirror of this run")
    if MARK not in there and not any(name.endswith("/" + _MANIFEST) for name in there):
        raise _not_ours(store, "is a run's own folder without a checkpoint, not a mirror")


def _not_ours(store: Store, what: str) -> CirillaError:
    return CirillaError(
        f"`checkpoint.mirror`: {store.where} {what}; nothing there was changed",
        hint="checkpoint.mirror names a new or empty place: dir:PATH, or OWNER/NAME",
    )


def clear(store: Store) -> None:
    """Take away the run that a mirror holds (`--fresh`)."""
    remove = [name for name in store.names() if name != MARK and _OURS.fullmatch(name)]
    if remove:
        store.change({}, remove, "started over")


def put(store: Store, run: Path, checkpoint: Checkpoint, kept: Collection[int]) -> None:
    """Make the mirror hold ``checkpoint`` and the run's records; of other checkpoints it keeps those in ``kept``."""
    there = store.names()
    prefix = f"checkpoints/{checkpoint.path.name}/"
    add = {}
    steps = {f"step-{step:06d}" for step in (*kept, checkpoint.step)}
    remove = [name for name in there if name.startswith("checkpoints/step-") and name.split("/")[1] not in steps]
    with tempfile.TemporaryDirectory(prefix="cirilla-mirror-") as folder:
        if MARK not in there:
            add[MARK] = Path(folder) / MARK
            write_json(add[MARK], {"version": 1})
        # First of all what says whose checkpoints these are: the copy may end at any file.
        for name in RECORDS:
            if (run / name).is_file():
                # Logs grow while they are sent.
                add[name] = Path(shutil.copyfile(run / name, Path(folder) / name))
        if not _same(store, prefix + _MANIFEST, checkpoint.path / _MANIFEST, there):
            add |= {prefix + file.name: file for file in checkpoint.path.iterdir()}
        store.change(add, remove, f"step {checkpoint.step}")


def _same(store: Store, name: str, file: Path, there: Collection[str]) -> bool:
    if name not in there:
        return False
    with tempfile.TemporaryDirectory(prefix="cirilla-mirror-") as folder:
        return store.read(name, Path(folder)).read_bytes() == file.read_bytes()


def fetch(
    store: Store,
    run: Path,
    check: Callable[[Path], object],
    needed: Callable[[Checkpoint], Collection[int | None]],
    progress: Progress,
) -> Checkpoint | None:
    """Bring the newest sound checkpoint of a mirror, and the run's records, into the run; None where there is none.

    Args:
        check: raises if the folder with the mirror's records is not of this run.
        needed: steps whose checkpoints are brought along with that one, as far as they are there and sound.
    """
    there = store.names()
    staging = run / ".mirror"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        records = [store.read(name, staging) for name in RECORDS if name in there]
        check(staging)
        sound = (_sound(store, step, staging, there, progress) for step in sorted(_steps(there), reverse=True))
        newest = next(filter(None, sound), None)
        if newest is None:
            return None
        beside = sorted(_steps(there) & {*needed(newest)} - {newest.step})
        found = [*filter(None, (_sound(store, step, staging, there, progress) for step in beside)), newest]
        for record in records:
            os.replace(record, run / record.name)
        # The newest last: where this is cut short, the run goes on from an earlier one, to the same end.
        for checkpoint in found:
            _bring(checkpoint, run)
        progress.say(f"{store.where}: step {newest.step} fetched")
        return Checkpoint(newest.step, run / "checkpoints" / newest.path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _bring(checkpoint: Checkpoint, run: Path) -> None:
    target = run / "checkpoints" / checkpoint.path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(checkpoint.path, target)


def _sound(store: Store, step: int, staging: Path, there: Collection[str], progress: Progress) -> Checkpoint | None:
    name = f"step-{step:06d}"
    found = _fetch_one(store, f"checkpoints/{name}", staging, there)
    if found is None:
        progress.say(f"{store.where}: checkpoint {name} is damaged; passed over")
    return found


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
