"""What the whole suite shares: shapes are checked against the suffixes of parameter names wherever the model runs."""

import functools
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SUFFIX = re.compile(r"_([A-Z0-9]+)$")
_MEMORY, _ROOM = Path("/dev/shm"), 4 << 30


def _prepare(environment: MutableMapping[str, str]) -> None:
    """Workers (`pytest -n 2`) share the processors instead of each taking all.

    Files are made in memory, where there is room: nothing here outlives the machine, and syncing them to a disk, as
    shards and checkpoints do over and over, would take most of the time.
    """
    workers = environment.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is not None:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
    # Each process that compiles would start others, each of which imports torch, for what one does as fast here.
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        environment.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


_prepare(os.environ)  # before another conftest imports torch, which looks at once


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start hear Ctrl-C."""
    # A shell that starts the suite in its background lets it ignore the signal, and whatever it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end a worker that still has one would leave the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _shapes_are_as_named() -> Iterator[None]:
    """Every tensor that the model library gets under a name like `x_BTD` has those axes; runs without torch stay so."""
    if "torch" not in sys.modules:
        yield
        return
    package = importlib.import_module("cirilla_cli.model")
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    restore = [undo for module in modules for undo in wrap_module(module)]
    yield
    for undo in restore:
        undo()


def wrap_module(module: ModuleType) -> list[Callable[[], None]]:
    """Check every function and method that ``module`` defines; returns what undoes it."""
    undo = []
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            undo += [_replace(m, k, checked(value)) for m, k in _bindings(name, value)]
        elif inspect.isclass(value) and not hasattr(value, "apply"):  # autograd functions are reached through callers
            methods = [(k, f) for k, f in vars(value).items() if inspect.isfunction(f)]
            undo += [_replace(value, k, checked(f)) for k, f in methods]
    return undo


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, failing where a tensor is not what the suffix of its parameter (or of the function) says."""
    from torch.compiler import is_compiling

    found = [(i, n, _SUFFIX.search(n)) for i, n in enumerate(inspect.signature(function).parameters)]
    axes = [(i, n, match[1]) for i, n, match in found if match]
    result = _SUFFIX.search(function.__name__)

    @functools.wraps(function)
    def wrapper(*args: Any, **keys: Any) -> Any:
        if is_compiling():  # a compiler would follow the checks, and stop at them
            return function(*args, **keys)
        sizes: dict[str, int] = {}
        for i, name, letters in axes:
            check(keys.get(name, args[i] if i < len(args) else None), name, letters, sizes)
        out = function(*args, **keys)
        if result:
            check(out, function.__name__, result[1], sizes)
        return out

    return wrapper if axes or result else function


def check(value: Any, name: str, letters: str, sizes: dict[str, int]) -> None:
    """One axis a letter, and one size a letter within a call; a digit is the size itself."""
    import torch

    if not isinstance(value, torch.Tensor):
        return
    shape = tuple(value.shape)
    assert len(shape) == len(letters), f"`{name}` has shape {shape}, its name says {len(letters)} axes"
    for letter, size in zip(letters, shape, strict=True):
        wanted = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
        assert size == wanted, f"`{name}` has shape {shape}, {letter} is {wanted} in this call"


def _bindings(name: str, function: Callable[..., Any]) -> list[tuple[ModuleType, str]]:
    """Every loaded module that knows ``function`` by this name: its own, and those that imported it from there."""
    return [
        (m, name) for m in list(sys.modules.values()) if isinstance(m, ModuleType) and vars(m).get(name) is function
    ]


def _replace(owner: Any, name: str, new: Any) -> Callable[[], None]:
    old = vars(owner)[name]
    setattr(owner, name, new)
    return lambda: setattr(owner, name, old)
