"""Where a call of `cirilla` begins, before the command line itself is imported."""

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

INTERRUPTED = "interrupted; nothing was left to save"


def main() -> None:
    """The command line, with what makes its imports cheap done before them."""
    _fill_streams()
    # Imports make much that stays: looking through it for garbage costs a tenth of a short command. Work turns it on.
    gc.disable()
    # pydantic would look through every installed package for plugins, of which we use none: some milliseconds more.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.unraisablehook = _once_more
    try:
        from cirilla_cli.cli import allocator, app

        allocator.begin_again(sys.argv[1:], os.environ)
        app.main()
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    finally:
        # The interpreter looks for garbage once more as it ends: an eighth of a short command, of no use.
        gc.freeze()


def _fill_streams() -> None:
    """Put nothing where a stream was closed (`2>&-`): Python would print to another, and files take its number."""
    # In the order of their numbers, each of which is the lowest one free.
    sys.stdin = sys.stdin or os.fdopen(os.open(os.devnull, os.O_RDONLY))
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _once_more(lost: "UnraisableHookArgs") -> None:
    """Send a Ctrl-C again that came in a finalizer or in a weak reference's callback, where Python drops exceptions.

    Each import ends in such a callback (the one that removes its lock), and a command makes a thousand of them.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    import _thread
    import threading

    # Not from here, which is still within the callback.
    again = threading.Timer(0.05, _thread.interrupt_main)
    again.daemon = True
    again.start()
