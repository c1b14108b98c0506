"""The module of tiny runs and the data they share; loaded by path, because test folders are no packages."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cirilla_cli.progress import Silent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    return sys.modules.get("tiny") or _load()


@pytest.fixture(scope="session")
def data(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of text, chats and preferences, and their tokenizer."""
    return tiny.make_data(tmp_path_factory.mktemp("tiny-data"))


@pytest.fixture(scope="session")
def started(tiny: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a model of six steps, for others to start from."""
    from cirilla_cli.engine.run import train

    out = tmp_path_factory.mktemp("tiny-start") / "run"
    train(tiny.job("pretrain", out, data), Silent())
    return out
