"""How many requests a wiki is asked for its pages, and how many pages a second come of them.

    python -m benchmarks.politeness --pages 3000 --polite 60

A wiki on loopback (`tests/scrape/loopback_wiki.py`) answers as MediaWiki does: 50 pages with wikitext, 500 without, one
rendered page. A new scrape of all its articles is counted and timed in both readings, without a pause between requests
and, for fewer pages, with the default one. Requests are all that are made: robots.txt, the wiki's words about itself,
its redirects and its templates among them. Time is as it passes, of both sides on one machine.
"""

import argparse
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.dump import page_text, templates
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import MediaWikiConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape
from tests.scrape.loopback_wiki import FakePage, FakeWiki, Handler

_ASIDE = {"wikitext": (50, 50), "html": (500, 1)}
"""Reading: the pages a wiki lists in one answer, and those whose content it gives in one."""
_KEPT_OPEN = {"protocol_version": "HTTP/1.1", "disable_nagle_algorithm": True}
_HTML = "<p>" + "Further, the <a>hunter</a> of <b>renown</b> said things that the town had not heard. " * 40 + "</p>"


@dataclass
class Wiki:
    """A wiki on loopback with so many articles, one redirect for each twenty, and three templates."""

    pages: int

    def __enter__(self) -> Any:
        made = [
            FakePage(n, f"Hunter {n:05d}", page_text(n), _HTML, revision=10_000 + n, categories=("Hunters",))
            for n in range(1, self.pages + 1)
        ]
        for number, (name, text) in enumerate(templates().items(), self.pages + 1):
            made.append(FakePage(number, f"Template:{name}", text, "", ns=10, revision=number))
        for number in range(self.pages // 20):
            title = f"Old name {number}"
            made.append(FakePage(90_000 + number, title, "", "", redirect=made[number].title, revision=1))
        self.fake = FakeWiki(pages=made, robots="User-agent: *\nAllow: /\n")
        handler = type("Handler", (Handler,), {"wiki": self.fake, **_KEPT_OPEN})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.fake.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self.fake

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def measure(reading: str, pages: int, pause_s: float) -> None:
    """Print what one new scrape takes."""
    with Wiki(pages) as wiki, tempfile.TemporaryDirectory() as folder:
        wiki.page_limit = wiki.content_limit = _ASIDE[reading][0]
        wiki.asked = deque(maxlen=1)  # it looks through all of them at each question
        source = MediaWikiConfig.model_validate({"api": wiki.api, "reading": reading, "pause": f"{pause_s}s"})
        begin = time.monotonic()
        report = scrape(ScrapeConfig(source=source), Path(folder), Silent())
        seconds = time.monotonic() - begin
    assert report.documents == pages
    unit = _ASIDE[reading][1]
    print(
        f"{reading:<9} pause {pause_s:g} s: {pages:>5} pages, {report.requests:>5} requests, "
        f"{report.requests / (pages / unit):.3f} for each {f'{unit} pages' if unit > 1 else 'page'}, "
        f"{pages / seconds:,.1f} pages a second"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=3000, help="articles of the wiki")
    parser.add_argument("--polite", type=int, default=60, help="rendered pages to fetch with the pause")
    given = parser.parse_args()
    pause_s = float(MediaWikiConfig.model_fields["pause"].default)
    for reading in _ASIDE:
        measure(reading, given.pages, 0.0)
    measure("wikitext", given.pages, pause_s)
    measure("html", given.polite, pause_s)
