"""Sources and evaluation sets by their address on the Hub, from a server that speaks its protocol."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..scrape.hub_server import OLD, DataHub

ROOT = Path(__file__).parents[2]
HELD_OUT = "data/test-00000-of-00001.parquet"
TRAIN, TEST = "hf://datasets/org/chat/data/train-*", f"hf://datasets/org/chat@main/{HELD_OUT}"


def _chat(number: int) -> dict[str, Any]:
    question = f"What stands on page {number * 37} of the book that Ciri read in Kaer Morhen?"
    answer = f"Nothing but a drawing of {number} wolves."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _parquet(numbers: range) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_chat(number) for number in numbers]), held)
    return held.getvalue()


@pytest.fixture
def hub() -> Iterator[DataHub]:
    """Forty chats in two files to train on, and five to be measured on, two of which are among the forty."""
    server = DataHub()
    names = "README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", HELD_OUT
    data = b"# A card", _parquet(range(25)), _parquet(range(25, 40)), _parquet(range(38, 43))
    server.commits["org/chat"] = {OLD: dict(zip(names, data, strict=True))}
    yield server
    server.shutdown()
    server.server_close()


def _curate(hub: DataHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "cirilla_cli", "curate", *words, "--out", "set"]
    return subprocess.run(call, env=environment, cwd=home, capture_output=True, text=True, check=False)


def test_rows_of_the_hub_are_read_in_whatever_format_and_evaluation_sets_of_the_hub_taken_out(
    hub: DataHub, tmp_path: Path
) -> None:
    done = _curate(hub, tmp_path, TRAIN, f"curate.evaluation.exam={TEST}", "curate.duplicates=null")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "set" / "samples.jsonl").read_text().splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == [_chat(n)["messages"][1]["content"] for n in range(38)]
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    (source,) = report["sources"].values()
    assert source["path"] == f"hf://datasets/org/chat@{OLD}/data/train-*"
    assert report["evaluation"]["exam"]["path"] == f"hf://datasets/org/chat@{OLD}/{HELD_OUT}"
    assert HELD_OUT in hub.downloads()
    hub.asked.clear()
    again = _curate(hub, tmp_path, TRAIN, f"curate.evaluation.exam={TEST}", "curate.duplicates=null")
    assert "done already" in again.stderr
    assert [path for path in hub.downloads() if path.endswith(".parquet")] == []


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        (
            "hf://datasets/org/chat",
            1,
            "name one: hf://datasets/org/chat/data/test-*.parquet, hf://datasets/org/chat/data",
        ),
        ("hf://datasets/org/chat/data/dev*", 1, "org/chat: no file there is data/dev*"),
        ("hf://datasets/org/chat/*.parquet", 1, "no file there is *.parquet"),
        ("hf://datasets/org/nothing", 4, "org/nothing: no such repository, or it is private (404)"),
        ("hf://datasets/org", 1, "hf://datasets/org: no name of a data set"),
        ("org/chat", 1, "on the Hub it is hf://datasets/org/chat"),
    ],
)
def test_an_address_that_means_nothing_or_too_much_is_said_in_one_line(
    hub: DataHub, tmp_path: Path, address: str, code: int, said: str
) -> None:
    done = _curate(hub, tmp_path, address)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "set").exists()
