"""Recorded completions: runs that need no server, and tests."""

from collections.abc import Mapping
from typing import Any

from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.teachers.base import Completion, Failure, Request
from cirilla_cli.teachers.config import ReplayConfig


class ReplayTeacher:
    """Answers by request id, else by the first row whose ``contains`` stands in the prompt."""

    def __init__(self, config: ReplayConfig) -> None:
        self.name = f"replay:{config.path.name}"
        self.context: int | None = None
        self.settings: Mapping[str, Any] = {}
        self.address = str(config.path)
        self._by_id: dict[str, Completion] = {}
        self._by_piece: list[tuple[str, Completion]] = []
        complaints = Complaints()
        for row in read_rows(config.path, complaints):
            if not isinstance(row.data.get("text"), str):
                complaints.add(row.file, row.line, "must be a string", key="text", value=row.data.get("text"))
                continue
            self._remember(row.data)
        complaints.raise_if_any()

    def _remember(self, data: dict[str, Any]) -> None:
        completion = Completion(data["text"], bool(data.get("cut", False)))
        if "id" in data:
            self._by_id[str(data["id"])] = completion
        else:
            self._by_piece.append((str(data.get("contains", "")), completion))

    def check(self) -> None:
        """See `Teacher.check`; a file is always there."""

    def ask(self, request: Request) -> Completion | Failure:
        """See `Teacher.ask`."""
        if request.id in self._by_id:
            return self._by_id[request.id]
        prompt = "\n".join(message.content for message in request.messages)
        found = next((completion for piece, completion in self._by_piece if piece in prompt), None)
        return found or Failure("refused", f"{self.address}: no recorded completion for request {request.id}")

    def close(self) -> None:
        """See `Teacher.close`."""
