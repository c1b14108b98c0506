"""Files that are either whole or not there, and fingerprints of them."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cirilla_cli.errors import CirillaError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write fails with where there is no room: a full disk, a used-up quota, a limit on a file's size."""

CACHE = ".cirilla-cache"
"""Folder of what can be made again from the files beside it: no part of what they are."""


def named(error: OSError, path: Path) -> OSError:
    """``error`` with the file it is about, which the system leaves out where a write finds no room."""
    if error.errno in NO_ROOM and error.filename is None:
        error.filename = str(path)
    return error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names ``path`` in errors of the block that say there is no room, and not where."""
    try:
        yield
    except OSError as error:
        raise named(error, path) from error.__cause__


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at ``path`` whole, synced, when the block ends, or not at all when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def make_writable(folder: Path, key: str, example: str) -> None:
    """Make a folder, if need be, in which files can be made: found out before there is anything to lose.

    Args:
        key: the recipe's, which names the folder.
        example: a value that it could have.

    Raises:
        CirillaError: there cannot be such a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CirillaError(
            f"`{key}` is {folder}: must be a folder that can be written ({error.strerror})",
            hint=f"{key}={example}, or {key}=null",
        ) from None


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, a file that this program wrote.

    Raises:
        CirillaError: it is damaged.
    """
    try:
        value = read_json(path)
    except ValueError as error:
        raise CirillaError(f"{path}: not JSON: {error}", hint="the file is damaged or half-written") from None
    if not isinstance(value, dict):
        raise CirillaError(f"{path}: not a JSON object", hint="the file is damaged")
    return value


def as_object(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object; an empty one for anything else that a damaged file may hold."""
    return value if isinstance(value, Mapping) else {}


def as_objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in ``value`` if it is a list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder ``new`` at ``path``; what stood there goes only once ``new`` is in place."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder but those in a `CACHE`."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and CACHE not in p.relative_to(path).parts):
        digest.update(os.fsencode(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n"))
    return digest.hexdigest()


def on_the_hub(path: Path) -> bool:
    """Whether a path of a recipe is an address, `hf://datasets/...` (as a path it has lost one of its slashes)."""
    return path.parts[:2] == ("hf:", "datasets")


def as_written(path: Path) -> str:
    """A path, or an address on the Hub, as the user wrote it."""
    return "hf://" + "/".join(path.parts[1:]) if on_the_hub(path) else str(path)


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order and spacing."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def locate(path: Path, beside: Path) -> Path:
    """Where a path lies that was written down at ``beside``: below a folder above that place, or from here.

    Recipes name paths from where the command was called, which most often was a folder above all its results.
    """
    if not path.is_absolute():
        for above in beside.resolve().parents:
            if (above / path).exists():
                return above / path
    return path


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder``, in the order of their paths.

    Raises:
        CirillaError: a folder in it cannot be read (`Path.rglob` would pass it over without a word), or the name of a
            file is not UTF-8, so that it could stand in no row and no report.
    """

    def refuse(error: OSError) -> None:
        raise CirillaError(f"{error.filename}: cannot be read: {error.strerror}")

    found = (Path(at) / name for at, _, names in os.walk(folder, onerror=refuse) for name in names)
    files = sorted(path for path in found if path.is_file())
    for path in files:
        if not is_text(str(path)):
            raise CirillaError(f"{str(path)!r}: the file's name is not UTF-8", hint="rename it")
    return files


def is_text(word: str) -> bool:
    """Whether ``word`` can be written as UTF-8; bytes of a name or an argument that cannot come as half surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def newest(paths: Iterable[Path]) -> Path | None:
    """The path modified last, or None if there is none."""
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
