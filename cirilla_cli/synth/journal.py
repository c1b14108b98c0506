"""What a teacher has answered so far, kept so that no request is sent twice, whatever stops the run."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, read_rows, repair_tail
from cirilla_cli.errors import CirillaError
from cirilla_cli.synth.base import Spent
from cirilla_cli.synth.cache import Cache
from cirilla_cli.teachers.base import Completion, Failure, Request, Teacher

FILE = "journal.jsonl"
"""Its name in a folder."""


class Journal:
    """A teacher that looks into an append-only file first; raw answers stand in it, checks are made anew each run.

    Answers are on the disk before they are used, under the hash of all that was sent. Failures are not kept: the next
    run asks again. Answers that another teacher gave, or the same under other settings, are left where they are. What
    other runs were answered, if they share it, is looked up before anybody is asked.
    """

    def __init__(
        self, teacher: Teacher, path: Path | None, cache: Cache | None = None, also: Callable[[], None] = lambda: None
    ) -> None:
        self.name, self.teacher = teacher.name, teacher
        self._cache, self._also = cache, also
        self.told = f"{teacher.name} at {teacher.address}"
        self.found = 0
        self.spent = Spent()
        self._known: dict[str, Completion] = {}
        self._digest: str | None = None
        self._digests: set[str] = set()
        """Of the models behind the answers that were found."""
        self._lock, self._check_lock, self._checked = threading.Lock(), threading.Lock(), False
        self._writer: JsonlWriter | None = None
        if path is not None:
            self._load(path)
            self._writer = JsonlWriter(path, append=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self.teacher.close()

    def ask(self, request: Request) -> Completion | Failure:
        """The answer on record, or a new one.

        Raises:
            ServiceError, CirillaError: see `check`.
        """
        id_ = request.id
        if id_ in self._known:
            with self._lock:
                self.spent.on_record += 1
            return self._known[id_]
        shared = None if self._cache is None else self._cache.get(request)
        if shared is not None:
            with self._lock:
                self.spent.on_record += 1
                self._keep(id_, shared)
            return shared
        self.check()
        start = time.monotonic()
        answer = self.teacher.ask(request)
        if self._cache is not None and isinstance(answer, Completion):
            self._cache.put(request, answer)
        with self._lock:
            self._count(answer, time.monotonic() - start)
            if isinstance(answer, Completion):
                self._keep(id_, answer)
        return answer

    def check(self) -> None:
        """Make sure of the teacher, and of whom ``also`` asks, before the first request that is sent: once.

        Raises:
            ServiceError: no server answers, or it has no such model.
            CirillaError: the name means another model than when the answers on record were given.
        """
        with self._check_lock:
            if not self._checked:
                self._digest = self._same(self.teacher.check())
                self._also()
                self._checked = True

    def _same(self, digest: str | None) -> str | None:
        """The model's hash, where the answers on record are not another's."""
        if digest is None or self._digests <= {digest}:
            return digest
        others = ", ".join(sorted(one[:12] for one in self._digests))
        raise CirillaError(
            f"{self.told} is {digest[:12]} now, the answers on record are from {others}: another model by that name",
            hint="--fresh starts over; to go on, give the server the earlier model",
        )

    def _count(self, answer: Completion | Failure, seconds: float) -> None:
        self.spent.asked += 1
        self.spent.seconds += seconds
        if isinstance(answer, Failure):
            self.spent.failed += 1
            return
        self.spent.prompt_tokens += answer.prompt_tokens or 0
        self.spent.tokens += answer.tokens or 0

    def _keep(self, id_: str, answer: Completion) -> None:
        self._known[id_] = answer
        if self._writer is not None:
            row = {"id": id_, "teacher": self.name, "text": answer.text, "cut": answer.cut}
            row |= {"settings": dict(self.teacher.settings)} if self.teacher.settings else {}
            row |= {"digest": self._digest} if self._digest else {}
            self._writer.write({**row, "prompt_tokens": answer.prompt_tokens, "tokens": answer.tokens})
            self._writer.sync()

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        repair_tail(path)
        complaints = Complaints()
        for row in read_rows(path, complaints):
            if self._is_own(row.data):
                used = row.data.get("prompt_tokens"), row.data.get("tokens")
                self._digests |= {str(row.data["digest"])} if row.data.get("digest") else set()
                self._known[str(row.data["id"])] = Completion(row.data["text"], bool(row.data.get("cut")), *used)
        complaints.raise_if_any()
        self.found = len(self._known)

    def _is_own(self, data: Mapping[str, Any]) -> bool:
        told = data.get("teacher"), data.get("settings", {})
        return told == (self.name, dict(self.teacher.settings)) and {"id", "text"} <= set(data)
