"""The module of tiny runs and the data they share; loaded by path, because test folders are no packages."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.progress import Silent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of one test."""
    return tmp_path_factory.mktemp("runs")


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
    out = tmp_path_factory.mktemp("tiny-start") / "run"
    train(tiny.job("pretrain", out, data), Silent())
    return out


@pytest.fixture
def run(tiny: ModuleType, data: Path, out: Path) -> Callable[..., TrainReport]:
    """Trains the tiny pretraining job into ``out``, changed as asked."""

    def go(progress: Any = None, *, restart: bool = False, insist: bool = False, **changes: Any) -> TrainReport:
        job = tiny.job("pretrain", out, changes.pop("data_from", data), **changes)
        return train(job, progress or Silent(), restart=restart, insist=insist)

    return go


@pytest.fixture
def out(memory: Path) -> Path:
    """The run directory of a test."""
    return memory / "run"
