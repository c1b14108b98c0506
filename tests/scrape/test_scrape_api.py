"""A live wiki on loopback: everything is found, politely, whatever goes wrong on the way."""

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.http import BotChallenge, Client
from cirilla_cli.scrape.config import MediaWikiConfig, ScrapeConfig
from cirilla_cli.scrape.mediawiki import WikiSource, connect
from cirilla_cli.scrape.page import Reject, Rules
from cirilla_cli.scrape.run import scrape
from cirilla_cli.scrape.store import FolderStore, MemoryStore

from .killing import kill_at_line

ROOT = Path(__file__).parents[2]


def _config(wiki: Any, *, limit: int | None = None, **source: Any) -> ScrapeConfig:
    return ScrapeConfig.model_validate(
        {"source": {"kind": "mediawiki", "api": wiki.api, "pause": 0, **source}, "limit": limit}
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _expected_titles(wiki: Any) -> set[str]:
    rejected = {"Swallow", "Tiny"}
    return {p.title for p in wiki.pages if p.ns == 0 and p.redirect is None and p.title not in rejected}


@pytest.mark.parametrize("reading", ["html", "wikitext"])
def test_the_whole_wiki_comes_though_its_answers_come_in_parts(
    wiki: Any, heard: Any, tmp_path: Path, reading: str
) -> None:
    report = scrape(_config(wiki, reading=reading), tmp_path, heard)
    rows = {row["title"]: row for row in _rows(tmp_path / "documents.jsonl")}
    assert set(rows) == _expected_titles(wiki)
    assert report.documents == len(rows)
    assert report.rejected == {"disambiguation": 1, "short": 1, "redirect loop": 2}
    geralt = rows["Geralt of Rivia"]
    assert geralt["aliases"] == ["Gwynbleidd", "White Wolf"]
    assert geralt["categories"] == ["Characters", "Witchers"]
    assert (
        geralt["license"] == wiki.rights | {"name": wiki.rights["text"]} or geralt["license"]["name"] == "CC BY-SA 3.0"
    )
    assert geralt["url"] == f"{wiki.url}/wiki/Geralt_of_Rivia"
    assert geralt["permalink"] == f"{wiki.url}/wiki/Geralt_of_Rivia?oldid=1001"
    assert (geralt["revision"], geralt["timestamp"]) == (1001, wiki.pages[0].timestamp)
    assert "fetched" not in geralt
    attribution = (tmp_path / "ATTRIBUTION.md").read_text()
    assert "CC BY-SA 3.0" in attribution
    assert "Geralt_of_Rivia?action=history" in attribution


def test_html_wikitext_and_the_dump_give_the_same_rows(wiki: Any, heard: Any, tmp_path: Path) -> None:
    scrape(_config(wiki), tmp_path / "html", heard)
    scrape(_config(wiki, reading="wikitext"), tmp_path / "wikitext", heard)
    dump = tmp_path / "dump.xml"
    dump.write_text(wiki.dump(), encoding="utf-8")
    license = {"name": wiki.rights["text"], "url": wiki.rights["url"]}
    scrape(
        ScrapeConfig.model_validate({"source": {"kind": "dump", "path": dump}, "license": license}),
        tmp_path / "d",
        heard,
    )
    found = [
        {row["id"]: row for row in _rows(tmp_path / name / "documents.jsonl")} for name in ("html", "wikitext", "d")
    ]
    assert found[0] == found[1]
    assert found[1] == found[2]


def test_titles_that_break_programs_stay_as_they_are(wiki: Any, heard: Any, tmp_path: Path) -> None:
    scrape(_config(wiki), tmp_path / "out", heard)
    rows = {row["title"]: row for row in _rows(tmp_path / "out" / "documents.jsonl")}
    for page in wiki.pages:
        if page.id >= 100:
            assert rows[page.title]["text"] == page.text.partition("\n")[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    names = {"ATTRIBUTION.md", "documents.jsonl", "rejects.jsonl", "journal.jsonl", "raw"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names


def test_a_category_loop_ends_and_other_namespaces_are_rejected(wiki: Any, heard: Any, tmp_path: Path) -> None:
    report = scrape(_config(wiki, category="Characters", depth=5), tmp_path, heard)
    assert {row["title"] for row in _rows(tmp_path / "documents.jsonl")} == {"Geralt of Rivia", "Ciri"}
    assert report.rejected == {"namespace": 1}
    listed = [a["gcmtitle"] for a in wiki.asked if a.get("generator") == "categorymembers" and "rvcontinue" not in a]
    assert sorted(listed) == ["Category:Characters", "Category:Witchers"]


def test_titles_are_followed_and_those_that_lead_nowhere_are_rejected(wiki: Any, heard: Any, tmp_path: Path) -> None:
    (tmp_path / "titles.json").write_text(json.dumps(["White Wolf", "Geralt of Rivia", "Nobody", "a|b"]))
    source = {"titles": ["Round one", "A/B"], "titles_file": tmp_path / "titles.json"}
    scrape(_config(wiki, **source), tmp_path / "out", heard)
    assert [row["title"] for row in _rows(tmp_path / "out" / "documents.jsonl")] == ["A/B", "Geralt of Rivia"]
    reasons = {row["title"]: row["reason"] for row in _rows(tmp_path / "out" / "rejects.jsonl")}
    assert reasons == {"a|b": "not a title", "Round one": "redirect loop", "Nobody": "missing"}


def test_a_nested_title_list_is_refused(wiki: Any, heard: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"titles": ["A"]}')
    with pytest.raises(CirillaError, match="a flat list of titles"):
        scrape(_config(wiki, titles_file=tmp_path / "t.json"), tmp_path / "out", heard)


@pytest.mark.parametrize("reading", ["html", "wikitext"])
def test_a_second_run_fetches_only_what_changed(wiki: Any, heard: Any, tmp_path: Path, reading: str) -> None:
    scrape(_config(wiki, reading=reading), tmp_path, heard)
    before = (tmp_path / "documents.jsonl").read_bytes()
    wiki.parsed.clear()
    wiki.contents.clear()
    scrape(_config(wiki, reading=reading), tmp_path, heard)
    assert (wiki.parsed, wiki.contents) == ([], [])
    assert (tmp_path / "documents.jsonl").read_bytes() == before
    page = wiki.page("CON")
    page.text, page.html, page.revision = "Now " + page.text, page.html.replace("This", "Now This"), 5000
    scrape(_config(wiki, reading=reading), tmp_path, heard)
    assert wiki.parsed + wiki.contents == [page.id]
    row = next(row for row in _rows(tmp_path / "documents.jsonl") if row["title"] == "CON")
    assert row["text"].startswith("Now This")
    assert row["revision"] == 5000


def test_raw_pages_are_plain_gzip_lines(wiki: Any, heard: Any, tmp_path: Path) -> None:
    scrape(_config(wiki, titles=["A/B", "Ciri"]), tmp_path, heard)
    lines = gzip.decompress((tmp_path / "raw" / "pages.jsonl.gz").read_bytes()).splitlines()
    assert {json.loads(line)["title"]: json.loads(line)["content"] for line in lines}["Ciri"] == wiki.page("Ciri").html


def test_limit_takes_that_many_documents_and_fetches_no_more(wiki: Any, heard: Any, tmp_path: Path) -> None:
    assert scrape(_config(wiki, limit=3), tmp_path, heard).documents == 3
    assert len(wiki.parsed) <= 4


def test_standard_output_gets_rows_and_nothing_is_kept(
    wiki: Any, heard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for reading in ("html", "wikitext"):
        scrape(_config(wiki, reading=reading), Path("-"), heard)
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {row["title"] for row in rows} == _expected_titles(wiki)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_closes_ends_the_scrape(wiki: Any) -> None:
    wiki.delay_s = 0.05
    with _start(_config(wiki), Path("-"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert b"BrokenPipeError" in process.stderr.read()
    assert json.loads(first)["title"]
    assert len(wiki.parsed) < len(_expected_titles(wiki))


def _source(wiki: Any, heard: Any, waits: list[float], **options: Any) -> WikiSource:
    client = Client("test", sleep=waits.append, **options)
    config = MediaWikiConfig.model_validate({"api": wiki.api})
    return WikiSource(*connect(config, client, heard), config, Rules(40), MemoryStore(), None, None)


def test_every_page_survives_every_kind_of_fault(wiki: Any, heard: Any) -> None:
    kinds = ["429", "503", "truncated", "html", "maxlag"]
    wiki.faults = {number: kinds[index % 5] for index, number in enumerate(range(2, 20, 2))}
    waits: list[float] = []
    rows = list(_source(wiki, heard, waits).rows())
    assert {row.title for row in rows if not isinstance(row, Reject)} == _expected_titles(wiki)
    assert waits[0] == 7.0
    assert len(waits) == 9
    assert 5.0 in waits, "what maxlag asks for is waited"


def test_a_page_that_keeps_failing_is_rejected_and_not_stored(wiki: Any, heard: Any, tmp_path: Path) -> None:
    wiki.faults = {1: "html", 2: "html"}
    client = Client("test", sleep=lambda _: None, max_tries=2)
    config = MediaWikiConfig.model_validate({"api": wiki.api, "titles": ["Ciri", "A/B"]})
    store = FolderStore(tmp_path, wiki.api)
    rows = list(WikiSource(*connect(config, client, heard), config, Rules(40), store, None, None).rows())
    assert [(row.title, row.reason) for row in rows if isinstance(row, Reject)] == [("Ciri", "failed")]
    assert [row.title for row in rows if not isinstance(row, Reject)] == ["A/B"]
    assert [number for number in range(1, 200) if store.has(number, "html", 1000 + number)] == [wiki.page("A/B").id]
    store.close()


def test_a_wiki_that_stays_down_ends_the_run(wiki: Any, heard: Any) -> None:
    wiki.faults = dict.fromkeys(range(1, 100), "503")
    with pytest.raises(ServiceError, match="HTTP 503"):
        list(_source(wiki, heard, [], max_tries=2).rows())
    assert len(wiki.asked) < 20


def test_a_bot_challenge_stops_at_once(wiki: Any, heard: Any) -> None:
    wiki.faults = {3: "challenge"}
    with pytest.raises(BotChallenge) as caught:
        list(_source(wiki, heard, []).rows())
    assert "--dump" in str(caught.value.hint)
    assert sum(a.get("action") == "parse" for a in wiki.asked) == 3


def test_an_error_inside_a_good_answer_is_an_error(wiki: Any, heard: Any) -> None:
    wiki.faults = {1: "broken"}
    with pytest.raises(ServiceError, match="readapidenied"):
        list(_source(wiki, heard, []).rows())


def test_requests_name_the_program_and_the_contact(wiki: Any, heard: Any, tmp_path: Path) -> None:
    config = _config(wiki, titles=["Ciri"]).model_copy(update={"contact": "me@example.org"})
    scrape(config, tmp_path, heard)
    assert len(wiki.agents) == 1
    agent = wiki.agents.pop()
    assert agent.startswith("cirilla/")
    assert agent.endswith("(+https://github.com/cirilla; me@example.org)")
    assert {asked.get("maxlag") for asked in wiki.asked} == {"5"}


def test_robots_txt_is_honoured(wiki: Any, heard: Any, tmp_path: Path) -> None:
    wiki.robots = "User-agent: *\nDisallow: /w/\n"
    with pytest.raises(CirillaError, match="robots.txt forbids /w/api.php"):
        scrape(_config(wiki), tmp_path, heard)
    assert wiki.asked == []
    scrape(_config(wiki, titles=["Ciri"], permission="the owner, by mail"), tmp_path, heard)
    assert any("the owner, by mail" in text for text in heard.said)


UNREACHABLE = {
    "an error of the server": ({"robots_status": 500}, "HTTP 500"),
    "a request that is not implemented": ({"robots_status": 501}, "HTTP 501"),
    "a host that is overloaded": ({"robots_status": 503}, "HTTP 503"),
    "a connection that breaks": ({"robots_status": 0}, "no answer"),
    "a host that does not answer in time": ({"robots_delay_s": 0.4}, "no answer"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_while_robots_txt_cannot_be_reached_nothing_is_fetched(name: str, wiki: Any, heard: Any) -> None:
    settings, why = UNREACHABLE[name]
    vars(wiki).update(settings, robots="")
    config, waits = MediaWikiConfig.model_validate({"api": wiki.api}), list[float]()
    client = Client("test", sleep=waits.append, timeout_s=0.1 if wiki.robots_delay_s else 30.0)
    with pytest.raises(ServiceError, match="nothing may be fetched") as caught:
        connect(config, client, heard)
    assert f"{wiki.url}/robots.txt: {why}" in str(caught.value)
    assert "--dump FILE" in str(caught.value.hint)
    assert (caught.value.exit_code, wiki.asked) == (4, [])
    assert sum(waits) < 5


def test_a_permission_holds_though_robots_txt_cannot_be_reached(wiki: Any, heard: Any) -> None:
    wiki.robots_status = 503
    config = MediaWikiConfig.model_validate({"api": wiki.api, "permission": "the owner, by mail"})
    assert connect(config, Client("test", sleep=lambda _: None), heard)[1].name == "Test Wiki"
    assert any("robots.txt: HTTP 503" in text and "going on by: the owner" in text for text in heard.said)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_host_that_refuses_its_robots_txt_has_no_rules(status: int, wiki: Any, heard: Any) -> None:
    wiki.robots_status, wiki.robots = status, "User-agent: *\nDisallow: /\n"
    config = MediaWikiConfig.model_validate({"api": wiki.api})
    assert connect(config, Client("test", sleep=lambda _: None), heard)[1].name == "Test Wiki"


def test_the_crawl_delay_of_robots_txt_sets_the_pace(wiki: Any, heard: Any) -> None:
    wiki.robots = "User-agent: *\nCrawl-delay: 3\nAllow: /\n"
    waits: list[float] = []
    list(_source(wiki, heard, waits).rows())
    assert len(waits) == len(wiki.asked)
    assert all(2.5 < wait <= 3 for wait in waits)


@pytest.mark.parametrize("host", ["witcher.fandom.com", "fandom.com", "starwars.wikia.com"])
def test_hosts_whose_terms_forbid_it_explain_the_dump(host: str, heard: Any, tmp_path: Path) -> None:
    config = ScrapeConfig.model_validate({"source": {"kind": "mediawiki", "api": f"https://{host}/api.php"}})
    with pytest.raises(CirillaError, match="forbid automated access") as caught:
        scrape(config, tmp_path, heard)
    assert "Special:Statistics" in str(caught.value.hint)
    assert "--dump FILE" in str(caught.value.hint)


def test_a_host_that_is_not_local_needs_a_contact(heard: Any, tmp_path: Path) -> None:
    config = ScrapeConfig.model_validate({"source": {"kind": "mediawiki", "api": "https://wiki.example.org/w/api.php"}})
    with pytest.raises(CirillaError, match="no contact") as caught:
        scrape(config, tmp_path, heard)
    assert "--contact" in str(caught.value.hint)


def test_the_address_of_a_wiki_leads_to_its_api(wiki: Any, heard: Any, tmp_path: Path) -> None:
    for address in (wiki.url, wiki.url + "/", wiki.url + "/wiki/Main_Page"):
        assert scrape(_config(wiki, api=address, titles=["Ciri"]), tmp_path, heard).documents == 1


def test_a_host_that_is_down_is_said_soon(heard: Any) -> None:
    waits: list[float] = []
    config = MediaWikiConfig.model_validate({"api": "http://127.0.0.1:9/api.php"})
    with pytest.raises(ServiceError, match=r"127.0.0.1:9/robots.txt: no answer"):
        connect(config, Client("test", sleep=waits.append), heard)
    assert sum(waits) < 5


def test_an_address_without_a_wiki_is_said(wiki: Any, heard: Any, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="HTTP 404"):
        scrape(_config(wiki, api=wiki.url + "/x/api.php"), tmp_path, heard)


def test_an_unknown_or_restrictive_licence_is_said(wiki: Any, heard: Any, tmp_path: Path) -> None:
    wiki.rights = {"text": "CC BY-NC-SA 3.0", "url": "https://example.org/nc"}
    scrape(_config(wiki, titles=["Ciri"]), tmp_path / "a", heard)
    assert any("forbids commercial use" in text for text in heard.said)
    wiki.rights = {"text": "", "url": ""}
    scrape(_config(wiki, titles=["Ciri"]), tmp_path / "b", heard)
    assert any("no licence is known for 1 of 1" in text for text in heard.said)


def test_a_folder_of_another_wiki_is_refused(wiki: Any, heard: Any, tmp_path: Path) -> None:
    FolderStore(tmp_path, "https://other.example.org/api.php").close()
    with pytest.raises(CirillaError, match="holds pages of https://other"):
        scrape(_config(wiki), tmp_path, heard)


_CALL = """
import json, sys
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
scrape(ScrapeConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), Silent())
"""


def _start(config: ScrapeConfig, out: Path, stdout: int | None = None) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _CALL, config.model_dump_json(), str(out)]
    return subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("reading", "stops"), [("html", (4, 11)), ("wikitext", (5, 8))])
def test_killed_twice_the_rows_are_those_of_an_uninterrupted_run(
    wiki: Any, heard: Any, tmp_path: Path, reading: str, stops: tuple[int, int]
) -> None:
    config = _config(wiki, reading=reading)
    scrape(config, tmp_path / "whole", heard)
    wiki.parsed.clear()
    wiki.delay_s = 0.04
    out = tmp_path / "cut" / "rows.jsonl"
    side = out.with_name("rows.scrape")
    for stop in stops:
        kill_at_line(_start(config, out), side / "journal.jsonl", stop)
        assert not out.exists()
        # A power cut may leave half a member and half a line behind as well.
        with (side / "raw" / "pages.jsonl.gz").open("ab") as file:
            file.write(b"\x1f\x8b\x08torn")
        with (side / "journal.jsonl").open("ab") as file:
            file.write(b'{"kind": "page", "id": 1')
    last = _start(config, out)
    assert last.wait(20) == 0, last.communicate()[1].decode()
    last.communicate()
    assert out.read_bytes() == (tmp_path / "whole" / "documents.jsonl").read_bytes()
    assert (side / "rejects.jsonl").read_bytes() == (tmp_path / "whole" / "rejects.jsonl").read_bytes()
    assert (side / "ATTRIBUTION.md").read_bytes() == (tmp_path / "whole" / "ATTRIBUTION.md").read_bytes()
    raw = gzip.decompress((side / "raw" / "pages.jsonl.gz").read_bytes()).splitlines()
    assert len({json.loads(line)["id"] for line in raw}) == len(raw)
    if reading == "html":
        assert len(wiki.parsed) - len(set(wiki.parsed)) <= 2, "at most the page in flight is fetched again"


@pytest.mark.parametrize("reading", ["html", "wikitext"])
def test_what_is_no_text_in_an_answer_becomes_the_replacement_character(
    wiki: Any, heard: Any, tmp_path: Path, reading: str
) -> None:
    page = wiki.page("Ciri")
    page.title, page.text = "Ci\ud800ri \U0001f43a", page.text.replace("child", "ch\udfffild \U0001f43a")
    page.html = page.html.replace("child", "ch\udfffild \U0001f43a")
    page.categories = ("Half \ud83d",)
    scrape(_config(wiki, reading=reading), tmp_path / "out", heard)
    row = next(row for row in _rows(tmp_path / "out" / "documents.jsonl") if row["id"] == "2")
    assert (row["title"], row["categories"]) == ("Ci\ufffdri \U0001f43a", ["Half \ufffd"])
    assert "is the ch\ufffdild \U0001f43a of" in row["text"]
    again = ScrapeConfig.model_validate({"source": {"kind": "scraped", "path": tmp_path / "out"}})
    scrape(again, tmp_path / "again", heard)
    for name in ("documents.jsonl", "ATTRIBUTION.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("answer", ["[" * 100_000, '{"query": ' + "9" * 5000 + "}"], ids=["deep", "long number"])
def test_json_that_python_does_not_read_is_an_answer_that_is_not_json(answer: str) -> None:
    class Odd(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        client = Client("test", max_tries=2, sleep=lambda seconds: None)
        with pytest.raises(ServiceError, match="the answer is not JSON; gave up after 2 tries"):
            client.get_json(f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()
