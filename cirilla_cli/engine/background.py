"""Work beside the training, one piece at a time."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Background:
    """Runs one piece of work at a time in a thread; what it raises comes out at the next call.

    Leaving the block waits for the piece that is under way, whatever ended the block, except for a second Ctrl-C,
    which ends the program at once: the thread is a daemon.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()

    @property
    def busy(self) -> bool:
        """Whether a piece is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin ``work`` once the piece before it has ended.

        Raises:
            BaseException: what that piece raised; then ``work`` is not begun.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once nothing is under way; raises what the last piece raised."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise what a piece that has ended raised, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again where the training sees it
            self._error = error
