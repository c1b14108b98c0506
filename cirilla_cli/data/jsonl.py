"""The one reader and the one writer of JSON lines; every complaint names file and line."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from cirilla_cli.data.fits import Sieve, is_whole
from cirilla_cli.data.rows import Record
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.fs import named, naming

R = TypeVar("R", bound=Record)


class SupportsClose(Protocol):
    """A file, or a writer of one."""

    def close(self) -> object:
        """Bring everything onto the disk."""


STDIO = Path("-")
"""Stands for standard input or output wherever a file is named."""

_SHOWN = 20
"""Complaints that are printed in full; of the others, file and line."""
_KEPT = 10_000
"""Complaints of which file and line are kept; of those beyond, the number."""
_AT_ONCE = 64
"""Lines that are checked together; where one is wrong, all of them are looked at one by one."""
_TOO_LONG = "not JSON: a number of more than 4,300 digits"
"""Python converts no more."""
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BOM = b"\xef\xbb\xbf"

_decode = msgspec.json.Decoder().decode


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

    def add(
        self, file: str, line: int | None, expected: str, *, key: str | None = None, value: Any = None, row: Any = None
    ) -> None:
        """Count one complaint, and keep what it says while there are few; ``row`` is what it is about."""
        self.count += 1
        if len(self.wheres) < _KEPT:
            self.wheres.append(Where(file, line, key, value, expected))

    def raise_if_any(self) -> None:
        """Raises: CirillaError: naming file and line of every complaint, the first 20 in full."""
        if not self.count:
            return
        lines = [_render(where) for where in self.wheres[:_SHOWN]]
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines)} more: {_places(self.wheres[_SHOWN:])}")
        if self.count > len(self.wheres):
            lines.append(f"... of which {self.count - len(self.wheres)} are not listed")
        raise CirillaError("\n".join(lines), hint=f"{_remedy(self.wheres)}; nothing was changed", where=self.wheres)


def _remedy(wheres: Sequence[Where]) -> str:
    """What to do: a complaint without a line is about its whole file."""
    ways = {"fix or leave out these files" if where.line is None else "fix or remove these lines" for where in wheres}
    return ", ".join(sorted(ways, reverse=True))


def _places(wheres: Sequence[Where]) -> str:
    """`a.jsonl line 3, 7-9; b.jsonl line 2`."""
    files: dict[str, list[list[int]]] = {}
    for where in wheres:
        runs, line = files.setdefault(where.file or "", []), where.line
        if line is not None and runs and runs[-1][1] in (line, line - 1):
            runs[-1][1] = line
        elif line is not None:
            runs.append([line, line])
    return "; ".join(f"{file} line {_runs(runs)}" if runs else file for file, runs in files.items())


def _runs(runs: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _render(where: Where) -> str:
    at = where.file if where.line is None else f"{where.file}:{where.line}"
    if where.key is None:
        return f"{at}: {where.expected}"
    return f"{at}: `{where.key}` is {shown(where.value)}: {where.expected}"


def shown(value: Any) -> str:
    """A value as complaints show it."""
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
        yield from parsed(file, name, 1, complaints)


def last_of_kind(journal: Path, kind: str) -> dict[str, Any]:
    """The newest row of that `kind` in a journal; empty where there is none."""
    if not journal.is_file():
        return {}
    found = [row.data for row in read_rows(journal, Complaints()) if row.data.get("kind") == kind]
    return found[-1] if found else {}


def parsed(lines: Iterable[bytes], name: str, first: int, complaints: Complaints) -> Iterator[Row]:
    """The objects in lines of which the first has the number ``first``."""
    for number, raw in enumerate(lines, first):
        if raw.strip():
            data = parse(raw, name, number, complaints)
            if data is not None:
                yield Row(name, number, data)


def doubtful_rows(path: Path, sieve: Sieve, complaints: Complaints) -> Iterator[Row]:
    """`read_rows` without the stretches of lines that ``sieve`` takes, and counts, as they are."""
    name, number = str(path), 1
    with _open(path, name) as file:
        several = iter(file)
        while lines := list(islice(several, _AT_ONCE)):
            if not sieve.takes(lines):
                yield from parsed(lines, name, number, complaints)
            number += len(lines)


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
        raise CirillaError(f"{name}: cannot be read: permission denied", hint=f"chmod u+r {name}") from None


def parse(raw: bytes, name: str, number: int, complaints: Complaints) -> dict[str, Any] | None:
    """The object in a line, or None after a complaint.

    What is not `sound` is read again by `json`, which says what is wrong, or takes what msgspec does not (NaN, numbers
    beyond its range).
    """
    data = sound(raw)
    return data if data is not None else _parse_slowly(raw, name, number, complaints)


def sound(raw: bytes) -> dict[str, Any] | None:
    """The object in a line that is certainly right; None for others, which may yet be right."""
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return data if type(data) is dict and is_whole(raw, data) else None


def _parse_slowly(raw: bytes, name: str, number: int, complaints: Complaints) -> dict[str, Any] | None:
    twice: list[str] = []
    try:
        text = (raw.removeprefix(_BOM) if number == 1 else raw).decode()
        data = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, twice))
    except UnicodeDecodeError:
        complaints.add(name, number, "not UTF-8", row=raw)
        return None
    except (json.JSONDecodeError, RecursionError) as error:
        torn = not raw.endswith(b"\n")
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        said = "half-written: the file ends inside this row" if torn else f"not JSON: {why}"
        complaints.add(name, number, said, row=raw)
        return None
    except ValueError:
        complaints.add(name, number, _TOO_LONG, row=raw)
        return None
    problem = _problem(raw, data, twice)
    if problem is not None:
        complaints.add(name, number, problem, row=raw)
        return None
    return dict(data)


def parse_whole(path: Path, complaints: Complaints) -> Any:
    """The one JSON value of a file, or None after a complaint."""
    with _open(path, str(path)) as file:
        raw = b"".join(file)
    twice: list[str] = []
    try:
        data = json.loads(raw.removeprefix(_BOM).decode(), object_pairs_hook=lambda pairs: _once(pairs, twice))
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        complaints.add(str(path), error.lineno, f"not JSON: {error.msg}")
        return None
    except RecursionError:
        complaints.add(str(path), None, "not JSON: nested too deeply")
        return None
    except UnicodeError:
        complaints.add(str(path), None, "not UTF-8, or half of a surrogate pair in it")
        return None
    except ValueError:
        complaints.add(str(path), None, _TOO_LONG)
        return None
    if twice:
        complaints.add(str(path), None, f"`{twice[0]}` stands twice in one object, and only one value can count")
        return None
    return data


def _once(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice += [name for name in data if names.count(name) > 1]
    return data


_NAMES = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}


def _problem(raw: bytes, data: Any, twice: Sequence[str]) -> str | None:
    if not isinstance(data, dict):
        return f"a JSON object is expected, not {_NAMES[type(data)]}"
    if twice:
        return f"`{twice[0]}` stands twice in one object, and only one value can count"
    try:
        if _LONE_SURROGATE.search(raw) and _has_lone_surrogate(data):
            return "holds half of a surrogate pair (\\ud800-\\udfff), which is not text"
    except RecursionError:
        return "not JSON: nested too deeply"
    return None


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
            complaints.add(row.file, row.line, **_misfit(misfit, model), row=row.data)
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
        self._shown = Path("<stdout>") if path == STDIO else path
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
        try:
            self._file.write(text + "\n")
            if self.path == STDIO:
                self._file.flush()
        except OSError as error:
            raise named(error, self._shown) from None
        self.rows += 1

    def sync(self) -> None:
        """Bring everything written so far onto the disk."""
        with naming(self._shown):
            self._file.flush()
            if self.path != STDIO:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; standard output stays open."""
        try:
            self.sync()
        finally:
            if self.path != STDIO:
                with naming(self._shown):
                    self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BrokenPipeError):
            return
        self.close()


def close_all(files: Iterable[SupportsClose]) -> None:
    """Close every one, also where one of them has no room left; what went wrong last is raised."""
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(file.close)


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
