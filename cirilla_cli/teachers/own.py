"""A checkpoint of one's own, which answers in this process: the one file here that knows of models."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cirilla_cli.data.rows import Message
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_path
from cirilla_cli.teachers.base import Completion, Failure, Request
from cirilla_cli.teachers.config import OwnConfig

_NOT_RAW = "a model of one's own takes no raw prompts: leave out strategy.template"


class OwnTeacher:
    """`ask` lets the model take the next turn, one request at a time; nothing holds it to the schema.

    The same request gives the same answer: a batch of its own, and random choices by its seed alone.
    """

    def __init__(self, config: OwnConfig) -> None:
        """Load the model.

        Raises:
            CirillaError: there is none that continues text, it knows no conversations, or there is no such device.
        """
        from cirilla_cli.compat import device_problem, pick_device
        from cirilla_cli.infer.run import dtype_of
        from cirilla_cli.loading import load_model

        if problem := device_problem(config.device):
            raise CirillaError(f"`teacher.device` is {config.device!r}: {problem}", hint="leave it out")
        device = pick_device(config.device)
        dtype = dtype_of(config.dtype, device)
        self.config, self._lock = config, threading.Lock()
        self._loaded = load_model(config.path, device=device, dtype=dtype)
        self._ids([Message(role="system", content="?"), Message(role="user", content="?")])
        # By content, so that a folder that moves keeps its answers, and one that is trained on does not.
        self.name = f"own:{hash_path(self._loaded.path)[:16]}"
        self.context: int | None = self._loaded.config.context_length
        self.settings: Mapping[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
        self.address = str(config.path)

    def check(self) -> None:
        """See `Teacher.check`; it was loaded, so it answers."""

    def ask(self, request: Request) -> Completion | Failure:
        """See `Teacher.ask`; a model is never busy, slow or away."""
        if request.until:
            return Failure("refused", _NOT_RAW)
        from cirilla_cli.infer.config import GenerateConfig
        from cirilla_cli.infer.prompt import Prompt
        from cirilla_cli.infer.run import generate

        ids, context = self._ids(request.messages), self._loaded.config.context_length
        needed = len(ids) + request.max_tokens
        if needed > context:
            return Failure("context", f"prompt and answer need {needed} tokens, the model's context holds {context}")
        config = GenerateConfig(
            max_new_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed,
            dtype=self.config.dtype,
        )  # fmt: skip
        with self._lock:
            (answer,) = generate(config, self._loaded, [Prompt(ids=tuple(ids))])
        return Completion(answer.text or "", answer.finish_reason == "length", len(ids), len(answer.tokens))

    def close(self) -> None:
        """See `Teacher.close`; there are no connections."""

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """The conversation in the model's own template, up to where its turn begins."""
        tokenizer = self._loaded.tokenizer
        if tokenizer is None:
            raise CirillaError(f"{self.config.path}: a teacher reads text, and there is no tokenizer in this folder")
        return tokenizer.chat(messages, generation_prompt=True).ids
