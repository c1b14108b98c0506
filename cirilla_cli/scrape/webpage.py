"""A saved page of any site: its title, its address and what it says, without what a site puts around each page."""

from dataclasses import dataclass

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import Tag

from cirilla_cli.scrape.html import read_tree
from cirilla_cli.scrape.page import Reading

_ROLES = frozenset({"navigation", "banner", "contentinfo", "search"})
_SECTIONS = frozenset({"article", "section", "main", "aside"})
_CONTENT = ("#mw-content-text", "main", "[role=main]", "body")
"""Where the page itself stands: on a wiki, on a site that marks it, on any other; the first that is there."""
_LATIN_1 = frozenset({"iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"})


@dataclass(frozen=True, slots=True)
class WebPage:
    """A page of a site; ``title`` and ``url`` are None where it states none."""

    title: str | None
    url: str | None
    reading: Reading


def decode_html(data: bytes) -> str:
    """The text of an HTML file: UTF-8, or what it declares itself to be.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        declared = EncodingDetector.find_declared_encoding(data, is_html=True)
        # Browsers read these names as windows-1252 (WHATWG Encoding Standard, 4.2).
        name = "cp1252" if (declared or "").lower() in _LATIN_1 else declared
        try:
            return data.decode(name or "utf-8")
        except (LookupError, UnicodeError):
            raise error from None


def read_webpage(html: str) -> WebPage:
    """The title (its only ``h1``, or ``title``), the canonical address and the reading of a whole HTML page.

    Raises:
        RecursionError: its elements are nested too deeply.
    """
    soup = BeautifulSoup(html, "html.parser")
    link = soup.select_one('link[rel~="canonical"][href^="http"]')
    url = str(link["href"]) if link is not None else None
    title = _title(soup)
    for tag in [tag for tag in soup.find_all(True) if _is_around(tag)][::-1]:
        tag.decompose()
    content = next((found for path in _CONTENT if (found := soup.select_one(path)) is not None), soup)
    return WebPage(title, url, read_tree(content))


def _title(soup: BeautifulSoup) -> str | None:
    """The page's name; a heading that is it leaves the tree, as it stands above a wiki's pages too."""
    headings = soup.find_all("h1")
    named = headings[0] if len(headings) == 1 else soup.title
    title = " ".join(named.get_text(" ").split()) if named is not None else ""
    if named is not None:
        named.decompose()
    return title or None


def _is_around(tag: Tag) -> bool:
    """Whether it is the same on each page of a site: a header or footer belongs to the section it stands in."""
    if tag.name == "head" or tag.get("role") in _ROLES:
        return True
    return tag.name in ("header", "footer") and all(parent.name not in _SECTIONS for parent in tag.parents)
