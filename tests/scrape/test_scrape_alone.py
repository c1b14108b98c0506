"""One scrape at a time in one place: a second is refused before it touches anything, and the dead hold nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks that go with their process")

ROOT = Path(__file__).parents[2]
HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 66), 2); print(flush=True); sys.stdin.read()"


def _all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _sources(wiki: Any, folder: Path) -> list[dict[str, Any]]:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("A text that is long enough to be kept as a document of its own.")
    (folder / "dump.xml").write_text(wiki.dump())
    files, dump = ({"kind": kind, "path": folder / name} for kind, name in (("files", "texts"), ("dump", "dump.xml")))
    return [files, dump, {"kind": "mediawiki", "api": f"{wiki.url}/w/api.php", "titles": ["Ciri"], "pause": 0}]


@pytest.mark.parametrize("name", ["out", "rows.jsonl"])
def test_a_second_scrape_is_refused_at_every_row_of_the_first(wiki: Any, tmp_path: Path, name: str) -> None:
    for number, source in enumerate(_sources(wiki, tmp_path)):
        config, out = ScrapeConfig.model_validate({"source": source}), tmp_path / str(number) / name
        refused: list[str] = []

        class Listener(Silent):
            def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
                before = _all(out.parent)  # noqa: B023
                with pytest.raises(CirillaError) as caught:
                    scrape(config, out, Silent())  # noqa: B023
                assert _all(out.parent) == before  # noqa: B023
                refused.append(str(caught.value))  # noqa: B023

        report = scrape(config, out, Listener())
        assert len(refused) >= report.documents > 0
        assert all(f"is being written already, by process {os.getpid()} on " in text for text in refused)
        assert not list(out.parent.rglob(".running"))
        assert scrape(config, out, Silent()).documents == report.documents


def test_fresh_forgets_nothing_of_a_scrape_that_goes_on_and_the_killed_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text that is long enough to be kept as a document of its own.")
    command = [sys.executable, "-m", "cirilla_cli", "scrape", "--files", "a.txt", "--out", "out"]
    environment: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    assert subprocess.run(command, capture_output=True, **environment).returncode == 0
    before, lock = _all(tmp_path / "out"), tmp_path / "out" / ".running"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], **pipes) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for call in (command, [*command, "--fresh"]):
            done = subprocess.run(call, capture_output=True, text=True, **environment)
            assert (done.returncode, done.stdout) == (1, "")
            assert "is being written already, by process another one" in done.stderr
            assert _all(tmp_path / "out") == {**before, lock: b""}
        other.send_signal(signal.SIGKILL)
    assert lock.exists()
    assert subprocess.run([*command, "--fresh"], capture_output=True, **environment).returncode == 0
    assert not lock.exists()
