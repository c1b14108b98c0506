"""How long work tells whoever watches what it is doing; areas call it, the command line draws it."""

from typing import Protocol


class Progress(Protocol):
    """A listener; both methods are cheap and never raise."""

    def say(self, text: str) -> None:
        """One line worth reading, such as what was chosen or dropped."""

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        """``done`` of ``total`` (None: unknown) units of ``what``; ``figures`` are shown beside it (loss, rate)."""


class Silent:
    """Listens and shows nothing."""

    def say(self, text: str) -> None:
        """Does nothing."""

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        """Does nothing."""


SILENT = Silent()
"""For callers who do not want to watch."""
