"""What a teacher has answered so far, kept so that no request is sent twice, whatever stops the run."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, read_rows, repair_tail
from cirilla_cli.teachers.base import Completion, Failure, Request, Teacher

FILE = "journal.jsonl"
"""Its name in a folder."""


class Journal:
    """A teacher that looks into an append-only file first; raw answers stand in it, checks are made anew each run.

    Answers are on the disk before they are used. Failures are not kept: the next run asks again.
    """

    def __init__(self, teacher: Teacher, path: Path | None) -> None:
        self.name, self.teacher = teacher.name, teacher
        self.found = 0
        self._known: dict[str, Completion] = {}
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
            ServiceError: no server answers (found out before the first request that is sent).
        """
        id_ = request.id
        if id_ in self._known:
            return self._known[id_]
        with self._check_lock:
            if not self._checked:
                self.teacher.check()
                self._checked = True
        answer = self.teacher.ask(request)
        if isinstance(answer, Completion):
            with self._lock:
                self._keep(id_, answer)
        return answer

    def _keep(self, id_: str, answer: Completion) -> None:
        self._known[id_] = answer
        if self._writer is not None:
            row = {"id": id_, "teacher": self.name, "text": answer.text, "cut": answer.cut}
            self._writer.write({**row, "prompt_tokens": answer.prompt_tokens, "tokens": answer.tokens})
            self._writer.sync()

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        repair_tail(path)
        complaints = Complaints()
        for row in read_rows(path, complaints):
            data = row.data
            if data.get("teacher") == self.name and isinstance(data.get("text"), str):
                self._known[str(data["id"])] = Completion(
                    data["text"], bool(data.get("cut")), data.get("prompt_tokens"), data.get("tokens")
                )
        complaints.raise_if_any()
        self.found = len(self._known)
