"""Rows as a data set on the Hub, pushed by the command to a server here that speaks the Hub's commit protocol."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from ..hub.server import TOKEN, Hub

ROOT = Path(__file__).parents[2]
TO = "hf://datasets/me/witcher"
TRAIN, HELD = "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def call(hub: Hub, tmp_path: Path) -> Call:
    """The command, which finds the server where the Hub would be."""
    made = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def run(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **made, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "cirilla_cli", *words]
        how: Any = {"env": environment, "cwd": tmp_path, "input": given, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **how)

    return run


def page(number: int) -> dict[str, Any]:
    terms = {"name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}
    text = f"The {number}th keep stands on hill {number * 37} above the river."
    return {
        "id": str(number), "title": f"Keep {number}", "text": text, "license": terms,
        "permalink": f"https://wiki.example/?oldid={number}",
        "infobox": [{"label": "Hill", "values": [f"Mount {number * 37}"]}],
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(hub: Hub, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(hub.files[name])).to_pylist()
    return found


def test_a_curated_set_arrives_with_its_splits_its_card_and_its_attribution(
    hub: Hub, call: Call, tmp_path: Path
) -> None:
    write(tmp_path / "documents.jsonl", [page(n) for n in range(60)])
    assert call("synth", "documents.jsonl", "--source", "fandom", "--out", "samples.jsonl").returncode == 0
    done = call("curate", "samples.jsonl", "--out", "set", "curate.split.validation=0.2", "curate.duplicates=null")
    assert done.returncode == 0, done.stderr
    sides = {
        name: [json.loads(line) for line in (tmp_path / "set" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("samples", "validation")
    }
    assert min(map(len, sides.values())) > 3
    done = call("push", "set", "--to", TO, "--json", "push.private=false", "push.message=First words")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert hub.files.keys() == {TRAIN, HELD, "README.md", "ATTRIBUTION.md"}
    for name, side in ((TRAIN, "samples"), (HELD, "validation")):
        assert [(row["id"], row["messages"]) for row in table(hub, name)] == [
            (row["id"], row["messages"]) for row in sides[side]
        ]
    card = DatasetCard(hub.files["README.md"].decode())
    assert card.data.to_dict()["license"] == "cc-by-sa-4.0"
    splits = [one["split"] for one in card.data.to_dict()["configs"][0]["data_files"]]
    assert splits == ["train", "validation"]
    assert hub.files["ATTRIBUTION.md"].decode().count("https://wiki.example/?oldid=") == 60
    assert (hub.created["type"], hub.created["visibility"], hub.messages) == ("dataset", "public", ["First words"])
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert report["to"] == f"{hub.url}/datasets/me/witcher"
    assert report["splits"] == {"train": len(sides["samples"]), "validation": len(sides["validation"])}
    assert {file["name"]: file["bytes"] for file in report["files"]} == {n: len(d) for n, d in hub.files.items()}


@pytest.mark.parametrize("named", ["wiki", "wiki/documents.jsonl", "-"])
def test_any_rows_are_one_split_with_nothing_lost(hub: Hub, call: Call, tmp_path: Path, named: str) -> None:
    (tmp_path / "wiki").mkdir()
    rows = write(tmp_path / "wiki" / "documents.jsonl", [page(1), page(2), page(1) | {"id": "3"}])
    done = call("push", named, "--to", TO, given=rows.read_text() if named == "-" else None)
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in table(hub, TRAIN)] == ["1", "2", "3"]
    assert hub.created["visibility"] == "private"
    assert "3 rows, read back equal" in done.stderr
    assert str(tmp_path) not in hub.files["README.md"].decode()
    assert TRAIN in done.stdout


def test_a_dry_run_says_what_would_go_and_sends_nothing(hub: Hub, call: Call, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [page(1)])
    done = call("push", "rows.jsonl", "--to", TO, "--dry-run", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["written"], report["to"]) == (0, False, TO)
    assert [file["name"] for file in report["files"]] == ["README.md", TRAIN]
    assert hub.calls == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["rows.jsonl", "push.dtype=float16"], "push.dtype"),
        (["rows.jsonl", "push.license=mit"], "a data set, whose card says what its rows say"),
        (["rows.jsonl", "--scores", "scores.json"], "a data set has none"),
        (["broken.jsonl"], "rows that cannot be read would be missing: 1 rows"),
        (["empty.jsonl"], "empty.jsonl"),
        ([], "no rows are named"),
        (["changed"], "missing, or changed since"),
    ],
    ids=["no file", "number format", "licence", "scores", "bad rows", "no rows", "nothing named", "changed"],
)
def test_what_cannot_be_published_whole_is_refused_and_nothing_sent(
    hub: Hub, call: Call, tmp_path: Path, words: list[str], said: str
) -> None:
    write(tmp_path / "rows.jsonl", [page(1)])
    write(tmp_path / "broken.jsonl", [page(1), {"id": "2", "title": "No text"}])
    (tmp_path / "empty.jsonl").write_text("")
    if words == ["changed"]:
        assert call("curate", "rows.jsonl", "--out", "changed").returncode == 0
        write(tmp_path / "changed" / "documents.jsonl", [page(2)])
    done = call("push", *words, "--to", TO)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert said in done.stderr
    assert hub.calls == []


@pytest.mark.parametrize("to", [f"{TO}@main", f"{TO}/data", "hf://datasets/me"])
def test_an_address_that_is_no_whole_data_set_is_refused(hub: Hub, call: Call, tmp_path: Path, to: str) -> None:
    write(tmp_path / "rows.jsonl", [page(1)])
    done = call("push", "rows.jsonl", "--to", to)
    assert (done.returncode, hub.calls) == (1, [])
    assert "hf://datasets/" in done.stderr


@pytest.mark.parametrize(("where", "status"), [("/repos/create", 401), ("/preupload/", 403), ("/commit/", 404)])
def test_a_refusing_server_ends_in_one_line_without_the_token(
    hub: Hub, call: Call, tmp_path: Path, where: str, status: int
) -> None:
    write(tmp_path / "rows.jsonl", [page(1)])
    hub.fail = {where: status} | ({"/preupload/": 404} if where == "/repos/create" else {})
    done = call("push", "rows.jsonl", "--to", TO, "-v")
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert f"me/witcher: {'' if status != 404 else 'no such repository'}" in done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr
    assert hub.files == {}
