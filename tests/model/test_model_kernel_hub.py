"""The door to the kernel hub stays shut until somebody asks."""

import subprocess
import sys
from types import ModuleType

import pytest

from cirilla_cli.model.ops.kernel_hub import MEGABLOCKS


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernels", None)
    assert MEGABLOCKS.fetched() is None


def test_a_kernel_is_asked_for_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kernel, package = [], object(), ModuleType("kernels")

    def get_kernel(name: str, *, version: int) -> object:
        asked.append((name, version))
        return kernel

    package.get_kernel = get_kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", package)
    assert MEGABLOCKS.fetched() is kernel
    assert asked == [("kernels-community/megablocks", 1)]


def test_importing_the_library_asks_for_no_kernel() -> None:
    """Every module of it, in a process of its own: neither the hub's package nor a kernel is imported."""
    program = (
        "import pkgutil, importlib, sys, cirilla_cli.model as m\n"
        "[importlib.import_module(i.name) for i in pkgutil.walk_packages(m.__path__, 'cirilla_cli.model.')]\n"
        "print([n for n in ('kernels', 'megablocks', 'mamba_ssm', 'huggingface_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
