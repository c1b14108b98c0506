"""The `cirilla` command: its verbs, and how an error reaches the terminal.

Nothing heavy is imported here or by the modules of verbs: each imports what it needs inside its body. A call that names
its verb imports that verb's module only.
"""

import errno
import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cirilla_cli import __version__
from cirilla_cli.cli.start import INTERRUPTED
from cirilla_cli.errors import CirillaError, UsageError, Where
from cirilla_cli.fs import NO_ROOM, is_text

_WRONG_CALL: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for an unknown flag or a value of the wrong type; its own name is not public."""

_REFUSED = NO_ROOM | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP}
"""What the system says no to without anybody's code being wrong."""

_PANELS = {
    "Start": ["run", "init", "runs"],
    "Data": ["scrape", "synth", "curate", "tokenize"],
    "Train": ["pretrain", "sft", "dpo", "sweep"],
    "Use": ["report", "eval", "generate", "push", "trace", "why"],
    "Recipes": ["plan", "recipe"],
}


class _Grouped(TyperGroup):
    """Lists the verbs under the part of the work they belong to, and leaves quietly when a pipe closes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Caught here because Typer's own main would turn it into exit status 1.
            _leave(0)
        except KeyboardInterrupt as interrupt:
            # Typer's own main would leave without a word.
            from cirilla_cli.cli.render import tell

            tell(str(interrupt) or INTERRUPTED)
            _leave(130)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = formatter.width - 16
        for title, names in _PANELS.items():
            rows = [(name, self.commands[name].get_short_help_str(width)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cirilla {__version__}")
        raise typer.Exit


def cirilla(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a language model of your own, from a wiki to a model that answers.

    Begin with `cirilla run quickstart`: the whole way on a CPU, in minutes.
    """


_VERBS = {
    "run": "project", "init": "project", "runs": "project", "scrape": "data", "synth": "data", "curate": "data",
    "tokenize": "data",
    "pretrain": "train", "sft": "train", "dpo": "train", "eval": "use", "generate": "use", "push": "use",
    "sweep": "sweep", "plan": "counting", "report": "reporting", "recipe": "recipes",
    "trace": "tracing", "why": "tracing",
}  # fmt: skip
"""The module that each verb stands in, in `COMMANDS` or, with verbs of its own, as `app`."""


def program(*verbs: str) -> typer.Typer:
    """The command line with ``verbs``, with all of them where none is named."""
    # Plain help: Typer's Rich mode imports Rich to print a list of names, which more than doubles `--help`.
    app = typer.Typer(
        name="cirilla", cls=_Grouped, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]}, callback=cirilla,
    )  # fmt: skip
    for verb in verbs or _VERBS:
        module = import_module(f"cirilla_cli.cli.{_VERBS[verb]}")
        if verb == "recipe":
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(module.COMMANDS[verb])
    return app


def _named(words: list[str]) -> list[str]:
    """The verb that a call begins with, as a list; empty where it begins with an option, or with no verb."""
    return [word for word in words[:1] if word in _VERBS]


def main() -> None:
    """Run a call: a `CirillaError` is one message and its exit status; anything else is a bug with its traceback."""
    as_json = "--json" in sys.argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold bytes that are not text: shown as escapes, as they are on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_text(sys.argv[1:])
        # Typer prints usage errors itself only in its standalone mode; a machine gets them as it gets all others.
        _leave(program(*_named(sys.argv[1:]))(standalone_mode=not as_json) or 0)
    except CirillaError as error:
        _refuse(error, as_json)
    except _WRONG_CALL as error:
        message: Any = error
        _refuse(UsageError(message.format_message(), hint="cirilla --help; cirilla VERB --help"), as_json)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _refuse(_told(error), as_json)


def _told(error: OSError) -> CirillaError:
    """What the system said no to, with the remedy where there is one."""
    if error.errno in NO_ROOM:
        # Whoever writes a file names it in the error; what is printed has no name.
        said = f"{error.filename or 'standard output'}: {error.strerror}"
        return CirillaError(said, hint="make room there, or --out on another disk; then run the same command again")
    return CirillaError(f"{error.filename or 'the system'}: {error.strerror}")


def _check_text(words: list[str]) -> None:
    """Raises: CirillaError: naming each argument that is not text, which no recipe, row or prompt can hold."""
    wheres = []
    for number, word in enumerate(words):
        if not is_text(word):
            # `--key=value` and `key=value` name themselves, a value may follow its flag, all others are counted.
            before = words[number - 1] if number and words[number - 1].startswith("-") else f"argument {number + 1}"
            wheres.append(Where(key=word.partition("=")[0] if "=" in word else before, expected="UTF-8 text"))
    if wheres:
        # The values are not repeated: one may be a key to a service.
        lines = [f"`{where.key}` holds bytes that are not UTF-8 text" for where in wheres]
        raise CirillaError("\n".join(lines), hint="the terminal or the script may use another encoding", where=wheres)


def _refuse(error: CirillaError, as_json: bool) -> NoReturn:
    from cirilla_cli.cli.render import show_error

    try:
        show_error(error, as_json=as_json)
    except OSError as lost:
        # Where nobody listens any more, the exit status says it alone.
        if as_json and lost.errno in NO_ROOM:
            show_error(error, as_json=False)
    _leave(error.exit_code)


def _leave(code: int) -> NoReturn:
    """Exit without a complaint when Python flushes its streams, of which the other end may have closed.

    Raises:
        OSError: what was printed is lost for want of room, and the call would have been a success.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # Else what is left in it would be tried, and complained about, once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code == 0 and error.errno in NO_ROOM and stream is sys.stdout:
                raise
    sys.exit(code)
