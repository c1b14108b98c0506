"""Digests that stand beside a dump: in a file of its own name, or in the list that Wikimedia publishes with a run."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cirilla_cli.errors import CirillaError

_KINDS = {32: "md5", 40: "sha1", 64: "sha256"}
"""Hexadecimal digits of a digest: its kind."""
_LINE = re.compile(r"([0-9a-fA-F]{32,64})(?:\s+\*?(.*\S))?\s*|\w+ ?\((.+)\) ?= ?([0-9a-fA-F]{32,64})\s*")
_RUN = re.compile(r"(\w+-(?:\d{8}|latest))-.+")
"""Wikimedia's names: the wiki, the day of the run, the part."""


class Digest(NamedTuple):
    """What the bytes of a file must give, and what says so."""

    kind: str
    value: str
    said_by: str


def digest_of(path: Path, kind: str) -> str:
    """This kind of digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def stated(name: str, read: Callable[[str], str | None]) -> Digest | None:
    """The digest of the file ``name`` that a file beside it states; ``read`` gives the text of one, or None."""
    found = (_find(read(beside) or "", name, beside) for beside in _names(name))
    return next((digest for digest in found if digest is not None), None)


def _names(name: str) -> list[str]:
    run = _RUN.fullmatch(name)
    kinds = ("sha1", "md5") if run else ("sha256", "sha1", "md5")
    return [f"{run[1]}-{kind}sums.txt" if run else f"{name}.{kind}" for kind in kinds]


def _find(text: str, name: str, beside: str) -> Digest | None:
    """The line for ``name``, as `sha1sum` and `openssl` write them; a digest without a name is that of its file."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        value, of = (match[1] or match[4], match[2] or match[3]) if match else ("", None)
        if len(value) in _KINDS and (of.rpartition("/")[2] == name if of else beside.startswith(name)):
            return Digest(_KINDS[len(value)], value.lower(), beside)
    return None


def check_beside(path: Path) -> None:
    """Compare a file with what a file beside it states, if one does.

    Raises:
        CirillaError: it is another, or damaged.
    """

    def read(name: str) -> str | None:
        beside = path.with_name(name)
        return beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else None

    digest = stated(path.name, read)
    if digest is not None and digest_of(path, digest.kind) != digest.value:
        raise CirillaError(
            f"{path}: is not the file whose {digest.kind.upper()} {digest.said_by} states: damaged, or another version",
            hint=f"download both again, or remove {digest.said_by} if it belongs to another file",
        )
