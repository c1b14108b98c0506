"""What can go wrong that is not our bug: one message, one hint, one exit code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Where:
    """One place a complaint points at; printed as ``file:line: `key` is VALUE: what is expected``."""

    file: str | None = None
    line: int | None = None
    key: str | None = None
    value: Any = None
    expected: str | None = None


class CirillaError(Exception):
    """A user's mistake or a failed check: printed without a traceback.

    Args:
        message: what is wrong, one line a complaint, each beginning with ``file:line:`` where there is one.
        hint: the next thing to do, if there is one.
        where: the same complaints for machines (`--json`).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, where: Sequence[Where] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.where = tuple(where)


class UsageError(CirillaError):
    """The call itself is wrong: a flag that contradicts another."""

    exit_code = 2


class InterruptedRun(CirillaError):
    """The user stopped a run, and its state is saved."""

    exit_code = 3


class ServiceError(CirillaError):
    """Something outside this program failed: a wiki, a teacher, the Hub."""

    exit_code = 4


def missing_extra(package: str, extra: str) -> CirillaError:
    """The error for an optional package that is not installed."""
    return CirillaError(f"this needs the package `{package}`", hint=f"pip install 'cirilla-cli[{extra}]'")
