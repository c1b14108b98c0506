"""A small MediaWiki on loopback: enough of api.php to be scraped, with its traps and with faults on order."""

# Pages are written as a wiki sends them, in long lines.
# ruff: noqa: E501

import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

NAMESPACES = {0: "", 1: "Talk", 4: "Project", 6: "File", 10: "Template", 14: "Category"}

INFOBOX = """<includeonly><infobox>
  <title source="name"><default>{{PAGENAME}}</default></title>
  <image source="image"/>
  <data source="job"><label>Occupation</label></data>
  <group><header>Names</header>
  <data source="alias"><label>Also known as</label></data>
  <data source="weapons"><label>Weapons &amp; tools</label></data>
  <data source="born"><label>Born</label><default>unknown</default></data></group>
  <data source="plain"/>
</infobox>[[Category:Characters]]</includeonly><noinclude>
How to use it: {{Infobox character|name=}} [[Category:Infobox templates]]</noinclude>"""
QUOTE = "<includeonly><blockquote>{{{1}}}<br>''{{{2|Unknown}}}''{{#if:{{{3|}}}|, {{{3}}}}}</blockquote></includeonly>"
NAVBOX = """<includeonly><div class="navbox">{{#switch:{{{topic|}}}|People=[[Geralt]] &bull; [[Ciri]]|#default=none}}
</div></includeonly>"""

GERALT_TEXT = """{{Infobox character
|name=Geralt of Rivia
|image=Geralt.png
|job=[[Witcher|witcher]]
|alias=White Wolf<br>Butcher of Blaviken<br />Gwynbleidd
|weapons=
* [[Steel sword]]
* Silver sword
|plain=as it is
}}
{{Quote|Evil is evil.|Geralt|to a mage}}
<!-- a note to editors: leave this -->
'''Geralt''' doesn't say "[1 to 3]" without reason.<ref name="a">A source [2].</ref> He's from ''Kaer&nbsp;Morhen'' &mdash; the
Sea [[Witcher]]s' keep; R&eacute;gis & Ang\u00ealme know.<ref name="a" />

== Skills ==
* Signs
** [[Igni|Fire]]
** Aard
* Alchemy
# First
# Second
; Oil : for blades

=== Prices ===
{| class="wikitable"
|+ What it costs
! Thing !! Price
|-
| Drowner || 10<br>crowns
|-
| Cat || 
* one
* two
|-
| || last
|}

== Gallery ==
<gallery>
File:A.png|Caption to drop
</gallery>

== Notes ==
<references />

== Other tales ==
Other people say 5 < 6 and <nowiki>[[this]] is {{raw}}</nowiki>.
[[File:B.png|thumb|A caption with [[a link]]]]

See [https://example.org the site].
{{Navbox|topic=People}}
{{stub}}
[[Category:Witchers]]
[[de:Geralt]]
"""
GERALT_HTML = """<div class="mw-parser-output"><aside role="region" class="portable-infobox pi-background pi-layout-default">
<h2 class="pi-item pi-title" data-source="name">Geralt of Rivia</h2>
<figure class="pi-item pi-media pi-image" data-source="image"><a href="#"><img src="x.png"></a>
<figcaption class="pi-item-spacing pi-caption">Caption</figcaption></figure>
<div class="pi-item pi-data" data-source="job"><h3 class="pi-data-label">Occupation</h3>
<div class="pi-data-value pi-font"><a href="/wiki/Witcher" title="Witcher">witcher</a></div></div>
<section class="pi-item pi-group pi-border-color"><h2 class="pi-item pi-header">Names</h2>
<div class="pi-item pi-data" data-source="alias"><h3 class="pi-data-label">Also known as</h3>
<div class="pi-data-value pi-font">White Wolf<br />Butcher of Blaviken<br />Gwynbleidd</div></div>
<div class="pi-item pi-data" data-source="weapons"><h3 class="pi-data-label">Weapons &amp; tools</h3>
<div class="pi-data-value pi-font"><ul><li><a href="/wiki/Steel_sword">Steel sword</a></li><li>Silver sword</li></ul></div></div>
<div class="pi-item pi-data" data-source="born"><h3 class="pi-data-label">Born</h3>
<div class="pi-data-value pi-font">unknown</div></div></section>
<div class="pi-item pi-data" data-source="plain"><div class="pi-data-value pi-font">as it is</div></div>
</aside>
<blockquote><p>Evil is evil.<br /><i>Geralt</i>, to a mage</p></blockquote>
<p><b>Geralt</b> doesn't say "[1 to 3]" without reason.<sup id="cite_ref-a_1-0" class="reference"><a href="#cite_note-a-1">
&#91;1&#93;</a></sup> He's from <i>Kaer&#160;Morhen</i> \u2014 the
Sea <a href="/wiki/Witcher">Witchers</a>' keep; R\u00e9gis &amp; Ang\u00ealme know.<sup class="reference">[1]</sup>
</p>
<h2><span class="mw-headline" id="Skills">Skills</span><span class="mw-editsection">[<a>edit</a>]</span></h2>
<ul><li>Signs
<ul><li><a href="/wiki/Igni">Fire</a></li>
<li>Aard</li></ul></li>
<li>Alchemy</li></ul>
<ol><li>First</li>
<li>Second</li></ol>
<dl><dt>Oil</dt><dd>for blades</dd></dl>
<div class="mw-heading mw-heading3"><h3 id="Prices">Prices</h3></div>
<table class="wikitable">
<caption>What it costs
</caption>
<tbody><tr><th>Thing</th><th>Price</th></tr>
<tr><td>Drowner</td><td>10<br />crowns
</td></tr>
<tr><td>Cat</td><td><ul><li>one</li>
<li>two</li></ul></td></tr>
<tr><td></td><td>last
</td></tr></tbody></table>
<h2><span class="mw-headline" id="Gallery">Gallery</span></h2>
<ul class="gallery mw-gallery-traditional"><li class="gallerybox">Caption to drop</li></ul>
<h2><span class="mw-headline" id="Notes">Notes</span></h2>
<div class="mw-references-wrap"><ol class="references"><li id="cite_note-a-1">A source [2].</li></ol></div>
<h2><span class="mw-headline" id="Other_tales">Other tales</span></h2>
<p>Other people say 5 &lt; 6 and [[this]] is {{raw}}.
</p>
<figure class="mw-default-size" typeof="mw:File/Thumb"><img src="b.png"><figcaption>A caption with <a>a link</a></figcaption></figure>
<p>See <a rel="nofollow" class="external text" href="https://example.org">the site</a>.
</p>
<div class="navbox"><a href="/wiki/Geralt">Geralt</a> \u2022 <a>Ciri</a>
</div>
<!-- NewPP limit report -->
</div>"""

