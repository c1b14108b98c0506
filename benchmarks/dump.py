"""How fast a MediaWiki export is read, and how fast its pages become documents.

    python -m benchmarks.dump --size 100 --extract 600
    python -m benchmarks.dump --titles 300000

An export of pages of about 3 kB (infobox, quotation, list, table, references, navigation, links) is written to a
temporary folder. Printed are megabytes a second of reading it whole (expat and Python handlers), the peak of memory
while it is read, pages a second that become documents, and what of a page's time its parts take, the tree of its
wikitext beside the one mwparserfromhell builds; all in processor seconds of one process. With `--titles`, the memory
that each page and each redirect of an export of so many of both takes.
"""

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import mwparserfromhell
from bs4 import BeautifulSoup

from cirilla_cli.scrape import tree
from cirilla_cli.scrape.dump import DumpSource, opened, read_pages
from cirilla_cli.scrape.page import Rules

_HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">\n<siteinfo><sitename>T'
    '</sitename><base>http://example.org/wiki/M</base><namespaces><namespace key="0"></namespace>'
    '<namespace key="10">Template</namespace></namespaces></siteinfo>\n'
)
_TEMPLATES = {
    "Infobox hunter": "<includeonly><infobox><data source='job'><label>Occupation</label></data>"
    "<data source='alias'><label>Also known as</label></data></infobox>[[Category:Hunters]]</includeonly>",
    "Navbox": '<div class="navbox">Other [[hunter]]s</div>',
    "Quote": "<blockquote>{{{1}}}<br>''{{{2|Unknown}}}''</blockquote>",
}
_PAGE = """{{Infobox hunter|job=[[Trade|hunter]]|alias=Grey @<br>Old @}}
{{Quote|I took coin @.|Hunter @}}
'''Hunter @''' was born in year @ and does not trust [1 to @] mages.<ref>A source @.</ref>

== Skills ==
* Sign @
** Fire @
* Oil @

{| class="wikitable"
! Thing !! Price
|-
| Trophy @ || 3 crowns
|}
"""
_LINE = (
    "Further, the [[hunter]] of '''renown''' said things that [[Town 1|the town]] had not heard before, and left by "
    "the northern gate.<ref>A source.</ref> "
)
_END = "\n\n== References ==\n<references />\n{{Navbox}}\n[[Category:Hunters]]\n"


def _page(number: int, title: str, namespace: int, text: str) -> str:
    return (
        f"<page>\n<title>{title}</title><ns>{namespace}</ns><id>{number}</id>\n<revision><id>{number}</id>"
        "<timestamp>2026-01-01T00:00:00Z</timestamp><contributor><username>A</username><id>77</id></contributor>"
        f'<model>wikitext</model>\n<text bytes="3000" xml:space="preserve">{escape(text)}</text></revision>\n</page>\n'
    )


def page_text(number: int) -> str:
    """The wikitext of a page of 3 kB."""
    lines = _LINE * ((3000 - len(_PAGE) - len(_END)) // len(_LINE))
    return (_PAGE + lines + _END).replace("@", str(number))


def templates() -> dict[str, str]:
    """The templates that these pages use."""
    return dict(_TEMPLATES)


def write_export(path: Path, megabytes: float) -> int:
    """An export of at least that size; returns its pages."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEAD)
        for number, (name, text) in enumerate(_TEMPLATES.items(), 1):
            file.write(_page(number, f"Template:{name}", 10, text))
        while file.tell() < megabytes * 1e6:
            number += 1
            file.write(_page(number, f"Hunter {number}", 0, page_text(number)))
        file.write("</mediawiki>\n")
    return number


def measure(megabytes: float, extracted: int) -> None:
    """Print the figures of one export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export.xml"
        pages, size = write_export(path, megabytes), path.stat().st_size / 1e6
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with opened(path) as open_plain:
            assert sum(1 for _ in read_pages(path, open_plain)) == pages
            seconds = time.process_time() - begin
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(f"read: {size:.0f} MB, {size / seconds:.0f} MB/s, peak of memory {grown:.1f} MiB higher")
            rows = DumpSource(path, open_plain, Rules(40), None).rows()
            begin = time.process_time()
            taken = sum(1 for _ in itertools.islice(rows, len(_TEMPLATES), len(_TEMPLATES) + extracted))
            print(f"extract: {taken} pages of 3 kB, {taken / (time.process_time() - begin):.0f} a second")
            texts = [page.text for _, page in itertools.islice(read_pages(path, open_plain), 3, 3 + min(taken, 200))]
            parts(texts)


def kept(titles: int) -> None:
    """Print the bytes of memory that a page, and a redirect, costs while an export is read."""
    with tempfile.TemporaryDirectory() as folder:
        before, peaks = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
        for redirects in (0, titles):
            path = Path(folder) / f"{redirects}.xml"
            with path.open("w", encoding="utf-8") as file:
                file.write(_HEAD)
                for number in range(1, titles + 1):
                    file.write(_page(number, f"Hunter of the hills {number}", 0, "A hunter."))
                for number in range(1, redirects + 1):
                    text = f"#REDIRECT [[Hunter of the hills {number}]]"
                    file.write(_page(titles + number, f"The hunter {number} of the hills", 0, text))
                file.write("</mediawiki>\n")
            with opened(path) as open_plain:
                DumpSource(path, open_plain, Rules(40), None)
            peaks.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        print(f"kept of {titles:,} pages: {peaks[0] / titles:.0f} bytes each, {peaks[0] / 2**20:.0f} MiB")
        print(f"kept of as many redirects besides: {(peaks[1] - peaks[0]) / titles:.0f} bytes each")


def parts(texts: list[str]) -> None:
    """Print what parsing these pages takes, in the ways there are."""
    tokens = mwparserfromhell.parser.Parser()._tokenizer
    ways: dict[str, Callable[[str], object]] = {
        "its tokens (C)": lambda text: tokens.tokenize(text, 0, False),
        "the tree of its tokens": tree.parse,
        "mwparserfromhell's tree": mwparserfromhell.parse,
        "Beautiful Soup on as much HTML": lambda text: BeautifulSoup(_like(text), "html.parser"),
    }
    for name, way in ways.items():
        begin = time.process_time()
        for text in texts:
            way(text)
        print(f"  {name}: {(time.process_time() - begin) / len(texts) * 1e3:.2f} ms a page")


def _like(text: str) -> str:
    """HTML with about as many elements as a page's."""
    return "<p>" + escape(text).replace("\n", "</p>\n<p>").replace("[[", "<b>").replace("]]", "</b>") + "</p>"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=float, default=100, help="megabytes of the export")
    parser.add_argument("--extract", type=int, default=600, help="pages to make documents of")
    parser.add_argument("--titles", type=int, help="pages and redirects of which the memory is measured instead")
    given = parser.parse_args()
    kept(given.titles) if given.titles else measure(given.size, given.extract)
