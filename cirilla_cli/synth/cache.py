"""Answers that several runs share: a file each in one folder, named by the hash of all that decides the answer."""

from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from cirilla_cli.data.rows import content_hash
from cirilla_cli.fs import make_writable, write_json
from cirilla_cli.teachers.base import Completion, Request, Teacher

_WHOLE = TypeAdapter(Completion)


class Cache:
    """Any number of processes may read and write at once: a file appears whole, and what is not whole is no answer."""

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        """Raises: CirillaError: there cannot be such a folder."""
        self._folder, self._whose = folder, (teacher.name, dict(teacher.settings), teacher.context)
        make_writable(folder, "synth.source.cache", "answers")

    def get(self, request: Request) -> Completion | None:
        """The answer to ``request``, if any run had it."""
        try:
            return _WHOLE.validate_json(self._path(request).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def put(self, request: Request, answer: Completion) -> None:
        """Keep an answer for other runs; one that is damaged is replaced."""
        write_json(self._path(request), asdict(answer))

    def _path(self, request: Request) -> Path:
        name = content_hash(self._whose, request.id)
        return self._folder / name[:2] / f"{name}.json"
