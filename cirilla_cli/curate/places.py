"""Where the files lie that a recipe names: on this machine, or on the Hub, from where they are fetched."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_json, hash_path, on_the_hub
from cirilla_cli.progress import Progress

Found = tuple[str, Sequence[Path]]
"""A path as reports name it (of the Hub with the commit), and its files."""


class Places:
    """The files behind each path of a recipe."""

    def __init__(self, found: Mapping[Path, Found]) -> None:
        self._found = found

    @classmethod
    def of(cls, paths: Iterable[Path], progress: Progress) -> Self:
        """Fetch what lies on the Hub, and look whether the rest is there.

        Raises:
            CirillaError: it is not. ServiceError: the Hub does not answer.
        """
        return cls({path: _found(path, progress) for path in paths})

    def files(self, path: Path) -> Sequence[Path]:
        """What to read for one path."""
        return self._found[path][1]

    def name(self, path: Path) -> str:
        """How reports name one path."""
        return self._found[path][0]

    def digest(self, path: Path) -> str | None:
        """Hash of what is read for one path; None for a stream."""
        files = self.files(path)
        if path == STDIO:
            return None
        return hash_path(path) if path.exists() else hash_json([(file.name, hash_path(file)) for file in files])


def _found(path: Path, progress: Progress) -> Found:
    if on_the_hub(path):
        from cirilla_cli.hub.datasets import fetched

        return fetched(path, progress)
    if path != STDIO and not path.exists():
        hub = len(path.parts) == 2 and not path.suffix
        hint = f"on the Hub it is hf://datasets/{path.as_posix()}" if hub else None
        raise CirillaError(f"{path}: no such file or folder", hint=hint)
    return str(path), (path,)
