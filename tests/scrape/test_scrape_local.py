"""Sources that need no network: exports in every packing, folders, data sets, and what is wrong with them."""

import bz2
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import py7zr
import pytest

from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape

from .killing import kill_at_line

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "recipes" / "quickstart" / "wiki.xml"


def _config(kind: str, path: Path | str, **rest: Any) -> ScrapeConfig:
    source = {"kind": kind, "path": path, **rest.pop("source", {})}
    return ScrapeConfig.model_validate({"source": source, **rest})


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pack_7z(data: bytes, path: Path) -> None:
    inner = path.with_suffix(".inner")
    inner.write_bytes(data)
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.write(inner, "folder/wiki_pages_current.xml")


PACKINGS: dict[str, Callable[[bytes, Path], Any]] = {
    "dump.xml": lambda data, path: path.write_bytes(data),
    "dump.xml.gz": lambda data, path: path.write_bytes(gzip.compress(data)),
    "dump.xml.bz2": lambda data, path: path.write_bytes(bz2.compress(data)),
    "dump.xml.7z": _pack_7z,
}


def test_every_packing_of_an_export_gives_the_same_rows(wiki: Any, tmp_path: Path) -> None:
    found = set()
    for name, pack in PACKINGS.items():
        pack(wiki.dump().encode(), tmp_path / name)
        scrape(_config("dump", tmp_path / name), tmp_path / f"out-{name}", Silent())
        found.add((tmp_path / f"out-{name}" / "documents.jsonl").read_bytes())
    assert len(found) == 1


def test_an_export_tells_where_each_page_went(wiki: Any, tmp_path: Path) -> None:
    wiki.pages[5].title, wiki.pages[5].redirect = "To nowhere", "Nobody"
    wiki.pages[6].redirect = "Round two"
    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    report = scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    rows = _rows(tmp_path / "o.jsonl")
    rejects = {row["title"]: row["reason"] for row in _rows(tmp_path / "o.scrape" / "rejects.jsonl")}
    redirects = sum(page.redirect is not None for page in wiki.pages)
    assert len(rows) + len(rejects) == len(wiki.pages) - redirects + 2
    assert rejects["To nowhere"] == "broken redirect"
    assert rejects["Round two"] == "redirect loop"
    assert rejects["Talk:Ciri"] == "namespace"
    assert rejects["Swallow"] == "disambiguation"
    assert rejects["Tiny"] == "short"
    assert report.aliases == 2
    assert report.rejected["namespace"] == sum(p.ns != 0 for p in wiki.pages)


def test_a_chain_of_redirects_gives_aliases_to_its_end(wiki: Any, tmp_path: Path) -> None:
    wiki.pages[5].redirect, wiki.pages[6].redirect = "Round two", "Ciri"
    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    assert next(r for r in _rows(tmp_path / "o.jsonl") if r["title"] == "Ciri")["aliases"] == ["Round one", "Round two"]


def test_the_newest_revision_counts_and_old_exports_without_namespaces_are_read(tmp_path: Path) -> None:
    def revision(number: int, text: str) -> str:
        return f"<revision><id>{number}</id><timestamp>t{number}</timestamp><text>{text}</text></revision>"

    words = "words that are long enough to be kept as a document"
    pages = (
        f"<page><title>A</title><id>1</id>{revision(7, 'new ' + words)}{revision(3, 'old ' + words)}</page>"
        f"<page><title>Talk:A</title><id>2</id>{revision(8, words)}</page>"
    )
    (tmp_path / "d.xml").write_text(f"<mediawiki><siteinfo/>{pages}</mediawiki>")
    scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    (row,) = _rows(tmp_path / "o.jsonl")
    assert (row["text"], row["revision"], row["timestamp"]) == ("new " + words, 7, "t7")


