"""The files of a curated set: written beside their places, and put there together when all is done."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import STDIO, JsonlWriter, close_all
from cirilla_cli.data.rows import Record
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import sync_folder

SIDE = ("validation", "test", "rejected", "duplicates", "quarantine")
"""Files of rows beside the training rows; each is there only where it has rows."""


def side_folder(out: Path) -> Path | None:
    """Where everything but the training rows goes; None beside standard output."""
    if out == STDIO:
        return None
    return out.with_name(f"{out.stem}.curate") if out.suffix == ".jsonl" else out


class Outputs:
    """Writers by name, opened by their first row; nothing is in its place before `commit`.

    Args:
        out: a folder, a file FILE.jsonl (the other files go to the folder FILE.curate beside it), or - for the
            training rows on standard output and nothing else.

    Raises:
        CirillaError: a folder stands where a file is to be.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.side = out, side_folder(out)
        self._train: Path | None = STDIO if out == STDIO else None
        self._open: dict[str, JsonlWriter] = {}
        self._adopted: set[str] = set()
        self._closed = False
        for path in self._all():
            if path.is_dir():
                raise CirillaError(f"{path}: is a folder, and a file is to be written", hint="name another place")
            _partial(path).unlink(missing_ok=True)

    def choose(self, kind: str) -> None:
        """Say what the training rows are, which names their file in a folder."""
        if self.out != STDIO:
            self._train = self.out if self.out.suffix == ".jsonl" else self.out / f"{kind}.jsonl"

    def path(self, name: str) -> Path:
        """Where the rows of ``name`` will stand: of `train` or one of `SIDE`."""
        if name == "train":
            assert self._train is not None  # `choose` comes before the first row
            return self._train
        assert self.side is not None
        return self.side / f"{name}.jsonl"

    def partial(self, name: str) -> Path:
        """Where the rows of ``name`` stand until all is done."""
        return _partial(self.path(name))

    def write(self, name: str, row: Record | dict[str, Any]) -> None:
        """Add a row; beside standard output there is no place for anything but training rows."""
        if name != "train" and self.side is None:
            return
        if name not in self._open:
            path = self.path(name)
            self._open[name] = JsonlWriter(path if path == STDIO else _partial(path))
        self._open[name].write(row)

    def close(self) -> None:
        """Bring all rows onto the disk."""
        if not self._closed:
            self._closed = True
            close_all(self._open.values())

    def adopt(self, name: str) -> None:
        """Count in a file that somebody else wrote at its `partial`."""
        self._adopted.add(name)

    def sides(self) -> dict[str, Path]:
        """The files of the split's sides that have rows."""
        return {name: self.path(name) for name in ("train", "validation", "test") if name in self._open}

    def commit(self) -> None:
        """Put every file in its place, and remove those of an earlier run that this one has no rows for."""
        kept = {self.path(name) for name in {*self._open, *self._adopted}}
        for path in kept - {STDIO}:
            os.replace(_partial(path), path)
        for path in set(self._all()) - kept:
            path.unlink(missing_ok=True)
            _partial(path).unlink(missing_ok=True)
        for folder in {path.parent for path in kept - {STDIO}}:
            sync_folder(folder)

    def abort(self) -> None:
        """Leave everything as it was."""
        self.close()
        for path in self._all():
            _partial(path).unlink(missing_ok=True)

    def _all(self) -> Iterator[Path]:
        """Every file of rows that this verb may have left here."""
        if self.side is None:
            return
        yield from (self.side / f"{name}.jsonl" for name in SIDE)
        if self.out.suffix == ".jsonl":
            yield self.out
        else:
            yield from (self.out / f"{kind}.jsonl" for kind in ("documents", "samples"))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
