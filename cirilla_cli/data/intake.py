"""What became of the rows that were read: as which format they were taken, which were set aside and why."""

import json
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, shown

_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\(.*\)|\d+")
"""What differs between two rows that are wrong in the same way."""


class Intake(Complaints):
    """Counts what was read. With ``rejects``, bad rows go to that file and the rest is used; without, they are refused.

    A rejected row is `{"file", "line", "reason", "text"}`, the text as it stood there.
    """

    def __init__(self, rejects: Path | None = None) -> None:
        super().__init__()
        self.formats, self.rejected, self.notes = Counter[str](), Counter[str](), Counter[str]()
        self._writer = None if rejects is None else JsonlWriter(rejects)
        self._pending: dict[str, Any] | None = None

    def add(
        self, file: str, line: int | None, expected: str, *, key: str | None = None, value: Any = None, row: Any = None
    ) -> None:
        """Count a complaint, and set its row aside; several about one row make one reject."""
        super().add(file, line, expected, key=key, value=value)
        reason = expected if key is None else f"`{key}` is {shown(value)}: {expected}"
        pending = self._pending
        if pending is not None and (pending["file"], pending["line"]) == (file, line):
            pending["reason"] += f"; {reason}"
            return
        self._set_aside()
        self._pending = {"file": file, "line": line, "reason": reason, "text": _text(row)}
        self.rejected[_PARTICULARS.sub("...", expected)] += 1

    def raise_if_any(self) -> None:
        """Raises: CirillaError: rows are wrong, and there is nowhere to set them aside."""
        self._set_aside()
        if self._writer is None:
            super().raise_if_any()

    def close(self) -> None:
        """Write what is not written yet."""
        self._set_aside()
        if self._writer is not None:
            self._writer.close()

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The three counts, the commonest first."""
        counts = {"accepted": self.formats, "rejected": self.rejected, "notes": self.notes}
        return {name: dict(count.most_common()) for name, count in counts.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set_aside(self) -> None:
        if self._pending is not None and self._writer is not None:
            self._writer.write(self._pending)
        self._pending = None


def _text(row: Any) -> str | None:
    """A row as text: bytes that are not UTF-8 as escapes, objects as JSON."""
    if isinstance(row, bytes):
        return row.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    if row is None or isinstance(row, str):
        return row
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode()
