"""What a file is, by what stands in it."""

import json
import mmap
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from cirilla_cli.data.formats.grpo import is_answer

Container = Literal[
    "text", "lines", "answers", "json", "parquet", "arrow", "sqlite", "fineweb-bin", "packed", "binary", "unknown"
]  # fmt: skip

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md"})
ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})

_TABLES: dict[str, Container] = {".parquet": "parquet", ".arrow": "arrow"}

FINEWEB_MAGIC = 20240520
_HEAD = 1 << 16
_MAGIC: dict[bytes, Container] = {
    b"PAR1": "parquet", b"SQLite format 3\x00": "sqlite", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow",
    b"\x1f\x8b": "packed", b"BZh": "packed", b"PK\x03\x04": "packed", b"7z\xbc\xaf": "packed",
    b"\x28\xb5\x2f\xfd": "packed", b"\xfd7zXZ": "packed",
    np.asarray([FINEWEB_MAGIC], "<i4").tobytes(): "fineweb-bin",
}  # fmt: skip


def container(path: Path) -> Container:
    """What kind of file ``path`` is.

    `binary` is anything else that is no text; `unknown` is text that is neither JSON nor named as running text.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if path.suffix.lower() in TEXT_SUFFIXES:
        return "text"
    if path.suffix.lower() in _TABLES:  # it lacks its mark: whoever reads it will say so
        return _TABLES[path.suffix.lower()]
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin[:1] in (b"{", b"["):
        if is_one_value(path, begin):
            return "json"
        return "answers" if begin[:1] == b"[" and _is_answer(begin) else "lines"
    if path.suffix.lower() in ROW_SUFFIXES:
        return "lines"
    return "binary" if b"\x00" in head or path.suffix.lower() == ".bin" else "unknown"


def is_one_value(path: Path, begin: bytes) -> bool:
    """Whether the whole file is one JSON value: a list, an object over several lines, or a single line."""
    first, _, rest = begin.partition(b"\n")
    if rest.strip() and begin[:1] == b"{" and _decodes(first):
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return _decodes(whole)


def _is_answer(begin: bytes) -> bool:
    """Whether the first line is `[id, answer, score]`, or the first two of them."""
    try:
        return is_answer(json.loads(begin.partition(b"\n")[0]))
    except (ValueError, RecursionError):
        return False


def _decodes(raw: Any) -> bool:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def holds_rows(path: Path) -> bool:
    """Whether the first two lines of a text file are JSON objects."""
    with path.open("rb") as file:
        lines = [line for line in file.read(_HEAD).split(b"\n") if line.strip()][:2]
    return len(lines) == 2 and all(line.lstrip()[:1] == b"{" and _is_object(line) for line in lines)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
