"""Extraction is a step of its own: rows are made again from what a scrape kept, with the wiki gone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.lineage.trace import trace
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape

from .killing import kill_at_line

ROOT = Path(__file__).parents[2]
MADE = ("documents.jsonl", "rejects.jsonl", "ATTRIBUTION.md")


def _made(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in MADE}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _config(source: dict[str, Any], **rules: Any) -> ScrapeConfig:
    return ScrapeConfig.model_validate({"source": source, **rules})


def _again(folder: Path, **rules: Any) -> ScrapeConfig:
    return _config({"kind": "scraped", "path": folder}, **rules)


def _wiki(wiki: Any, **source: Any) -> dict[str, Any]:
    return {"kind": "mediawiki", "api": wiki.api, "pause": 0, **source}


SELECTIONS: list[dict[str, Any]] = [
    {"reading": "html"},
    {"reading": "wikitext"},
    {"titles": ["White Wolf", "Ciri", "Nobody", "a|b", "Round one"], "reading": "wikitext"},
    {"category": "Characters", "depth": 2},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=["html", "wikitext", "titles", "category"])
def test_a_wiki_that_is_gone_gives_the_same_bytes_again(wiki: Any, tmp_path: Path, selection: dict[str, Any]) -> None:
    first = scrape(_config(_wiki(wiki, **selection)), tmp_path / "out", Silent())
    made, asked = _made(tmp_path / "out"), len(wiki.asked)
    elsewhere = scrape(_again(tmp_path / "out"), tmp_path / "new", Silent())
    assert _made(tmp_path / "new") == made
    in_place = scrape(_again(tmp_path / "out"), tmp_path / "out", Silent())
    assert _made(tmp_path / "out") == made
    assert len(wiki.asked) == asked, "nobody is asked"
    for folder in (tmp_path / "out", tmp_path / "new"):
        source = trace(folder / "documents.jsonl").root.parents[0]
        assert (source.path, source.facts) == (wiki.api, {"source": "mediawiki"})
    for report in (elsewhere, in_place):
        kept = {"requests": 0, "seconds": report.seconds, "out": report.out}
        assert report.model_dump() == {**first.model_dump(), **kept}


@pytest.mark.parametrize("reading", ["html", "wikitext"])
def test_the_rows_of_the_last_whole_scrape_come_though_a_later_one_was_cut_short(
    wiki: Any, tmp_path: Path, reading: str
) -> None:
    config = _config(_wiki(wiki, reading=reading))
    scrape(config, tmp_path, Silent())
    made = _made(tmp_path)
    for page in wiki.pages:
        page.revision += 5000
        page.text, page.html = page.text.replace("child", "heir"), page.html.replace("child", "heir")
    wiki.pages = [page for page in wiki.pages if page.title != "CON"]

    class Cut(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done == 4:
                raise KeyboardInterrupt

    with pytest.raises(CirillaError):
        scrape(config, tmp_path, Cut())
    assert _made(tmp_path) == made
    scrape(_again(tmp_path), tmp_path, Silent())
    assert _made(tmp_path) == made
    scrape(config, tmp_path, Silent())
    changed = _made(tmp_path)
    assert b"heir" in changed["documents.jsonl"]
    assert b'"CON"' not in changed["documents.jsonl"]
    scrape(_again(tmp_path), tmp_path, Silent())
    assert _made(tmp_path) == changed


def test_other_rules_give_the_rows_that_a_scrape_by_those_rules_gives(wiki: Any, tmp_path: Path) -> None:
    license = {"name": "CC BY 4.0"}
    wiki.rights = {}
    scrape(_config(_wiki(wiki)), tmp_path / "out", Silent())
    for number, rules in enumerate(({"min_chars": 1, "license": license}, {"min_chars": 80}, {"limit": 3})):
        scrape(_config(_wiki(wiki), **rules), tmp_path / f"fetched{number}", Silent())
        scrape(_again(tmp_path / "out", **rules), tmp_path / f"again{number}", Silent())
        assert _made(tmp_path / f"again{number}") == _made(tmp_path / f"fetched{number}")
    assert "Tiny" in {row["title"] for row in _rows(tmp_path / "again0" / "documents.jsonl")}


def test_the_extractor_of_today_reads_what_was_kept(wiki: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scrape(_config(_wiki(wiki)), tmp_path, Silent())
    before = {row["title"]: row for row in _rows(tmp_path / "documents.jsonl")}
    assert "Caption to drop" not in before["Geralt of Rivia"]["text"]
    monkeypatch.setattr("cirilla_cli.scrape.html._NOISE_CLASSES", frozenset({"mw-editsection"}))
    scrape(_again(tmp_path), tmp_path, Silent())
    after = {row["title"]: row for row in _rows(tmp_path / "documents.jsonl")}
    assert "Caption to drop" in after["Geralt of Rivia"]["text"]
    assert {row["sha256"] for row in after.values()} != {row["sha256"] for row in before.values()}


def _local(wiki: Any, folder: Path) -> dict[str, dict[str, Any]]:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("A text that is long enough to be kept as a document of its own.")
    (folder / "texts" / "b.txt").write_text("A short one.")
    (folder / "dump.xml").write_text(wiki.dump())
    return {kind: {"kind": kind, "path": folder / name} for kind, name in (("files", "texts"), ("dump", "dump.xml"))}


@pytest.mark.parametrize("kind", ["files", "dump"])
def test_a_folder_or_a_dump_is_read_again_where_it_is_what_it_was(wiki: Any, tmp_path: Path, kind: str) -> None:
    source = _local(wiki, tmp_path)[kind]
    out = tmp_path / "out"
    scrape(_config(source, license={"name": "CC0"}), out, Silent())
    made = _made(out)
    scrape(_again(out, license={"name": "CC0"}), out, Silent())
    assert _made(out) == made
    scrape(_again(out, min_chars=1), tmp_path / "more", Silent())
    short = {"files": "b", "dump": "Tiny"}[kind]
    assert short in {row["title"] for row in _rows(tmp_path / "more" / "documents.jsonl")}
    file = tmp_path / "texts" / "a.txt" if kind == "files" else tmp_path / "dump.xml"
    file.write_text(file.read_text() + " ")
    for state in ("has changed since", "is not there any more"):
        with pytest.raises(CirillaError, match=state) as caught:
            scrape(_again(out), out, Silent())
        assert f"--{kind} {source['path']}" in str(caught.value.hint)
        shutil.rmtree(tmp_path / "texts", ignore_errors=True)
        (tmp_path / "dump.xml").unlink(missing_ok=True)
    assert _made(out) == made


def _called(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "cirilla_cli", "scrape", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_call_keeps_the_rules_of_the_scrape_unless_it_names_others(wiki: Any, tmp_path: Path) -> None:
    source = _local(wiki, tmp_path)["dump"]
    out = tmp_path / "rows.jsonl"
    scrape(_config(source, license={"name": "CC0"}, limit=9, min_chars=70), out, Silent())
    rows = out.read_bytes()
    done = _called(tmp_path, "--again", "rows.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == rows
    done = _called(
        tmp_path, "--again", "rows.jsonl", "scrape.min_chars=1", "scrape.license.name=CC BY 4.0", "--out", "-"
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (len(found), {row["license"]["name"] for row in found}) == (9, {"CC BY 4.0"})
    assert out.read_bytes() == rows


def test_a_scraped_folder_is_not_taken_for_a_folder_of_texts(wiki: Any, tmp_path: Path) -> None:
    scrape(_config(_local(wiki, tmp_path)["files"]), tmp_path / "out", Silent())
    done = _called(tmp_path, "out", "--out", "new")
    assert (done.returncode, "hint: --again out, or --files out" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "new").exists()


def test_fresh_does_not_empty_what_the_rows_are_made_from(wiki: Any, tmp_path: Path) -> None:
    scrape(_config(_wiki(wiki)), tmp_path / "out", Silent())
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for words in (["--again", "out"], ["--again", "out", "--out", "new"]):
        done = _called(tmp_path, *words, "--fresh")
        assert (done.returncode, "contradict each other" in done.stderr) == (2, True), done.stderr
    done = _called(tmp_path, "scrape.source.kind=scraped", "scrape.source.path=out", "--out", "out", "--fresh")
    assert (done.returncode, "would be emptied first" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made_again_says_what_to_do(wiki: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    scrape(_config(_wiki(wiki)), old, Silent())
    (old / "raw" / "index.jsonl").unlink()
    with pytest.raises(CirillaError, match="was not kept") as caught:
        scrape(_again(old), old, Silent())
    assert "run that scrape once more" in str(caught.value.hint)
    asked = len(wiki.parsed)
    scrape(_config(_wiki(wiki)), old, Silent())
    assert len(wiki.parsed) == asked, "no page is fetched a second time"
    made = _made(old)
    scrape(_again(old), tmp_path / "new", Silent())
    assert _made(tmp_path / "new") == made
    with pytest.raises(CirillaError, match="made again from what") as caught:
        scrape(_again(tmp_path / "new"), tmp_path / "new", Silent())
    assert f"--again {old}" in str(caught.value.hint)
    with pytest.raises(CirillaError, match="no scrape that came to its end"):
        scrape(_again(tmp_path / "nothing"), tmp_path / "x", Silent())


@pytest.mark.parametrize("harm", ["cut pages", "other pages", "index"])
def test_what_is_damaged_is_named_and_costs_no_row(wiki: Any, tmp_path: Path, harm: str) -> None:
    scrape(_config(_wiki(wiki)), tmp_path, Silent())
    made, raw = _made(tmp_path), tmp_path / "raw"
    pages, index = raw / "pages.jsonl.gz", raw / "index.jsonl"
    if harm == "index":
        lines = index.read_text().splitlines(keepends=True)
        index.write_text("".join([*lines[:4], '{"aliases": 5}\n', *lines[5:]]))
    else:
        data = pages.read_bytes()
        pages.write_bytes(data[: len(data) // 2] if harm == "cut pages" else data[:100] + b"\0" * 50 + data[150:])
    with pytest.raises(CirillaError, match=r"index.jsonl:5: .*aliases" if harm == "index" else "is damaged"):
        scrape(_again(tmp_path), tmp_path, Silent())
    assert _made(tmp_path) == made


_SLOW = """
import sys, time
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
class Slow(Silent):
    def step(self, *args, **figures): time.sleep(0.05)
source = {"kind": "scraped", "path": sys.argv[1]}
scrape(ScrapeConfig.model_validate({"source": source, "min_chars": 1}), Path(sys.argv[1]), Slow())
"""


def test_a_kill_leaves_the_old_rows_whole(wiki: Any, tmp_path: Path) -> None:
    scrape(_config(_wiki(wiki)), tmp_path, Silent())
    made = _made(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", _SLOW, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    kill_at_line(process, tmp_path / ".documents.jsonl.part", 3)
    assert _made(tmp_path) == made
    scrape(_again(tmp_path), tmp_path, Silent())
    assert _made(tmp_path) == made
