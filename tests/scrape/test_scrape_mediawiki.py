"""A real MediaWiki on loopback: every page, every fact, whatever goes wrong on the way.

What a page must say is written beside its wikitext (`known_pages`), and which pages there are is read from the wiki's
own tables, so nothing here is judged by what it tests.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from killing import kill_at_line  # noqa: E402
from known_pages import NOISE, REJECTED, Truth, pages, truths  # noqa: E402
from real_wiki import FAULTS, SITE, Proxy, RealWiki, installed, missing, running  # noqa: E402

from cirilla_cli.errors import CirillaError  # noqa: E402
from cirilla_cli.http import Client  # noqa: E402
from cirilla_cli.progress import Silent  # noqa: E402
from cirilla_cli.scrape.config import MediaWikiConfig, ScrapeConfig  # noqa: E402
from cirilla_cli.scrape.mediawiki import WikiSource, connect  # noqa: E402
from cirilla_cli.scrape.page import Reject, Rules  # noqa: E402
from cirilla_cli.scrape.run import scrape  # noqa: E402
from cirilla_cli.scrape.store import MemoryStore  # noqa: E402

ROOT = Path(__file__).parents[2]
ABSENT = missing()
pytestmark = [
    pytest.mark.skipif(ABSENT is not None, reason=f"no MediaWiki: {ABSENT}"), pytest.mark.timeout(900), pytest.mark.slow
]  # fmt: skip
READINGS = ("html", "wikitext")
KNOWN = truths()


@pytest.fixture(scope="module")
def wiki() -> RealWiki:
    """The wiki with the known pages; seeded once for one state of these, and kept for later calls."""
    state = (SITE / "seed.php").read_text() + json.dumps(list(pages(KNOWN)))
    key = hashlib.sha256(state.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cirilla-mediawiki-{key}"
    if not (folder / "whole").exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as building:
            made = installed(Path(building) / "wiki", pages(KNOWN))
            made.copy(folder)
            (folder / "whole").touch()
    return RealWiki(folder)


@pytest.fixture(scope="module")
def site(wiki: RealWiki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The wiki, served."""
    with running(wiki.copy(tmp_path_factory.mktemp("site") / "wiki")) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _quiet(site: Proxy) -> None:
    site.clear()


def _config(site: Proxy, **source: Any) -> ScrapeConfig:
    limit = source.pop("limit", None)
    given = {"kind": "mediawiki", "api": site.api, "pause": 0, **source}
    return ScrapeConfig.model_validate({"source": given, "limit": limit})


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _contents_asked(site: Proxy) -> int:
    return sum(a.get("action") == "parse" or "content" in a.get("rvprop", "") for a in site.asked)


@pytest.fixture(scope="module", params=READINGS)
def scraped(
    site: Proxy, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, int]:
    """(a reading, the folder of the whole wiki in it, the requests it took)."""
    out = tmp_path_factory.mktemp(request.param)
    site.clear()
    scrape(_config(site, reading=request.param), out, Silent())
    return request.param, out, len(site.asked)


def test_every_page_comes_once_in_its_newest_revision_and_the_others_say_why_not(
    site: Proxy, scraped: tuple[str, Path, int]
) -> None:
    _, out, _ = scraped
    stored = {title: page for title, page in site.wiki.stored().items() if page.namespace == 0}
    rows, rejects = _rows(out / "documents.jsonl"), _rows(out / "rejects.jsonl")
    found = {row["title"]: row for row in rows}
    assert len(found) == len(rows)
    assert {(row["title"], row["id"], row["revision"]) for row in rows} == {
        (page.title, str(page.id), page.revision)
        for page in stored.values()
        if not page.redirect and page.title not in REJECTED
    }
    assert {truth.title for truth in KNOWN} == set(found) - {"Main Page"}
    assert {row["title"]: row["reason"] for row in rejects} == REJECTED
    assert "Deleted" not in found


def test_facts_are_in_and_noise_is_out(scraped: tuple[str, Path, int]) -> None:
    _, out, _ = scraped
    rows = {row["title"]: row for row in _rows(out / "documents.jsonl")}
    for truth in KNOWN:
        row = rows[truth.title]
        assert [said for said in truth.says if said not in row["text"]] == [], row["text"][:2000]
        assert [noise for noise in NOISE if noise in row["text"]] == []
        assert tuple((f["label"], tuple(f["values"])) for f in row["infobox"]) == truth.infobox
        assert tuple(section["heading"] for section in row["sections"]) == truth.headings
        assert tuple(row["categories"]) == truth.categories
        assert set(row["aliases"]) == set(truth.aliases)
        assert row["license"]["url"] == "https://creativecommons.org/licenses/by-sa/3.0/"
        assert row.get("kind") == ("transcript" if truth.title.endswith("/transcript") else None)


