"""Data sets of the Hub read by an array of processes give the bytes of one; the Hub's protocol is spoken."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .hub_server import DataHub
from .test_scrape_hub import FILES, NAME, _environment, _parquet, _texts

FIRST, SECOND = "a1" * 20, "b2" * 20
SOURCE = ["scrape.source.kind=hub", f"scrape.source.path={NAME}", f"scrape.source.revision={FIRST}"]

_CALLS = """
import json, sys, time
from pathlib import Path
from cirilla_cli.data.parts import Share
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.scrape.shared import scrape_merge, scrape_share
class Slow(Silent):
    def step(self, *args, **figures): time.sleep(pause)
config, pause, calls = json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
config = ScrapeConfig.model_validate(config)
for out, call in (c.split("=") for c in calls):
    match call:
        case "one": scrape(config, Path(out), Slow())
        case "merge": scrape_merge(config, Path(out), Slow())
        case part: scrape_share(config, Path(out), Share.parse(part), Slow())
"""
_COLUMNS = FILES[0]
"""What the library opens of a data set in any case: the names of the columns stand in the first file."""
CONFIG = {"source": {"kind": "hub", "path": NAME, "revision": FIRST}}


@pytest.fixture
def hub() -> Iterator[DataHub]:
    server = DataHub()
    server.commits[NAME] = {FIRST: {file: _parquet(_texts(file, FIRST)) for file in FILES}}
    server.cards[NAME] = {"license": "odc-by"}
    yield server
    server.shutdown()
    server.server_close()


def _started(hub: DataHub, home: Path, *calls: str, pause: float = 0, config: Any = CONFIG) -> subprocess.Popen[str]:
    """`PLACE=one`, `PLACE=2/3` and `PLACE=merge`, one after another in one process."""
    words = [sys.executable, "-c", _CALLS, json.dumps(config), str(pause), *calls]
    return subprocess.Popen(words, env=_environment(hub, home), cwd=home, stderr=subprocess.PIPE, text=True)


def _done(hub: DataHub, home: Path, *calls: str, config: Any = CONFIG) -> None:
    process = _started(hub, home, *calls, config=config)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def _killed(hub: DataHub, home: Path, place: str, part: str, lines: int) -> None:
    """A part that is killed when so many lines of its results are there."""
    process = _started(hub, home, f"{place}={part}", pause=0.02)
    results = home / place / "parts" / part.replace("/", "-of-") / "results.jsonl"
    while not (results.exists() and results.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _left(folder: Path) -> dict[str, Any]:
    """Every file but the journal, of which times and places differ: the commit it names."""
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    lines = [json.loads(line) for line in found.pop("journal.jsonl").splitlines()]
    return found | {"journal": [(line["kind"], line.get("commit"), line.get("config")) for line in lines]}


def test_a_data_set_of_the_hub_is_read_file_by_file_by_an_array_and_merged_without_reading_it_again(
    hub: DataHub, tmp_path: Path
) -> None:
    _done(hub, tmp_path, "one=one", "two=2/2", *(f"four={n}/4" for n in (3, 1, 4, 2)))
    _killed(hub, tmp_path, "two", "1/2", lines=80)  # a file is 60 rows and its end: in its second one
    hub.commits[NAME][SECOND] = {file: _parquet(_texts(file, SECOND)) for file in FILES}  # the branch moves on
    hub.asked.clear()
    _done(hub, tmp_path, "two=1/2")
    assert hub.downloads() == [_COLUMNS, FILES[2]], "the second file is another part's"
    hub.asked.clear()
    _done(hub, tmp_path, "two=merge", "four=merge")
    assert hub.downloads() == [_COLUMNS]
    assert len((tmp_path / "one" / "documents.jsonl").read_bytes().splitlines()) == 3 * 53
    assert _left(tmp_path / "two") == _left(tmp_path / "one") == _left(tmp_path / "four")


def test_a_data_set_that_lies_here_is_shared_out_without_a_commit(hub: DataHub, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for file in FILES:
        (tmp_path / "corpus" / Path(file).name).write_bytes(_parquet(_texts(file, FIRST)))
    config = {"source": {"kind": "hub", "path": "corpus"}, "license": {"name": "CC0"}}
    _done(hub, tmp_path, "one=one", "two=2/2", "two=1/2", "two=merge", config=config)
    assert len((tmp_path / "one" / "documents.jsonl").read_bytes().splitlines()) == 3 * 53
    assert _left(tmp_path / "two") == _left(tmp_path / "one")


def test_a_branch_is_refused_for_an_array_before_anything_is_read_and_the_commit_it_is_at_is_told(
    hub: DataHub, tmp_path: Path
) -> None:
    def called(*words: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "cirilla_cli", "scrape", *SOURCE, *words, "--out", "x", "--shard", "1/2"]
        return subprocess.run(
            call, env=_environment(hub, tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = called("scrape.source.revision=main")
    assert (done.returncode, f"scrape.source.revision={FIRST}" in done.stderr) == (1, True), done.stderr
    assert (hub.asked, (tmp_path / "x").exists()) == ([], False)
    done = called("--json")
    assert json.loads(done.stdout) | {"seconds": 0, "out": ""} == {
        "out": "", "shard": "1-of-2", "items": 2, "of": 3, "already_done": False, "seconds": 0,
    }  # fmt: skip