CIRI_TEXT = """'''Ciri''' is the child of [[Geralt of Rivia|Geralt]]'s [[fate]], and this says it at some length.
<poem>
First line,
second line.
</poem>
: An indented line
<div style="display:none">hidden</div>
{{Unknown box|x|a word kept}}.

[[Category:Characters]]"""
CIRI_HTML = """<div class="mw-parser-output"><p><b>Ciri</b> is the child of <a href="#">Geralt</a>'s <a class="new">fate</a>,
and this says it at some length.
</p><div class="poem"><p>First line,<br />
second line.
</p></div>
<dl><dd>An indented line</dd></dl>
<div style="display:none">hidden</div>
<p>a word kept.
</p></div>"""


@dataclass
class FakePage:
    id: int
    title: str
    text: str
    html: str
    ns: int = 0
    revision: int = 0
    categories: tuple[str, ...] = ()
    redirect: str | None = None
    disambiguation: bool = False

    @property
    def timestamp(self) -> str:
        return f"2026-01-01T00:00:{self.revision % 60:02d}Z"


def _plain(number: int, title: str) -> FakePage:
    text = f"This is the page of {title}, with words enough to be kept as a document."
    html = f'<div class="mw-parser-output"><p>{escape(text)}\n</p></div>'
    return FakePage(number, title, text + "\n[[Category:Plain]]", html, categories=("Plain",))


