"""Several processes for one run: which of them this is, and starting them as torchrun does."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cirilla_cli.cli.options import Flags
from cirilla_cli.errors import CirillaError, InterruptedRun

if TYPE_CHECKING:
    from cirilla_cli.engine.config import Place

_TIME_TO_SAVE_S = "600"
"""How long processes that were told to stop may take to save; torchrun's own limit is half a minute."""


_GRACE_S = 20.0
"""By then a launcher has ended the processes that a failed one left behind."""


def place_of(environment: Mapping[str, str]) -> "Place | None":
    """What torchrun, or whoever sets the same variables, says of this process; None where nobody does.

    Raises:
        CirillaError: a variable is not a number.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    from cirilla_cli.engine.config import Place

    local = _number(environment, "LOCAL_RANK", 0)
    return Place(
        rank=_number(environment, "RANK", 0), size=_number(environment, "WORLD_SIZE", 1), local=local,
        local_size=_number(environment, "LOCAL_WORLD_SIZE", local + 1),
        attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )  # fmt: skip


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise CirillaError(f"the environment variable {name} is {text!r}, must be a whole number")
    return int(text)


@contextlib.contextmanager
def after_the_first() -> Iterator[None]:
    """Lets the run's first process speak of what went wrong in all; what went wrong here alone is said after it."""
    try:
        yield
    except InterruptedRun as stopped:
        raise typer.Exit(stopped.exit_code) from None
    except CirillaError:
        time.sleep(_GRACE_S)
        raise


def launch(verb: str, words: Sequence[str], flags: Flags, out: Path) -> None:
    """Run the verb in ``flags.nproc`` processes of this machine until all have ended; none is started again.

    Raises:
        CirillaError: a process was killed.
        InterruptedRun: the same, and a checkpoint stands.
        typer.Exit: a process ended with another status than 0, having said why.
    """
    import logging
    from uuid import uuid4

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    assert flags.nproc is not None
    # Its own account of a failure is two screens long, and the processes have given theirs.
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TIME_TO_SAVE_S)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // flags.nproc)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=flags.nproc, run_id=uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, logs_specs=DefaultLogsSpecs(),
    )  # fmt: skip
    before = _saved(out)
    try:
        elastic_launch(config, sys.executable)("-m", "cirilla_cli", verb, *words, *_arguments(flags))
    except ChildFailedError as error:
        failures: Mapping[int, Any] = error.failures
        raise _verdict({rank: failure.exitcode for rank, failure in failures.items()}, out) from None
    except SignalException as stop:
        now = _saved(out)
        if now != before:
            raise typer.Exit(3) from None
        raise _ended(f"stopped by {stop.sigval.name} before anything new was saved", now) from None


def _arguments(flags: Flags) -> list[str]:
    """The flags of a call as words again, but for the number of processes."""
    given = {f"--{name.replace('_', '-')}": value for name, value in asdict(flags).items() if name != "nproc"}
    named = {name: value for name, value in given.items() if value is not None and not isinstance(value, bool)}
    words = [word for name, value in named.items() for word in (name, str(value))]
    return [*words, *(name for name, value in given.items() if value is True)]


def _verdict(codes: Mapping[int, int], out: Path) -> Exception:
    """What failed processes mean for the run, from their exit codes by rank; minus the signal that ended one."""
    # Those that were left alone by a failed one are ended with SIGTERM.
    killed = {rank: -code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    said = [code for _, code in sorted(codes.items()) if code > 0]
    if said and not killed:
        return typer.Exit(said[0])
    rank, number = next(iter((killed or {rank: -code for rank, code in codes.items()}).items()))
    return _ended(f"process {rank} was ended by {signal.Signals(number).name}, and the others with it", _saved(out))


def _ended(how: str, saved: Path | None) -> CirillaError:
    """The error for a run that was ended from outside, by what is left of it."""
    if saved is None:
        return CirillaError(f"{how}; there is no checkpoint yet", hint="the same command begins again")
    return InterruptedRun(f"{how}; the last checkpoint is {saved}", hint="the same command continues")


def _saved(out: Path) -> Path | None:
    """The newest checkpoint of the run."""
    from cirilla_cli.checkpoint import Checkpoint

    newest = Checkpoint.newest(out)
    return None if newest is None else newest.path
