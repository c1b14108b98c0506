"""Weights & Biases, offline, with the real package: the figures of metrics.jsonl under one id, and nothing else."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.engine import job as jobs
from cirilla_cli.engine.config import LogConfig, WandbConfig
from cirilla_cli.engine.run import plan
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import tiny
from cirilla_cli.engine.config import LogConfig, WandbConfig
from cirilla_cli.engine.run import train
from cirilla_cli.errors import InterruptedRun
log = LogConfig(every=2, plot=False, wandb=WandbConfig(project="wikis"))
job = tiny.job("pretrain", Path(sys.argv[2]), Path(sys.argv[3]), log=log)
try:
    train(job, tiny.interrupt_after(4))
except InterruptedRun:
    train(job, tiny.Silent())
"""


def records(file: Path) -> Iterator[bytes]:
    """Of a file of wandb: seven bytes, then records in blocks of 32 KiB, as LevelDB writes its log."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def histories(out: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2 as proto

    found = []
    for file in sorted(out.rglob("*.wandb")):
        for data in records(file):
            record = proto.Record.FromString(data)
            if record.HasField("history"):
                items = record.history.item
                found.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return found


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
@pytest.mark.slow
def test_a_stopped_run_has_the_figures_of_metrics_under_one_id(
    tiny: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    out = tmp_path / "run"
    call = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(out), str(data)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines, sent = tiny.metrics(out), histories(out)
    assert [row["step"] for row in sent] == [line["step"] for line in lines] == [2, 4, 6]
    for row, line in zip(sent, lines, strict=True):
        assert row["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert line.keys() <= row.keys()
    kept = json.loads((out / "wandb.json").read_text())["id"]
    assert {file.stem for file in out.rglob("*.wandb")} == {f"run-{kept}"}


def test_without_the_package_the_run_is_refused_with_what_to_type(
    tiny: ModuleType, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    log = LogConfig(wandb=WandbConfig(project="wikis"))
    with pytest.raises(CirillaError, match="needs the package `wandb`") as refusal:
        plan(tiny.job("pretrain", out, data, log=log), Silent())
    assert refusal.value.hint == "pip install 'cirilla-cli[wandb]'"
