"""Whether the disk has room is known before the first step."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cirilla_cli.engine import room
from cirilla_cli.engine.config import (
    AdamWConfig,
    AverageConfig,
    CheckpointingConfig,
    DivergenceConfig,
    EvaluationConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import TrainReport
from cirilla_cli.errors import CirillaError

BATCH = {"steps": 4, "batch_tokens": 256, "micro_batch_tokens": 128}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes the disk has."""

    def set_to(bytes_free: int) -> None:
        monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=bytes_free))

    return set_to


def _asked(error: CirillaError) -> int:
    """Checkpoints that the message counts."""
    match = re.search(r"up to (\d+) checkpoints", str(error))
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize(
    ("changes", "count", "each"),
    [
        ({}, 3, 3),
        ({"eval": EvaluationConfig(every=2)}, 4, 3),
        ({"train": TrainConfig(ema=AverageConfig(), **BATCH)}, 3, 4),
        ({"train": TrainConfig(divergence=DivergenceConfig(action="rollback"), **BATCH)}, 6, 3),
        ({"train": TrainConfig(divergence=DivergenceConfig(), **BATCH)}, 3, 3),
    ],
)
def test_a_disk_is_refused_for_one_byte_too_few(
    changes: dict[str, object], count: int, each: int, run: Callable[..., TrainReport], out: Path, tiny: ModuleType,
    free: Callable[[int], None],
) -> None:  # fmt: skip
    """By hand: a parameter has its weight, AdamW's two moments and its average if there is one, in four bytes each."""
    usual = {"optim": AdamWConfig(), "train": TrainConfig(**BATCH), "checkpoint": CheckpointingConfig(every=2, keep=2)}
    free(0)
    with pytest.raises(CirillaError) as caught:
        run(**{**usual, **changes})
    assert _asked(caught.value) == count
    assert "checkpoint.keep=1" in str(caught.value.hint)
    assert not (out / "metrics.jsonl").exists()
    parameters = _parameters()
    wanted = count * each * 4 * parameters
    free(wanted - 1)
    with pytest.raises(CirillaError, match="are free"):
        run(**{**usual, **changes})
    free(wanted)
    assert run(**{**usual, **changes}).step == 4


def _parameters() -> int:
    """Of the tiny decoder with its 340 ids, by hand: embedding (the head too), three norms, attention, SwiGLU."""
    width, hidden, ids = 16, 24, 340
    return ids * width + 3 * width + 4 * width * width + 3 * width * hidden


def test_what_stands_already_is_not_asked_for_again(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, free: Callable[[int], None]
) -> None:
    often = CheckpointingConfig(every=1, keep=2, every_time=None)
    with pytest.raises(CirillaError, match="stopped after step 3"):
        run(tiny.interrupt_after(3), train=TrainConfig(**BATCH), checkpoint=often)
    free(0)
    with pytest.raises(CirillaError, match="are free"):
        run(train=TrainConfig(**BATCH), checkpoint=often)
    free(12 * _parameters())
    assert run(train=TrainConfig(**BATCH), checkpoint=often).step == 4


def test_a_mirror_on_the_same_disk_wants_its_own_room(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, memory: Path, free: Callable[[int], None]
) -> None:
    mirrored = CheckpointingConfig(every=2, keep=1, every_time=None, mirror=f"dir:{memory / 'mirror'}")
    usual = {"optim": AdamWConfig(), "train": TrainConfig(**BATCH), "checkpoint": mirrored}
    both = 2 * 3 * 12 * _parameters()
    free(both - 1)
    with pytest.raises(CirillaError, match="are free"):
        run(**usual)
    free(both)
    assert run(**usual).step == 4
