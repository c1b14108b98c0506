"""Where a call of `cirilla` begins, before the command line itself is imported."""

import gc
import os
import sys


def main() -> None:
    """The command line, with what makes its imports cheap done before them."""
    # Imports make much that stays: looking through it for garbage costs a tenth of a short command. Work turns it on.
    gc.disable()
    # pydantic would look through every installed package for plugins, of which we use none: some milliseconds more.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from cirilla_cli.cli import allocator, app

    allocator.begin_again(sys.argv[1:], os.environ)
    try:
        app.main()
    finally:
        # The interpreter looks for garbage once more as it ends: an eighth of a short command, of no use.
        gc.freeze()