def test_the_hash_of_a_row_follows_from_title_text_and_infobox(wiki: Any, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    for row in _rows(tmp_path / "o.jsonl"):
        content = json.dumps(
            [row["title"], row["text"], row["infobox"]], ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
        assert row["sha256"] == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.skipif(not BUNDLED.exists(), reason="the bundled wiki is not in this tree")
def test_the_bundled_wiki_is_read_whole(tmp_path: Path) -> None:
    report = scrape(_config("dump", BUNDLED), tmp_path / "o.jsonl", Silent())
    rows = [Document.model_validate(row) for row in _rows(tmp_path / "o.jsonl")]
    assert report.documents >= 60
    assert sum(len(row.infobox) for row in rows) >= 300
    assert report.aliases > 0
    for row in rows:
        assert not any(mark in row.text for mark in ("[[", "{{", "]]", "}}", "<ref", "'''", "__"))


BAD: dict[str, tuple[bytes, str]] = {
    "cut": (b"<mediawiki><page><title>A</title>\n<id>1</id>\n", r"bad\.xml:3: not well-formed XML: no element found"),
    "mixed": (b"<mediawiki>\n<page></title></mediawiki>", r"bad\.xml:2: not well-formed XML: mismatched tag"),
    "doctype": (b'<!DOCTYPE x [<!ENTITY a "b">]><mediawiki/>', r"bad\.xml:1: declares a document type"),
    "other": (b"<html><body/></html>", r"bad\.xml:1: begins with <html>"),
    "number": (b"<mediawiki>\n<page>\n<id>x</id></page></mediawiki>", r"bad\.xml:3: <id> is 'x', a whole number"),
    "no pages": (b"<mediawiki></mediawiki>", r"bad\.xml: holds no page"),
    "empty": (b"", r"bad\.xml: the dump is empty"),
    "gzip": (gzip.compress(os.urandom(9000))[:4000], r"bad\.xml"),
    "bzip2": (bz2.compress(b"<mediawiki>" * 500)[:60], r"bad\.xml: ends in the middle"),
    "zip": (b"PK\x03\x04" + b"junk" * 20, r"bad\.xml: is a \.zip, which is not read here"),
    "xz": (b"\xfd7zXZ\x00" + b"junk" * 20, r"bad\.xml: is a \.xz, which is not read here"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"junk" * 20, r"bad\.xml: cannot be unpacked"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_export_is_one_clear_mistake(name: str, tmp_path: Path) -> None:
    data, message = BAD[name]
    (tmp_path / "bad.xml").write_bytes(data)
    with pytest.raises(CirillaError, match=message):
        scrape(_config("dump", tmp_path / "bad.xml"), tmp_path / "out", Silent())
    assert not (tmp_path / "out" / "documents.jsonl").exists()


@pytest.mark.parametrize("kind", ["dump", "files", "hub"])
def test_a_missing_input_is_one_clear_mistake(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CirillaError, match="nothing-here"):
        scrape(_config(kind, str(tmp_path / "nothing-here")), tmp_path / "out", Silent())


def test_without_py7zr_the_extra_is_named(wiki: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pack_7z(wiki.dump().encode(), tmp_path / "d.7z")
    monkeypatch.setitem(sys.modules, "py7zr", None)
    monkeypatch.delitem(sys.modules, "cirilla_cli.scrape.sevenzip", raising=False)
    with pytest.raises(CirillaError, match="py7zr") as caught:
        scrape(_config("dump", tmp_path / "d.7z"), tmp_path / "out", Silent())
    assert "cirilla-cli[dump]" in str(caught.value.hint)


def test_a_failed_run_leaves_the_last_good_rows(wiki: Any, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    good = (tmp_path / "o.jsonl").read_bytes()
    (tmp_path / "d.xml").write_text(wiki.dump()[:9000], encoding="utf-8")
    with pytest.raises(CirillaError, match=r"d\.xml:\d+: not well-formed"):
        scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Silent())
    assert (tmp_path / "o.jsonl").read_bytes() == good


def test_a_run_without_documents_leaves_the_last_good_rows(tmp_path: Path) -> None:
    scrape(_config("dump", BUNDLED), tmp_path, Silent())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CirillaError, match=r"no documents came of it \(.*'short': .*documents.jsonl stays as it was"):
        scrape(_config("dump", BUNDLED, min_chars=10**6), tmp_path, Silent())
    assert {path: path.read_bytes() for path in before} == before
    again = ScrapeConfig.model_validate({"source": {"kind": "scraped", "path": tmp_path}})
    scrape(again, tmp_path, Silent())
    assert (tmp_path / "documents.jsonl").read_bytes() == before[tmp_path / "documents.jsonl"]


def test_a_title_cannot_move_the_cursor_of_who_reads_the_attribution(tmp_path: Path) -> None:
    text = "A text that is long enough to be kept as a document of its own."
    row = {"title": "\x1b[2J\u202eevil\x00 [x](y)", "text": text, "permalink": "https://example.org/1"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    scrape(_config("files", tmp_path / "a.jsonl"), tmp_path / "out", Silent())
    (line,) = (line for line in (tmp_path / "out" / "ATTRIBUTION.md").read_text().splitlines() if "evil" in line)
    assert line == r"- \[2J evil \[x\](y): https://example.org/1"


def test_an_interrupt_says_that_work_is_kept(wiki: Any, tmp_path: Path) -> None:
    class Stops(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            raise KeyboardInterrupt

    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    with pytest.raises(InterruptedRun):
        scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "o.jsonl", Stops())
    assert not (tmp_path / "o.jsonl").exists()


LONG = "Some words that are long enough to be taken for a document."


def test_a_folder_gives_texts_and_lines_in_the_order_of_names(tmp_path: Path, heard: Any) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "B's page.txt").write_bytes(b"\xef\xbb\xbf" + LONG.encode() + b"\r\nnext\r\n")
    (folder / "sub" / "a.md").write_text(LONG)
    (folder / "bad.txt").write_bytes(b"\xff\xfe" + LONG.encode())
    (folder / "tiny.txt").write_text("hi")
    (folder / "picture.png").write_bytes(b"x")
    lines = [{"text": LONG, "title": "T", "extra": 1}, {"subject": "S", "text": [LONG, "more"]}, {"text": 3}]
    lines.append({"id": "x1", "text": LONG, "license": {"name": "MIT"}, "categories": ["c"], "revision": "no"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = scrape(_config("files", folder), tmp_path / "o.jsonl", heard)
    rows = _rows(tmp_path / "o.jsonl")
    assert [row["title"] for row in rows] == ["B's page", "T", "S", "", "a"]
    assert rows[0]["text"] == LONG + "\nnext"
    assert rows[2]["text"] == LONG + "\n\nmore"
    assert (rows[3]["license"], rows[3]["categories"], rows[3].get("revision")) == ({"name": "MIT"}, ["c"], None)
    assert report.rejected == {"no text": 1, "not UTF-8": 1, "short": 1}
    assert len({row["id"] for row in rows}) == 5
    assert any("no licence is known for 4 of 5" in text for text in heard.said)


def test_every_field_of_a_document_in_a_line_is_kept(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "id": "1", "title": "Odo", "text": "Odo is a smith, and says so to everybody who comes to him.",
        "url": "https://w/1", "permalink": "https://w/1?oldid=5", "revision": 5, "timestamp": "2020",
        "license": {"name": "MIT", "url": "https://m"}, "site": "W", "categories": ["a"], "aliases": ["b"],
        "infobox": [{"label": "c", "values": ["d"]}], "sections": [{"level": 2, "heading": "e", "text": "f"}],
        "kind": "transcript", "parents": ["2"],
        "generator": {"strategy": "s", "version": 2, "teacher": "t", "prompt_sha": "p"},
    }  # fmt: skip
    row["sha256"] = Document.model_validate(row).sha256
    assert row.keys() == Document.model_fields.keys()
    (tmp_path / "documents.jsonl").write_text(json.dumps(row))
    scrape(_config("files", tmp_path / "documents.jsonl"), tmp_path / "out", Silent())
    assert _rows(tmp_path / "out" / "documents.jsonl") == [row]


TERMS = {
    "CC BY-NC-ND 4.0": None, "Attribution Non Commercial": None, "Creative Commons No Derivatives": None,
    "noncommercial": None, "House terms": "https://creativecommons.org/licenses/by-nd/4.0/",
    "CC BY-SA 4.0": "https://nc.example.org/terms", "Canon Commercial": None,
}  # fmt: skip


def test_terms_of_single_rows_that_restrict_the_use_are_said(tmp_path: Path, heard: Any) -> None:
    lines = [{"text": LONG, "license": {"name": name, "url": url}} for name, url in TERMS.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[0]])))
    scrape(_config("files", tmp_path / "rows.jsonl"), tmp_path / "o.jsonl", heard)
    said = [text.partition(":")[0] for text in heard.said if "it forbids commercial use or changed versions" in text]
    numbers = [2, 1, 1, 1, 1]
    assert said == [f"the licence of {n} of 8 documents is {name}" for n, name in zip(numbers, TERMS, strict=False)]


def test_rows_that_state_licence_and_address_stand_in_the_attribution(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {
            "title": "A",
            "text": LONG,
            "url": "https://a.org/1",
            "license": {"name": "CC BY 4.0", "url": "https://c.org/by"},
        },
        {"title": "B", "text": LONG, "url": "https://b.org/\n- 2"},
        {"title": "C", "text": LONG, "license": {"name": "CC BY 4.0", "url": "https://c.org/by"}},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scrape(_config("files", tmp_path / "rows.jsonl"), tmp_path / "two", Silent())
    text = (tmp_path / "two" / "ATTRIBUTION.md").read_text()
    assert "Licence of 2 documents: CC BY 4.0 (https://c.org/by).\nLicence of 1 documents: not stated." in text
    assert text.endswith("\n\n- A: https://a.org/1 (CC BY 4.0)\n- B: https://b.org/-2 (licence not stated)\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps(lines[0]))
    scrape(_config("files", tmp_path / "rows.jsonl"), tmp_path / "one", Silent())
    text = (tmp_path / "one" / "ATTRIBUTION.md").read_text()
    assert "\nLicence: CC BY 4.0 (https://c.org/by).\n" in text
    assert text.endswith("\n\n- A: https://a.org/1\n")


SAVED = f"""<!DOCTYPE html><html><head><meta charset="CHARSET"><title>Yennefer - A Wiki</title><style>p {{}}</style>
<link rel="canonical" href="https://example.org/wiki/Yennefer"></head><body><header>Site</header>
<nav><a>Home</a></nav><div role="search">Find</div><main><header><h1>Yennefer <i>of</i> Vengerberg</h1></header>
<aside class="portable-infobox"><div class="pi-data"><h3 class="pi-data-label">Eyes</h3>
<div class="pi-data-value">violet</div></div></aside><p>{LONG} Na\u00efve?</p><script>track()</script>
<h2>Magic</h2><ul><li>Chaos</li></ul></main><aside>More</aside>
<footer>Imprint</footer></body></html>"""


def test_saved_pages_give_title_address_text_facts_and_sections(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.html").write_bytes(SAVED.replace("CHARSET", "utf-8").encode())
    (tmp_path / "in" / "b.HTM").write_bytes(SAVED.replace("CHARSET", "ISO-8859-1").encode("cp1252"))
    (tmp_path / "in" / "c.xhtml").write_text(f"<title>Pair</title><h1>One</h1><p>{LONG}</p><h1>Two</h1><p>End.</p>")
    (tmp_path / "in" / "d.html").write_bytes(SAVED.replace("CHARSET", "no such").encode("cp1252"))
    (tmp_path / "in" / "e.html").write_text("<div>" * 5000 + LONG)
    report = scrape(_config("files", tmp_path / "in"), tmp_path / "o.jsonl", Silent())
    first, second, third = _rows(tmp_path / "o.jsonl")
    assert (first["title"], first["url"]) == ("Yennefer of Vengerberg", "https://example.org/wiki/Yennefer")
    assert first["text"] == f"{LONG} Na\u00efve?\n\nMagic\n\n- Chaos"
    assert first["infobox"] == [{"label": "Eyes", "values": ["violet"]}]
    assert first["sections"] == [{"level": 2, "heading": "Magic", "text": "- Chaos"}]
    assert second == {**first, "id": "b.HTM"}, "the charset it declares is the one it is read in"
    assert (third["title"], third["text"]) == ("Pair", f"One\n\n{LONG}\n\nTwo\n\nEnd.")
    assert report.rejected == {"not UTF-8": 1, "unreadable": 1}


def _lead(row: dict[str, Any]) -> str:
    """What stands before the first section, as docs/scrape.md says to find it."""
    below = "\n\n".join(part for s in row.get("sections", ()) for part in (s["heading"], s["text"]) if part)
    assert row["text"].endswith(below)
    return row["text"][: len(row["text"]) - len(below)].strip()  # type: ignore[no-any-return]


def test_the_lead_is_what_stands_before_the_sections(wiki: Any, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(wiki.dump(), encoding="utf-8")
    scrape(_config("dump", tmp_path / "d.xml"), tmp_path / "d.jsonl", Silent())
    leads = {row["title"]: _lead(row) for row in _rows(tmp_path / "d.jsonl")}
    assert leads["Geralt of Rivia"].endswith("R\u00e9gis & Ang\u00ealme know.")
    assert leads["Ciri"].endswith("a word kept.")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.html").write_bytes(f"<p>{LONG}</p><h2>A</h2><h3>B</h3><pre>x\r\n y</pre>".encode())
    (tmp_path / "in" / "b.html").write_text(f"<h2>A</h2><p>{LONG}</p>")
    scrape(_config("files", tmp_path / "in"), tmp_path / "o.jsonl", Silent())
    assert [_lead(row) for row in _rows(tmp_path / "o.jsonl")] == [LONG, ""]


def test_a_half_written_line_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": LONG}) + '\n{"text": "ha')
    with pytest.raises(CirillaError, match=r"rows\.jsonl:2: half-written"):
        scrape(_config("files", tmp_path / "rows.jsonl"), tmp_path / "o.jsonl", Silent())
    assert not (tmp_path / "o.jsonl").exists()


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match=r"holds no \.txt"):
        scrape(_config("files", tmp_path), tmp_path / "o.jsonl", Silent())


def _corpus(folder: Path, rows: int) -> None:
    folder.mkdir()
    texts = (f"{LONG} Number {index}." if index % 7 else "x" for index in range(rows))
    lines = ({"text": text, "url": f"https://example.org/{index}"} for index, text in enumerate(texts))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_base_corpus_is_streamed_up_to_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    _corpus(tmp_path / "corpus", 30)
    report = scrape(_config("hub", str(tmp_path / "corpus"), limit=10), tmp_path / "a.jsonl", Silent())
    assert (report.documents, report.rejected) == (10, {"short": 2})
    assert _rows(tmp_path / "a.jsonl")[0]["id"].endswith("#1")
    small = _config("hub", str(tmp_path / "corpus"), source={"max_bytes": "150B"})
    assert scrape(small, tmp_path / "b.jsonl", Silent()).documents == 3
    with pytest.raises(CirillaError, match="no column `body`"):
        scrape(_config("hub", str(tmp_path / "corpus"), source={"text_key": "body"}), tmp_path / "c.jsonl", Silent())


_CALL = """
import json, sys, time
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
class Slow(Silent):
    def step(self, *args, **figures): time.sleep(0.01)
scrape(ScrapeConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), Slow())
"""


def test_a_stream_killed_midway_goes_on_to_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    _corpus(tmp_path / "corpus", 200)
    config = _config("hub", str(tmp_path / "corpus"), limit=120)
    whole = scrape(config, tmp_path / "whole", Silent())
    out = tmp_path / "cut"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", _CALL, config.model_dump_json(), str(out)], env=env)
    part = out / ".documents.jsonl.part"
    kill_at_line(process, part, 30)
    with part.open("ab") as file:
        file.write(b'{"id": "torn')
    said: list[str] = []

    class Says(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            said.append(f"{done:.0f}")

    report = scrape(config, out, Says())
    assert int(said[0]) >= 30, "it went on, it did not begin anew"
    assert (report.documents, report.rejected) == (whole.documents, whole.rejected)
    for name in ("documents.jsonl", "rejects.jsonl", "ATTRIBUTION.md"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "mediawiki", "api": "wiki.example.org"}, "http or https address"),
        ({"kind": "mediawiki", "api": "https://me:word@x/api.php"}, "must not hold a name or a password"),
        ({"kind": "mediawiki", "api": "http://x/api.php", "category": "A", "titles": ["B"]}, "not both"),
        ({"kind": "mediawiki", "api": "http://x/api.php", "depth": 2}, "needs `category`"),
        ({"kind": "dump", "path": "x", "paht": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_section_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScrapeConfig.model_validate({"source": source})


@pytest.mark.parametrize("kind", ["files", "dump", "hub", "scraped"])
def test_a_contact_that_nobody_would_hear_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="none is asked here"):
        ScrapeConfig.model_validate({"source": {"kind": kind, "path": "x"}, "contact": "me@example.org"})


def test_a_contact_that_would_break_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="plain ASCII on one line"):
        ScrapeConfig.model_validate({"source": {"kind": "files", "path": "x"}, "contact": "a@b\r\nX: y"})
