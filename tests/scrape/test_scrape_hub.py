"""Corpora of the Hub, read through the real library from a server that speaks its protocol."""

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

from .hub_server import NEW, OLD, DataHub
from .killing import kill_at_line

ROOT = Path(__file__).parents[2]
NAME = "org/corpus"
FILES = [f"data/train-{index:05d}-of-00003.parquet" for index in range(3)]
SOURCE = ["scrape.source.kind=hub", f"scrape.source.path={NAME}"]


def _texts(file: str, commit: str) -> list[str]:
    """Every ninth is too short."""
    return [f"{commit[0]} {file} {row}: " + "a word " * 12 if row % 9 else "short" for row in range(60)]


def _parquet(texts: list[str]) -> bytes:
    held = io.BytesIO()
    addresses = [f"https://example.org/{number}" for number in range(len(texts))]
    pq.write_table(pa.table({"text": texts, "url": addresses}), held, row_group_size=7)
    return held.getvalue()


def _kept(commit: str) -> list[tuple[str, str]]:
    """(id, text) of what a whole read gives, worked out without the library."""
    rows = [(f"{NAME}/{file}#{row}", text) for file in FILES for row, text in enumerate(_texts(file, commit))]
    return [(id, text.strip()) for id, text in rows if text != "short"]


@pytest.fixture
def hub() -> Iterator[DataHub]:
    server = DataHub()
    server.commits[NAME] = {OLD: {file: _parquet(_texts(file, OLD)) for file in FILES}}
    server.cards[NAME] = {"license": "odc-by"}
    yield server
    server.shutdown()
    server.server_close()


def _environment(hub: DataHub, home: Path) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}


def _scrape(hub: DataHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "cirilla_cli", "scrape", *words]
    return subprocess.run(call, env=_environment(hub, home), cwd=home, capture_output=True, text=True, check=False)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


_SLOW = """
import sys, time
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
class Slow(Silent):
    def step(self, *args, **figures): time.sleep(0.02)
scrape(ScrapeConfig.model_validate({"source": {"kind": "hub", "path": sys.argv[1]}}), Path(sys.argv[2]), Slow())
"""


def _killed(hub: DataHub, home: Path, out: Path, rows: int) -> None:
    """A scrape that is killed once it has gathered that many documents."""
    call = [sys.executable, "-c", _SLOW, NAME, str(out)]
    process = subprocess.Popen(call, env=_environment(hub, home), cwd=home)
    kill_at_line(process, out / ".documents.jsonl.part", rows)


def test_every_row_comes_with_its_file_its_number_the_commit_and_the_licence_of_the_card(
    hub: DataHub, tmp_path: Path
) -> None:
    done = _scrape(hub, tmp_path, *SOURCE, "--out", "corpus", "--json")
    assert done.returncode == 0, done.stderr
    rows = _rows(tmp_path / "corpus" / "documents.jsonl")
    assert [(row["id"], row["text"]) for row in rows] == _kept(OLD)
    assert {row["site"] for row in rows} == {f"{NAME}@{OLD}"}
    assert {row["license"]["name"] for row in rows} == {"odc-by"}
    assert rows[0]["url"] == "https://example.org/1"
    assert f"{NAME}@{OLD}" in (tmp_path / "corpus" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert json.loads(done.stdout)["rejected"] == {"short": 3 * 7}


def test_a_killed_stream_goes_on_in_the_file_where_it_was_though_the_branch_has_moved(
    hub: DataHub, tmp_path: Path
) -> None:
    _killed(hub, tmp_path, tmp_path / "cut", rows=130)  # of 53 a file: in the last one
    hub.commits[NAME][NEW] = {file: _parquet(_texts(file, NEW)) for file in FILES}
    hub.asked.clear()
    home = tmp_path / "elsewhere"  # nothing of the first sitting is in its cache
    home.mkdir()
    done = _scrape(hub, home, *SOURCE, "--out", str(tmp_path / "cut"))
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["text"]) for row in _rows(tmp_path / "cut" / "documents.jsonl")] == _kept(OLD)
    assert FILES[1] not in hub.downloads(), "what was read to its end is not asked for again"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["scrape.source.path=org/nothing"], 4, "org/nothing: no such repository, or it is private (404)"),
        (["scrape.source.text_key=body"], 1, "has no column `body`"),
        (["scrape.source.split=test"], 1, "split"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_one_line(
    hub: DataHub, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = _scrape(hub, tmp_path, *SOURCE, *words, "--out", "corpus")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
    assert "hint:" in done.stderr


def test_a_mirror_that_names_no_commit_is_refused_before_a_row_is_written(hub: DataHub, tmp_path: Path) -> None:
    hub.nameless.add(NAME)
    done = _scrape(hub, tmp_path, *SOURCE, "--out", "corpus")
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert f"{NAME}: the answer names no commit" in done.stderr
    assert not (tmp_path / "corpus" / "documents.jsonl").exists()
    hub.nameless.clear()
    assert _scrape(hub, tmp_path, *SOURCE, "--out", "corpus").returncode == 0


def test_a_stream_is_not_made_again_and_its_commit_is_where_the_hint_says(hub: DataHub, tmp_path: Path) -> None:
    assert _scrape(hub, tmp_path, *SOURCE, "--out", "corpus").returncode == 0
    rows = (tmp_path / "corpus" / "documents.jsonl").read_bytes()
    done = _scrape(hub, tmp_path, "--again", "corpus")
    assert (done.returncode, "only the rows are kept" in done.stderr) == (1, True), done.stderr
    assert (tmp_path / "corpus" / "documents.jsonl").read_bytes() == rows
    commit = json.loads(rows.splitlines()[0])["site"].rpartition("@")[2]
    hub.commits[NAME][NEW] = {file: _parquet(_texts(file, NEW)) for file in FILES}
    assert _scrape(hub, tmp_path, *SOURCE, f'scrape.source.revision="{commit}"', "--out", "same").returncode == 0
    assert (tmp_path / "same" / "documents.jsonl").read_bytes() == rows
