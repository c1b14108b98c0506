"""What reading a wiki's wikitext loses against reading its rendered pages.

    python -m benchmarks.readings --hunters 40

A MediaWiki on SQLite is installed in a temporary folder (see tests/scrape/real_wiki.py for what it needs), filled with
the pages of its tests and with one page for each of some constructs that templates and parser functions offer, and
scraped in both readings. Printed is, of what the rendered reading finds, the share the wikitext reading finds too:
values of infoboxes by label, headings, words; and of the words of the wikitext reading the share the other has too.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "scrape"))
import known_pages  # noqa: E402
import real_wiki  # noqa: E402

_LEAD = "The keep stands on a hill above the river and has stood there since the first kings came.\n\n"
CONSTRUCTS = {
    "switch and ifeq": "It has {{#switch: two | one = a gate | two = two gates }}, {{#ifeq: a | a | a moat | none}}.",
    "ifexist and iferror": "It is {{#ifexist: Main Page | known | new }} and {{#iferror: {{#expr: 1/0}} | odd }}.",
    "arithmetic": "It has {{#expr: 3 * 7 + 2}} towers, and {{#ifexpr: 2 > 1 | more | fewer }} than the other.",
    "dates": "It was built in {{#time: Y | 1261-05-01}} and visited in {{CURRENTYEAR}}.",
    "words by number": "There {{PLURAL:3|is one tower|are many towers}}, says {{GENDER:Nobody|he|she|somebody}}.",
    "padding and case": "Number {{padleft:7|3|0}} is {{uc:tall}}, {{ucfirst:white}} and {{lc:OLD}}.",
    "another page included": "{{:Construct source}} is what the other page says.",
    "a part of a page": "{{Parted}} is included by its tag.",
    "tags by function": "{{#tag:blockquote|Nobody enters here.}}",
    "a table by a template": "{{Rows|Gate|Tower}}",
    "arguments of arguments": "{{Outer|{{Inner|deep}}|name={{Inner|named}}}}",
    "a list by a template": "{{Items|first stone|second stone}}",
    "a nested table": "{|\n| outer\n{|\n| inner\n|}\n| last\n|}",
    "a gallery and a map": "<gallery>\nFile:A.png|A caption\n</gallery>\n<math>x^2</math> End of the page.",
    "links with trails": "The [[Hunter 1|hunter]]s, [[Help:Guide|]] [[Hunter 2]]'s [https://example.org] {{!}} end.",
    "language marks": "-{A}- word and &#8212; dash, &hearts; heart, <span lang=de>Burg</span>.",
}
"""Wikitext whose rendering is the wiki's business."""
_SOURCES = {
    "Construct source": "The gate of iron was made by a smith of the town, and nobody remembers his name.",
    "Template:Parted": "<noinclude>Not this.</noinclude><onlyinclude>Only this part</onlyinclude> nor this",
    "Template:Rows": "{|\n! Part !! Height\n|-\n| {{{1}}} || 10\n|-\n| {{{2}}} || {{#expr: 4*5}}\n|}",
    "Template:Outer": "Outside {{{1}}} and {{{name|nothing}}}, {{{missing|default}}}.",
    "Template:Inner": "inside ''{{{1}}}''",
    "Template:Items": "* {{{1}}}\n* {{{2}}}\n",
}


def _pages(hunters: int) -> list[dict[str, Any]]:
    made = list(known_pages.pages(known_pages.truths(hunters, 12)))
    made += [{"title": title, "text": text} for title, text in _SOURCES.items()]
    return [*made, *({"title": f"About {name}", "text": _LEAD + text} for name, text in CONSTRUCTS.items())]


def _rows(api: str, reading: str, folder: Path) -> dict[str, dict[str, Any]]:
    source = {"kind": "mediawiki", "api": api, "reading": reading, "pause": 0}
    scrape(ScrapeConfig.model_validate({"source": source}), folder / reading, Silent())
    lines = (folder / reading / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["title"]: row for row in map(json.loads, lines)}


def _counted(row: dict[str, Any]) -> dict[str, Counter[Any]]:
    facts = Counter((fact["label"], value) for fact in row.get("infobox", ()) for value in fact["values"])
    headings = Counter(section["heading"] for section in row.get("sections", ()))
    return {"values of infoboxes": facts, "headings": headings, "words": Counter(row["text"].split())}


def compare(titles: list[str], wikitext: dict[str, Any], rendered: dict[str, Any]) -> str:
    """The shares over these pages."""
    both, theirs, ours = Counter[str](), Counter[str](), Counter[str]()
    for title in titles:
        other = _counted(wikitext[title]) if title in wikitext else {}
        for name, counts in _counted(rendered[title]).items():
            mine = other.get(name, Counter())
            both[name] += (counts & mine).total()
            theirs[name] += counts.total()
            ours[name] += mine.total()
    shown = [
        f"{name} {both[name]:,} of {theirs[name]:,} ({both[name] / theirs[name]:.2%})"
        for name in theirs
        if theirs[name]
    ]
    return f"{', '.join(shown)}; of its own words {both['words'] / max(ours['words'], 1):.2%} are there too"


def measure(hunters: int) -> None:
    """Print what is lost, over all pages of the tests and construct by construct."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with real_wiki.running(real_wiki.installed(folder / "wiki", _pages(hunters))) as site:
            rendered, wikitext = (_rows(site.api, reading, folder) for reading in ("html", "wikitext"))
    made = {f"About {name}" for name in CONSTRUCTS}
    known = sorted(set(rendered) - made)
    same = sum(rendered[title] == wikitext.get(title) for title in known)
    print(f"{len(known)} pages of the tests, {same} rows the same: {compare(known, wikitext, rendered)}")
    print(f"{len(made)} pages of constructs: {compare(sorted(made), wikitext, rendered)}")
    for title in sorted(made):
        if rendered[title]["text"] != wikitext.get(title, {"text": None})["text"]:
            last = [row["text"].partition("\n\n")[2] for row in (rendered[title], wikitext[title])]
            print(f"  {title}:\n    rendered {last[0]!r}\n    wikitext {last[1]!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--hunters", type=int, default=40, help="pages with infoboxes, at most 104")
    given = parser.parse_args()
    why = real_wiki.missing()
    if why is not None:
        raise SystemExit(f"no MediaWiki: {why}")
    measure(given.hunters)