TITLES = [
    "A/B", "A:B", "A-B", "A//B", "CON", "NUL.txt", ".hidden", "100% Proof", "Left\\Right", "Who Goes There?", "../up",
    "\u0141\u00f3d\u017a " + "\u00e9" * 120, "Iron sword", "Iron Sword", "-", "D'jinni & \"co\"",
]  # fmt: skip
"""Titles that break programs which make file names or addresses of them."""


def make_pages() -> list[FakePage]:
    pages = [
        FakePage(1, "Geralt of Rivia", GERALT_TEXT, GERALT_HTML, categories=("Characters", "Witchers")),
        FakePage(2, "Ciri", CIRI_TEXT, CIRI_HTML, categories=("Characters",)),
        FakePage(3, "Swallow", "Swallow may be one of two.", "<p>Swallow may be one of two.</p>", disambiguation=True),
        FakePage(4, "Tiny", "Too short.", "<p>Too short.</p>"),
        FakePage(5, "White Wolf", "#REDIRECT [[Geralt of Rivia]]", "", redirect="Geralt of Rivia"),
        FakePage(6, "Round one", "#REDIRECT [[Round two]]", "", redirect="Round two"),
        FakePage(7, "Round two", "#REDIRECT [[Round one]]", "", redirect="Round one"),
        FakePage(8, "Talk:Ciri", "x" * 100, "<p>" + "x" * 100 + "</p>", ns=1, categories=("Characters",)),
        FakePage(9, "Category:Characters", "People.", "", ns=14),
        FakePage(10, "Category:Witchers", "Hunters.", "", ns=14, categories=("Characters",)),
        FakePage(11, "Template:Infobox character", INFOBOX, "", ns=10),
        FakePage(12, "Template:Quote", QUOTE, "", ns=10),
        FakePage(13, "Template:Navbox", NAVBOX, "", ns=10),
        FakePage(14, "Gwynbleidd", "#REDIRECT [[Geralt of Rivia#Names]]", "", redirect="Geralt of Rivia"),
    ]
    # The two categories hold one another: a loop.
    pages[8].categories = ("Witchers",)
    pages += [_plain(100 + index, title) for index, title in enumerate(TITLES)]
    for page in pages:
        page.revision = page.revision or 1000 + page.id
    pages[2].text += "\n__DISAMBIG__"
    return pages