def test_the_whole_wiki_is_made_again_byte_for_byte_without_a_request(
    site: Proxy, scraped: tuple[str, Path, int], tmp_path: Path
) -> None:
    _, out, _ = scraped
    again = ScrapeConfig.model_validate({"source": {"kind": "scraped", "path": out}})
    assert scrape(again, tmp_path, Silent()).requests == 0
    assert site.asked == []
    for name in ("documents.jsonl", "rejects.jsonl", "ATTRIBUTION.md"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_both_readings_of_a_real_wiki_give_the_same_rows(site: Proxy, tmp_path: Path) -> None:
    found = []
    titles = [truth.title for truth in KNOWN if truth.title != "The long list"][::7]
    for reading in READINGS:
        scrape(_config(site, reading=reading, titles=titles), tmp_path / reading, Silent())
        found.append({row["id"]: row for row in _rows(tmp_path / reading / "documents.jsonl")})
    assert len(found[0]) == len(titles)
    assert found[0] == found[1]


def test_few_requests_are_made(scraped: tuple[str, Path, int]) -> None:
    reading, out, asked = scraped
    number = len(_rows(out / "documents.jsonl")) + sum(
        row["reason"] in ("short", "disambiguation") for row in _rows(out / "rejects.jsonl")
    )
    # What a wiki costs however large it is: its own words about itself, its redirects, its templates.
    once = 3
    # The page of 1 MB breaks one answer off by its size, which is a request more.
    assert asked - once <= (1.05 * number if reading == "html" else 1.1 * -(-number // 50) + 1)


def test_requests_are_polite(site: Proxy, tmp_path: Path) -> None:
    config = _config(site, titles=["Hunter 1", "Town 1"]).model_copy(update={"contact": "me@example.org"})
    scrape(config, tmp_path, Silent())
    assert site.most_at_once == 1
    assert {asked["maxlag"] for asked in site.asked} == {"5"}
    assert all("gzip" in headers["Accept-Encoding"] for headers in site.headers)
    assert all("me@example.org" in headers["User-Agent"] for headers in site.headers)


def test_a_category_with_loops_is_walked_once(site: Proxy, tmp_path: Path) -> None:
    report = scrape(_config(site, category="People", depth=9, reading="wikitext"), tmp_path, Silent())
    assert report.documents == sum("Hunters" in truth.categories for truth in KNOWN)
    asked = [a["gcmtitle"] for a in site.asked if "gcmtitle" in a and "gcmcontinue" not in a]
    walked = {"Category:People", "Category:Hunters", "Category:Hunters of 0", "Category:Hunters of 1"}
    assert set(asked) == walked


def test_other_namespaces_come_when_asked_for(site: Proxy, tmp_path: Path) -> None:
    scrape(_config(site, namespaces=[1, 12], reading="wikitext"), tmp_path, Silent())
    assert {row["title"] for row in _rows(tmp_path / "documents.jsonl")} == {"Talk:Hunter 1", "Help:Guide"}


def test_links_are_followed_as_deep_and_as_far_as_allowed(site: Proxy, tmp_path: Path) -> None:
    def titles(name: str, follow: int, most: int) -> list[str]:
        config = _config(site, titles=["Hunter 9"], reading="wikitext", follow=follow, max_pages=most)
        scrape(config, tmp_path / name, Silent())
        return [row["title"] for row in _rows(tmp_path / name / "documents.jsonl")]

    # Hunter 9 links to Hunter 3 (9 mod 7, and 1), and its navigation to Hunter 1 and Hunter 2; what these link to:
    assert set(titles("a", 1, 100)) == {"Hunter 9", "Hunter 1", "Hunter 2", "Hunter 3"}
    assert set(titles("b", 2, 100)) == {"Hunter 9", "Hunter 1", "Hunter 2", "Hunter 3", "Hunter 4"}
    far = titles("c", 50, 100)
    assert set(far) == {"Hunter 9", *(f"Hunter {n}" for n in range(1, 8))}
    assert len(far) == len(set(far))
    assert len(titles("d", 50, 3)) == 3


def test_a_second_run_fetches_only_what_was_edited(wiki: RealWiki, tmp_path: Path) -> None:
    titles = [f"Town {n}" for n in range(1, 9)] + ["White Wolf"]
    with running(wiki.copy(tmp_path / "wiki")) as site:
        for reading in READINGS:
            config, out = _config(site, reading=reading, titles=titles), tmp_path / reading
            scrape(config, out, Silent())
            before = (out / "documents.jsonl").read_bytes()
            site.clear()
            scrape(config, out, Silent())
            assert _contents_asked(site) == 0
            assert (out / "documents.jsonl").read_bytes() == before
            site.wiki.seed([{"title": "Town 5", "text": f"Town 5 was burnt down, says its page now ({reading})."}])
            site.clear()
            scrape(config, out, Silent())
            assert _contents_asked(site) == 1
            rows = {row["title"]: row for row in _rows(out / "documents.jsonl")}
            assert rows["Town 5"]["text"] == f"Town 5 was burnt down, says its page now ({reading})."
            assert rows["Town 5"]["revision"] == site.wiki.stored()["Town 5"].revision
            assert rows["Town 4"] == next(r for r in map(json.loads, before.splitlines()) if r["title"] == "Town 4")
        site.wiki.seed([{"title": "Town 6", "delete": True}])
        scrape(config, out, Silent())
        assert "Town 6" not in {row["title"] for row in _rows(out / "documents.jsonl")}
        assert {row["title"]: row["reason"] for row in _rows(out / "rejects.jsonl")} == {"Town 6": "missing"}


_CALL = """
import json, sys
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
scrape(ScrapeConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), Silent())
"""


def _kill_after(config: ScrapeConfig, out: Path, lines: int) -> None:
    command = [sys.executable, "-c", _CALL, config.model_dump_json(), str(out)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    kill_at_line(process, out / "journal.jsonl", lines)


@pytest.mark.parametrize(("reading", "stops"), [("html", (6, 15)), ("wikitext", (20, 60))])
def test_killed_and_resumed_twice_the_rows_are_the_same(
    site: Proxy, tmp_path: Path, reading: str, stops: tuple[int, int]
) -> None:
    titles = [truth.title for truth in KNOWN if truth.title.startswith("Hunter")][: 20 if reading == "html" else 104]
    config, out = _config(site, reading=reading, titles=titles), tmp_path / "cut"
    scrape(config, tmp_path / "whole", Silent())
    site.clear()
    site.delay_s = 0.1
    for stop in stops:
        _kill_after(config, out, stop)
        assert not (out / "documents.jsonl").exists()
    scrape(config, out, Silent())
    for name in ("documents.jsonl", "rejects.jsonl", "ATTRIBUTION.md"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    raw = [
        json.loads(line)["id"] for line in gzip.decompress((out / "raw" / "pages.jsonl.gz").read_bytes()).splitlines()
    ]
    assert len(raw) == len(set(raw)), "no page is kept twice"
    if reading == "html":
        asked = [a["pageid"] for a in site.asked if a.get("action") == "parse"]
        assert len(asked) - len(set(asked)) <= 2, "at most the page in flight is asked for again"


@pytest.mark.parametrize("reading", READINGS)
def test_behind_faults_of_every_kind_every_page_comes_once(site: Proxy, reading: str) -> None:
    known = [truth for truth in KNOWN if truth.title.startswith(("Hunter", "Town"))]
    known = known[:40] if reading == "html" else known
    source = {"titles": [truth.title for truth in known]} if reading == "html" else {}
    config = MediaWikiConfig.model_validate({"api": site.api, "reading": reading, **source})
    waits: list[float] = []
    client = Client("test", sleep=waits.append, timeout_s=5.0, max_tries=8)
    site.slow_s = 6.0
    # Three of four questions for content are spoilt, each kind at least once.
    kinds = iter(FAULTS * 9)
    site.faults = {number: next(kinds) for number in range(1, 80) if number % 4}
    rows = list(WikiSource(*connect(config, client, Silent()), config, Rules(40), MemoryStore(), None, None).rows())
    documents = [row for row in rows if not isinstance(row, Reject)]
    titles = [row.title for row in documents]
    assert len(titles) == len(set(titles))
    assert {truth.title for truth in known} <= set(titles)
    assert reading == "html" or {truth.title for truth in KNOWN} == set(titles) - {"Main Page"}
    assert "failed" not in {row.reason for row in rows if isinstance(row, Reject)}
    _complete(known, {row.title: row.text for row in documents})
    assert site.contents > len(FAULTS)
    assert 7.0 in waits
    assert any(7 < wait < 9.1 for wait in waits), "the date of a 429 is waited for"
    assert waits.count(5.0) >= 2, "and what maxlag and ratelimited ask for"


def _complete(known: list[Truth], texts: dict[str, str]) -> None:
    for truth in known:
        assert all(said in texts[truth.title] for said in truth.says)


def test_a_challenge_page_ends_the_command_with_4_and_names_the_dump(site: Proxy, tmp_path: Path) -> None:
    site.faults = {2: "challenge"}
    command = [
        sys.executable,
        "-m",
        "cirilla_cli",
        "scrape",
        "--api",
        site.api,
        "--out",
        str(tmp_path / "out"),
        "scrape.source.pause=0s",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == 4
    assert "bot challenge" in done.stderr
    assert "--dump" in done.stderr
    assert site.contents == 2, "it is not asked again"


def test_robots_txt_and_its_delay_hold_on_a_real_wiki(site: Proxy) -> None:
    site.robots = "User-agent: *\nDisallow: /api.php\n"
    config = MediaWikiConfig.model_validate({"api": site.api, "titles": ["Town 1"]})
    waits: list[float] = []
    try:
        with pytest.raises(CirillaError, match="robots.txt forbids /api.php"):
            connect(config, Client("test", sleep=waits.append), Silent())
        assert site.asked == []
        site.robots = "User-agent: *\nCrawl-delay: 2\nAllow: /\n"
        api, about = connect(config, Client("test", sleep=waits.append), Silent())
        list(WikiSource(api, about, config, Rules(40), MemoryStore(), None, None).rows())
    finally:
        site.robots = None
    assert len(waits) == len(site.asked)
