"""Requests to models that write text for us, and their answers; failures are values, told apart by kind."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

from cirilla_cli.data.rows import Message, short_id

FailureKind = Literal["transport", "busy", "slow", "context", "refused"]

_SLOW_TRIES = 2

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a teacher; equal requests have equal ids on every machine."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    """JSON schema the answer must follow."""
    max_tokens: int = 1024
    temperature: float = 0.3
    seed: int = 0
    until: str = ""
    """Where not empty, the one message is a raw prompt without any chat template, to be continued up to these words."""

    @property
    def id(self) -> str:
        """Hash of everything sent but the model's name."""
        raw = (self.until,) if self.until else ()
        return short_id("request", self.messages, self.schema, self.max_tokens, self.temperature, self.seed, *raw)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a teacher wrote; ``cut`` says that it ran out of tokens."""

    text: str
    cut: bool = False
    prompt_tokens: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer, and why: transport (no connection, broken answer), busy, slow (no answer in time), context (the prompt
    does not fit), refused (the server rejects the request)."""

    kind: FailureKind
    detail: str
    wait_s: float = 0.0
    """How long the server asked to wait before another try."""


class Teacher(Protocol):
    """A model that writes text; `ask` may be called from several threads."""

    name: str
    """What stands in samples: kind and model."""
    context: int | None
    """Tokens that prompt and answer may take together; None where nobody counts."""
    settings: Mapping[str, Any]
    """What else decides its answers, beside the request: answers given under other settings are not its own."""
    address: str
    """Where it was looked for."""

    def check(self) -> str | None:
        """Make sure that it answers at all.

        Returns:
            The hash of the model behind the name, where the server tells.

        Raises:
            ServiceError: with the address tried and how to start a server, or get the model where it lists its own.
        """

    def ask(self, request: Request) -> Completion | Failure:
        """One answer, after waiting for a busy or absent server within the section's patience.

        Raises:
            ServiceError: no further request can succeed: the model is missing, the key is not taken.
        """

    def close(self) -> None:
        """Let connections go."""


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """(item, result) in order of completion; no more than ``2 * workers`` items are taken ahead of the results.

    When the caller stops reading, items under way end by themselves and no new ones begin.
    """
    rest = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="teacher")
    waiting: dict[Future[R], T] = {}
    try:
        while True:
            for item in islice(rest, 2 * workers - len(waiting)):
                waiting[pool.submit(work, item)] = item
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def patiently(
    once: Callable[[], Completion | Failure], patience_s: float, sleep: Callable[[float], None] = time.sleep
) -> Completion | Failure:
    """Repeat ``once`` with growing pauses while the server is busy or away, up to ``patience_s`` of waiting in all.

    A server that is slow is asked once more and no oftener: each try costs the whole time-out.
    """
    waited, pause, slow = 0.0, 0.5, 0
    while True:
        answer = once()
        if isinstance(answer, Completion) or answer.kind in ("context", "refused"):
            return answer
        slow += answer.kind == "slow"
        wait_s = max(pause, answer.wait_s)
        if slow == _SLOW_TRIES or waited + wait_s > patience_s:
            return answer
        sleep(wait_s)
        waited, pause = waited + wait_s, min(2 * pause, 30.0)


def estimated_tokens(messages: Iterable[Message]) -> int:
    """A cautious guess: a token for every three bytes of UTF-8, and eight a turn for the template.

    Bytes and not characters: a Chinese character is three bytes and about one token.
    """
    return sum(len(message.content.encode("utf-8", "replace")) // 3 + 8 for message in messages)


def overflow(request: Request, context: int) -> Failure | None:
    """A failure where prompt and answer cannot fit into ``context`` tokens, which servers cut without a word."""
    needed = estimated_tokens(request.messages) + request.max_tokens
    if needed <= context:
        return None
    return Failure("context", f"prompt and answer need about {needed} tokens, the context holds {context}")


class PerThread:
    """One object a thread, made when first asked for: connections are not shared between threads."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._local = make, threading.local()

    def get(self) -> Any:
        """This thread's object."""
        if getattr(self._local, "made", None) is None:
            self._local.made = self._make()
        return self._local.made