@dataclass
class FakeWiki:
    """The wiki and what was asked of it; ``faults`` maps the number of a content request (from 1) to a fault."""

    pages: list[FakePage] = field(default_factory=make_pages)
    robots: str = "User-agent: *\nDisallow: /private\n"
    robots_status: int = 200
    """0 hangs up without an answer."""
    robots_delay_s: float = 0.0
    rights: dict[str, str] = field(
        default_factory=lambda: {"text": "CC BY-SA 3.0", "url": "https://creativecommons.org/licenses/by-sa/3.0/"}
    )
    content_limit: int = 3
    page_limit: int = 7
    delay_s: float = 0.0
    faults: dict[int, str] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    parsed: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    url: str = ""

    @property
    def api(self) -> str:
        return self.url + "/w/api.php"

    def page(self, title: str) -> FakePage:
        return next(page for page in self.pages if page.title == title)

    def answer(self, asked: dict[str, str]) -> dict[str, Any]:
        if asked.get("action") == "parse":
            return self._parse(asked)
        if asked.get("meta") == "siteinfo":
            return self._siteinfo()
        if "list" in asked:
            return self._redirect_lists(int(asked["apnamespace"]))
        return self._query(asked)

    def _redirect_lists(self, namespace: int) -> dict[str, Any]:
        leading = [page for page in self.pages if page.redirect is not None and page.ns == namespace]
        titles = [{"pageid": page.id, "ns": page.ns, "title": page.title} for page in leading]
        ends = [{"fromid": page.id, "ns": namespace, "title": page.redirect} for page in leading]
        return {"batchcomplete": True, "query": {"allpages": titles, "allredirects": ends}}

    def _siteinfo(self) -> dict[str, Any]:
        general = {"sitename": "Test Wiki", "server": self.url, "articlepath": "/wiki/$1", "wikiid": "test"}
        names = {str(key): {"id": key, "name": name, "canonical": name} for key, name in NAMESPACES.items()}
        return {"batchcomplete": True, "query": {"general": general, "rightsinfo": self.rights, "namespaces": names}}

    def _parse(self, asked: dict[str, str]) -> dict[str, Any]:
        found = [page for page in self.pages if str(page.id) == asked["pageid"]]
        if not found:
            return {"error": {"code": "nosuchpageid", "info": "There is no page with that id."}}
        page = found[0]
        self.parsed.append(page.id)
        categories = [{"sortkey": "", "category": name.replace(" ", "_")} for name in page.categories]
        categories.append({"sortkey": "", "category": "Pages_to_check", "hidden": True})
        return {"parse": {"title": page.title, "pageid": page.id, "revid": page.revision, "text": page.html,
                          "categories": categories}}  # fmt: skip

    def _query(self, asked: dict[str, str]) -> dict[str, Any]:
        """A batch of pages; its properties come in parts, as a wiki gives them when their limits are reached.

        Part i holds the revisions of the i-th few pages, and the i-th category and redirect of every page.
        """
        query: dict[str, Any] = {}
        pages, following = self._select(asked, query)
        part, step = int(asked.get("rvcontinue", "0")), self.content_limit if "rvprop" in asked else max(len(pages), 1)
        described = [
            self._describe(page, asked, part, part * step <= i < (part + 1) * step) for i, page in enumerate(pages)
        ]
        query["pages"] = described + query.pop("absent", [])
        here = {key: value for key, value in asked.items() if key in ("gapcontinue", "gcmcontinue")}
        parts = max(-(-len(pages) // step), *(self._parts(page, asked) for page in pages), 1)
        if part + 1 < parts:
            return {"query": query, "continue": {**here, "rvcontinue": str(part + 1), "continue": "||info"}}
        answer: dict[str, Any] = {"batchcomplete": True, "query": query}
        return answer | ({"continue": {**following, "continue": "gapcontinue||"}} if following else {})

    def _parts(self, page: FakePage, asked: dict[str, str]) -> int:
        lists = {"categories": page.categories, "redirects": self._redirects(page)}
        return max((len(values) for name, values in lists.items() if name in asked["prop"]), default=0)

    def _redirects(self, page: FakePage) -> list[str]:
        return [other.title for other in self.pages if other.redirect == page.title]

    def _select(self, asked: dict[str, str], query: dict[str, Any]) -> tuple[list[FakePage], dict[str, str]]:
        if "titles" in asked:
            return self._by_title(asked["titles"].split("|"), "redirects" in asked, query), {}
        if "pageids" in asked:
            ids = asked["pageids"].split("|")
            assert len(ids) <= 50
            return [page for page in self.pages if str(page.id) in ids], {}
        key = "gapcontinue" if asked["generator"] == "allpages" else "gcmcontinue"
        if asked["generator"] == "allpages":
            chosen = [p for p in self.pages if p.ns == int(asked["gapnamespace"]) and p.redirect is None]
        else:
            name = asked["gcmtitle"].partition(":")[2]
            chosen = [p for p in self.pages if name in p.categories]
        chosen.sort(key=lambda page: page.title)
        start = int(asked.get(key, "0"))
        more = start + self.page_limit < len(chosen)
        return chosen[start : start + self.page_limit], {key: str(start + self.page_limit)} if more else {}

    def _by_title(self, titles: list[str], follow: bool, query: dict[str, Any]) -> list[FakePage]:
        assert len(titles) <= 50
        found, absent = [], []
        for title in titles:
            page = next((page for page in self.pages if page.title == title), None)
            if page is not None and page.redirect is not None and follow:
                query.setdefault("redirects", []).append({"from": title, "to": page.redirect})
                page = next(other for other in self.pages if other.title == page.redirect)
                if page.redirect is not None:
                    continue
            if page is None:
                absent.append({"ns": 0, "title": title, "missing": True})
            elif page not in found:
                found.append(page)
        query["absent"] = absent
        return found

    def _describe(self, page: FakePage, asked: dict[str, str], part: int, full: bool) -> dict[str, Any]:
        given: dict[str, Any] = {"pageid": page.id, "ns": page.ns, "title": page.title}
        props = asked["prop"].split("|")
        if "info" in props:
            given["lastrevid"] = page.revision
        if "redirects" in props and self._redirects(page)[part:]:
            given["redirects"] = [{"ns": 0, "title": self._redirects(page)[part]}]
        if "pageprops" in props and page.disambiguation:
            given["pageprops"] = {"disambiguation": ""}
        if "categories" in props and page.categories[part:]:
            given["categories"] = [{"ns": 14, "title": f"Category:{page.categories[part]}"}]
        if "revisions" in props and full:
            revision: dict[str, Any] = {"revid": page.revision, "timestamp": page.timestamp}
            if "content" in asked["rvprop"]:
                revision["slots"] = {"main": {"contentmodel": "wikitext", "content": page.text}}
                self.contents.append(page.id)
            given["revisions"] = [revision]
        return given

    def dump(self) -> str:
        """The same wiki as an XML export."""
        names = "".join(f'<namespace key="{key}">{name}</namespace>' for key, name in NAMESPACES.items())
        head = f"<sitename>Test Wiki</sitename><dbname>test</dbname><base>{self.url}/wiki/Main_Page</base>"
        return (
            '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">\n'
            f"<siteinfo>{head}<namespaces>{names}</namespaces></siteinfo>\n{''.join(map(_export, self.pages))}</mediawiki>\n"
        )


def _export(page: FakePage) -> str:
    redirect = f"<redirect title={json.dumps(page.redirect)} />" if page.redirect else ""
    return (
        f"<page>\n<title>{escape(page.title)}</title><ns>{page.ns}</ns><id>{page.id}</id>{redirect}\n"
        f"<revision><id>{page.revision}</id><timestamp>{page.timestamp}</timestamp><contributor><username>A</username>"
        f'<id>77</id></contributor><model>wikitext</model>\n<text xml:space="preserve">{escape(page.text)}</text></revision>'
        "\n</page>\n"
    )


class Handler(BaseHTTPRequestHandler):
    wiki: FakeWiki

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.wiki.agents.add(self.headers.get("User-Agent", ""))
        if parts.path == "/robots.txt":
            return self._robots()
        if parts.path != "/w/api.php":
            return self._send(404, b"no such page", "text/plain")
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.wiki.asked.append(asked)
        if asked.get("action") == "parse" or "content" in asked.get("rvprop", ""):
            time.sleep(self.wiki.delay_s)
            number = sum("content" in a.get("rvprop", "") or a.get("action") == "parse" for a in self.wiki.asked)
            if number in self.wiki.faults:
                return self._fail(self.wiki.faults[number])
        return self._send(200, json.dumps(self.wiki.answer(asked)).encode(), "application/json")

    def _robots(self) -> None:
        time.sleep(self.wiki.robots_delay_s)
        if self.wiki.robots_status == 0:
            self.close_connection = True
        else:
            self._send(self.wiki.robots_status, self.wiki.robots.encode(), "text/plain")

    def _fail(self, fault: str) -> None:
        match fault:
            case "429":
                self._send(429, b"slow down", "text/plain", {"Retry-After": "7"})
            case "503":
                self._send(503, b"later", "text/plain")
            case "truncated":
                self._send(200, b'{"parse": {"ti', "application/json", {"Content-Length": "5000"})
            case "html":
                self._send(200, b"<html>a page for people</html>", "text/html")
            case "maxlag":
                body = {"error": {"code": "maxlag", "info": "Waiting for a database server: 6 seconds lagged."}}
                self._send(200, json.dumps(body).encode(), "application/json", {"Retry-After": "5"})
            case "challenge":
                body = b"<title>Just a moment...</title><script src='/cdn-cgi/challenge-platform/x'></script>"
                self._send(403, body, "text/html", {"cf-mitigated": "challenge"})
            case "broken":
                self._send(200, json.dumps({"error": {"code": "readapidenied", "info": "No."}}).encode(), "text/html")

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        if headers and "Content-Length" in headers:
            self.close_connection = True
