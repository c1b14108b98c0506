"""Which rows are trained on, so that nothing about a held-out page is.

row --hash of its `split_key`--> val
                             --> train, unless it names a page that is held out: left out, and listed
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import JsonlWriter
from cirilla_cli.data.rows import held_out
from cirilla_cli.progress import Progress

LEFT_OUT = "left_out.jsonl"
"""Beside shards: each row that is in none of them, and why."""
NAMES_HELD_OUT = "names a held-out page"


def held_pages(split_key: str, parents: Iterable[str] | None, *, frac: float) -> list[str]:
    """The held-out pages among those that a row says it was made of, each once; its key is known not to be."""
    return [page for page in dict.fromkeys(parents or ()) if page != split_key and held_out(page, frac=frac)]


def is_trained_on(split_key: str, parents: Iterable[str] | None, *, frac: float) -> bool:
    """Whether a row is in the training split: neither its key nor any page that it names is held out."""
    return not held_out(split_key, frac=frac) and not held_pages(split_key, parents, frac=frac)


class LeftOut:
    """Rows of no split: counted, and listed in ``folder``, in which an earlier run's list is removed."""

    def __init__(self, folder: Path) -> None:
        self.path, self.rows = folder / LEFT_OUT, 0
        self.path.unlink(missing_ok=True)
        self._writer: JsonlWriter | None = None

    def add(self, what: dict[str, Any], pages: list[str]) -> None:
        """List a row that names these held-out pages; ``what`` tells it from others."""
        if self._writer is None:
            self._writer = JsonlWriter(self.path)
        self._writer.write({**what, "reason": NAMES_HELD_OUT, "pages": pages})
        self.rows += 1

    def close(self) -> None:
        """Bring the list onto the disk."""
        if self._writer is not None:
            self._writer.close()

    def tell(self, progress: Progress) -> None:
        """Say how many there are, and where they are listed."""
        if self.rows:
            progress.say(f"{self.rows:,} rows are left out of training: each names a held-out page ({self.path})")
