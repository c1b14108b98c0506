"""The one reader and the one writer of JSON lines; every complaint names file and line."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from cirilla_cli.data.rows import Record
from cirilla_cli.errors import CirillaError, Where

R = TypeVar("R", bound=Record)

STDIO = Path("-")
"""Stands for standard input or output wherever a file is named."""

_MOST_COMPLAINTS = 20
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Row:
    """A parsed line and where it stood."""

    file: str
    line: int
    data: dict[str, Any]

    @property
    def at(self) -> str:
        """Where the row stands, as ``FILE:LINE``."""
        return f"{self.file}:{self.line}"


class Complaints:
    """Gathers what is wrong with a file's rows, to be reported all at once after the good ones were read."""

    def __init__(self) -> None:
        self.wheres: list[Where] = []
        self.count = 0

    def add(self, file: str, line: int | None, expected: str, *, key: str | None = None, value: Any = None) -> None:
        """Count one complaint, and keep what it says while there are few."""
        self.count += 1
        if len(self.wheres) < _MOST_COMPLAINTS:
            self.wheres.append(Where(file, line, key, value, expected))

    def raise_if_any(self) -> None:
        """Raises: CirillaError: naming file and line of every complaint (the first 20)."""
        if not self.count:
            return
        lines = [_render(where) for where in self.wheres]
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines)} more")
        raise CirillaError("\n".join(lines), hint="fix or remove these lines; nothing was changed", where=self.wheres)


def _render(where: Where) -> str:
    at = where.file if where.line is None else f"{where.file}:{where.line}"
    if where.key is None:
        return f"{at}: {where.expected}"
    return f"{at}: `{where.key}` is {_shown(where.value)}: {where.expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_rows(path: Path, complaints: Complaints) -> Iterator[Row]:
    """Parse each line of ``path`` (`-` is standard input) to an object; empty lines are skipped.

    Lines that are not objects go to ``complaints``, and the rest is read on.

    Raises:
        CirillaError: the file is missing or unreadable.
    """
    name = "<stdin>" if path == STDIO else str(path)
    with _open(path, name) as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                data = _parse(raw, name, number, complaints)
                if data is not None:
                    yield Row(name, number, data)


@contextlib.contextmanager
def _open(path: Path, name: str) -> Iterator[Iterable[bytes]]:
    if path == STDIO:
        yield sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else (s.encode() for s in sys.stdin)
        return
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CirillaError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise CirillaError(f"{name}: is a folder, a file of JSON lines is expected") from None
    except PermissionError:
        raise CirillaError(f"{name}: cannot be read: permission denied") from None


def _parse(raw: bytes, name: str, number: int, complaints: Complaints) -> dict[str, Any] | None:
    try:
        data = json.loads(raw)
    except UnicodeDecodeError:
        complaints.add(name, number, "not UTF-8")
        return None
    except (json.JSONDecodeError, RecursionError) as error:
        torn = not raw.endswith(b"\n")
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        said = "half-written: the file ends inside this row" if torn else f"not JSON: {why}"
        complaints.add(name, number, said)
        return None
    if not isinstance(data, dict):
        complaints.add(name, number, f"a JSON object is expected, not {type(data).__name__}")
        return None
    if _LONE_SURROGATE.search(raw) and _has_lone_surrogate(data):
        complaints.add(name, number, "holds half of a surrogate pair (\\ud800-\\udfff), which is not text")
        return None
    return data


def _has_lone_surrogate(data: Any) -> bool:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def validate(row: Row, model: type[R], complaints: Complaints) -> R | None:
    """``row`` as ``model``, or None after telling ``complaints`` everything that is wrong with it."""
    try:
        return model.model_validate(row.data)
    except ValidationError as error:
        for misfit in error.errors():
            complaints.add(row.file, row.line, **_misfit(misfit, model))
        return None


def _misfit(misfit: Any, model: type[BaseModel]) -> dict[str, Any]:
    key = ".".join(str(part) for part in misfit["loc"]) or None
    match misfit["type"]:
        case "missing":
            return {"expected": f"`{key}` is missing"}
        case "extra_forbidden":
            close = get_close_matches(str(misfit["loc"][-1]), list(model.model_fields), n=1)
            remedy = f"; did you mean `{close[0]}`?" if close else ""
            return {"expected": f"`{key}` is not a field of a {model.__name__.lower()}{remedy}"}
        case "value_error":
            whole = {} if key is None else {"key": key, "value": misfit["input"]}
            return {"expected": str(misfit["ctx"]["error"]), **whole}
    wanted = misfit["msg"].removeprefix("Input should be ")
    return {"expected": f"must be {wanted}", "key": key, "value": misfit["input"]}


def read_records(path: Path, model: type[R]) -> Iterator[R]:
    """Every row of a file as ``model``.

    Raises:
        CirillaError: at the end, naming each line that is not one; the good rows have been yielded by then.
    """
    complaints = Complaints()
    for row in read_rows(path, complaints):
        record = validate(row, model, complaints)
        if record is not None:
            yield record
    complaints.raise_if_any()


class JsonlWriter:
    """Appends rows to a file, or to standard output for `-`; each row is one write, so a crash tears at most the last.

    Opening an existing file with ``append=True`` cuts off a torn last line first.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path, self.rows = path, 0
        if path == STDIO:
            self._file: Any = sys.stdout
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if append:
            repair_tail(path)
        self._file = path.open("a" if append else "w", buffering=1, encoding="utf-8", newline="\n")

    def write(self, row: Record | dict[str, Any]) -> None:
        """Append one row."""
        text = row.line() if isinstance(row, Record) else json.dumps(row, ensure_ascii=False)
        self._file.write(text + "\n")
        self.rows += 1
        if self.path == STDIO:
            self._file.flush()

    def sync(self) -> None:
        """Bring everything written so far onto the disk."""
        self._file.flush()
        if self.path != STDIO:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; standard output stays open."""
        self.sync()
        if self.path != STDIO:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BrokenPipeError):
            return
        self.close()


def repair_tail(path: Path) -> int:
    """Cut what follows the last line end of an append-only file; returns the bytes cut (0 where nothing was torn)."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = _last_line_end(file, size)
        if end < size:
            file.truncate(end)
    return size - end


def _last_line_end(file: Any, size: int, block: int = 65536) -> int:
    end = size
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        end = start
    return 0
