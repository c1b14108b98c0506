"""Wikitext to the same reading that rendered HTML gives: it is turned into plain HTML and read by the same rules."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from cirilla_cli.scrape import tree
from cirilla_cli.scrape.html import HIDDEN, read_html
from cirilla_cli.scrape.page import Reading
from cirilla_cli.scrape.templates import COMMENT, Expander, Templates, facts_html

_REF = re.compile(r"<ref\b[^>]*?/>|<ref\b[^>]*?>.*?</ref\s*>|<references\b[^>]*?/>", re.DOTALL | re.IGNORECASE)
# One that closes itself (`<nowiki/>`) shields nothing after it, and keeps apart the signs on its two sides.
_NOWIKI = re.compile(r"<(nowiki|pre|math|ce|chem)\b(?:[^>]*/>|[^>]*>(.*?)</\1\s*>)", re.DOTALL | re.IGNORECASE)
_SWITCH = re.compile(r"__([A-Z]{3,})__")
# A parser function that the parser takes for text, because a sign such as > stands in it.
_UNREAD = re.compile(r"\{\{#[^{}]*\}\}")
_LIST = re.compile(r"[*#:;]+")
_BLOCK_MARK = re.compile("\x7f(\\d+)\x7f")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*$")
_DROPPED = frozenset({
    "ref", "references", "gallery", "noinclude", "imagemap", "templatestyles", "inputbox", "script", "style",
    "rss", "poll", "mainpage-leftcolumn-start", "youtube", "video", "categorytree", "dpl", "indicator", "timeline",
})  # fmt: skip
_BLOCKS = frozenset({
    "div", "blockquote", "center", "p", "ul", "ol", "dl", "li", "dt", "dd", "section", "article", "aside", "figure",
    "h1", "h2", "h3", "h4", "h5", "h6",
})  # fmt: skip
_FORMULAS = frozenset({"math", "ce", "chem"})
_FILES, _CATEGORY, _MEDIA = 6, 14, -2
STANDARD_NAMESPACES: Mapping[str, int] = {
    "media": -2, "special": -1, "talk": 1, "user": 2, "user talk": 3, "project": 4, "project talk": 5, "file": 6,
    "image": 6, "file talk": 7, "mediawiki": 8, "mediawiki talk": 9, "template": 10, "template talk": 11, "help": 12,
    "help talk": 13, "category": 14, "category talk": 15,
}  # fmt: skip
"""Prefixes every wiki understands beside those of its own language."""


def read_wikitext(
    text: str, title: str, templates: Templates, namespaces: Mapping[str, int] = STANDARD_NAMESPACES
) -> Reading:
    """The reading of a page's wikitext; ``namespaces`` maps the wiki's lower-case prefixes to numbers."""
    shielded, kept = _shield(text)
    expander = Expander(templates, title)
    expanded = expander.expand(_REF.sub("", COMMENT.sub("", shielded)))
    renderer = _Renderer({**STANDARD_NAMESPACES, **namespaces}, kept)
    body = renderer.page(_UNREAD.sub("", expanded))
    reading = read_html(facts_html(expander.boxes, renderer.page) + body)
    marked = expander.disambiguation or reading.disambiguation or renderer.disambiguation
    return Reading(reading.blocks, reading.infobox, tuple(renderer.categories), marked)


def _shield(text: str) -> tuple[str, list[tuple[str, str]]]:
    """``text`` with what stands between nowiki or pre tags put aside, as formulas are: nothing in it is markup.

    What is put aside is given as (name, contents).
    """
    kept: list[tuple[str, str]] = []

    def put_aside(match: re.Match[str]) -> str:
        kept.append((match[1].lower(), match[2] or ""))
        return f"\x7fn{len(kept) - 1}\x7f"

    return _NOWIKI.sub(put_aside, text.replace("\x7f", "")), kept


_SHIELDED = re.compile("\x7fn(\\d+)\x7f")


class _Renderer:
    """Turns expanded wikitext into HTML without attributes, except classes and styles that mark noise."""

    def __init__(self, namespaces: Mapping[str, int], kept: list[tuple[str, str]]) -> None:
        self.categories: list[str] = []
        self.disambiguation = False
        self._namespaces, self._kept = namespaces, kept
        self._blocks: list[str] = []

    def page(self, text: str) -> str:
        """The HTML of expanded wikitext."""
        switches = set(_SWITCH.findall(text))
        self.disambiguation = self.disambiguation or "DISAMBIG" in switches
        return self._flow(tree.parse(_SWITCH.sub("", text)))

    def _flow(self, nodes: tree.Nodes) -> str:
        """Block content: paragraphs, lists and the blocks put aside while going through the nodes."""
        flat = "".join([self._inline(node) for node in nodes])
        return "".join(_lines(flat.split("\n"), self._blocks))

    def _text(self, nodes: tree.Nodes) -> str:
        """Inline content; blocks within are put in place."""
        flat = "".join([self._inline(node) for node in nodes])
        return _BLOCK_MARK.sub(lambda match: self._blocks[int(match[1])], flat)

    def _aside(self, block: str) -> str:
        self._blocks.append(block)
        return f"\n\x7f{len(self._blocks) - 1}\x7f\n"

    def _inline(self, node: Any) -> str:
        match node:
            case str():
                shown = html.escape(node, quote=False)
                return _SHIELDED.sub(self._unshield, shown) if "\x7f" in shown else shown
            case tree.Entity():
                return str(node)
            case tree.Heading():
                level = len(node.opening)
                return self._aside(f"<h{level}>{self._text(node.first)}</h{level}>")
            case tree.Link():
                return self._link(node)
            case tree.Address():
                shown = "" if node.second is None else self._text(node.second)
                return shown or ("" if node.opening else html.escape(tree.source(node.first)))
            case tree.Tag():
                return self._tag(node)
            case tree.Template() | tree.Argument() | tree.Comment():
                return ""
        return html.escape(str(node))

    def _unshield(self, match: re.Match[str]) -> str:
        name, inner = self._kept[int(match[1])]
        if name in _FORMULAS:
            return _formula(name, html.unescape(inner))
        if name != "pre":
            return html.escape(html.unescape(inner), quote=False)
        if not inner:
            return ""
        return self._aside(f"<pre>{html.escape(html.unescape(inner), quote=False)}</pre>")

    def _link(self, node: tree.Link) -> str:
        target = tree.source(node.first).strip()
        prefix, colon, rest = target.partition(":")
        number = self._namespaces.get(prefix.strip().replace("_", " ").lower()) if colon else None
        if number == _CATEGORY:
            self.categories.append(re.sub(r"[\s_]+", " ", rest).strip())
            return ""
        if number in (_FILES, _MEDIA):
            return ""
        if node.second is None and colon and number is None and _LANGUAGE.match(prefix):
            return ""
        if node.second is not None and tree.source(node.second).strip():
            return self._text(node.second)
        return html.escape(target.lstrip(":").replace("_", " "), quote=False)

    def _tag(self, node: tree.Tag) -> str:
        name = node.name
        if name in ("li", "dt", "dd") and node.markup:
            return node.markup
        if name in _DROPPED or HIDDEN.search(node.attributes.get("style", "")):
            return ""
        if name in ("br", "hr"):
            return "<br>" if name == "br" else self._aside("<hr>")
        if name == "table":
            return self._aside(f"<table{_marks(node)}>{self._rows(node.contents)}</table>")
        if name in _FORMULAS:
            return _formula(name, tree.source(node.contents))
        if name == "poem":
            return self._aside(f"<div>{self._text(node.contents).strip().replace(chr(10), '<br>')}</div>")
        if name in ("tabber", "syntaxhighlight", "source"):
            return self._verbatim(name, tree.source(node.contents))
        if name in _BLOCKS:
            return self._aside(f"<{name}{_marks(node)}>{self._flow(node.contents)}</{name}>")
        inner = "".join([self._inline(child) for child in node.contents])
        marks = _marks(node)
        return f"<span{marks}>{inner}</span>" if marks and "\n" not in inner else inner

    def _verbatim(self, name: str, contents: str) -> str:
        """Tags whose contents are no wikitext of the page: code is kept as it is, tabs give their panes."""
        if name != "tabber":
            return self._aside(f"<pre>{html.escape(contents, quote=False)}</pre>")
        panes = (pane.partition("=")[2] for pane in re.split(r"\|-\|", contents))
        return self._aside("".join(f"<div>{self.page(pane.strip())}</div>" for pane in panes))

    def _rows(self, nodes: tree.Nodes) -> str:
        """Caption and rows of a table; cells before the first row mark are a row of their own."""
        captions, rows, loose = [], [], []
        for node in _tags(nodes):
            name = node.name
            if name == "caption" or (name == "td" and str(node).startswith("|+")):
                captions.append(f"<caption>{self._text(node.contents).strip().removeprefix('+')}</caption>")
            elif name in ("td", "th"):
                loose.append(self._cell(node, name))
            elif name == "tr":
                rows.append(f"<tr{_marks(node)}>{self._cells(node.contents)}</tr>")
            elif name in ("tbody", "thead"):
                rows.append(self._rows(node.contents))
        return "".join([*captions, f"<tr>{''.join(loose)}</tr>" if loose else "", *rows])

    def _cells(self, nodes: tree.Nodes) -> str:
        return "".join(self._cell(node, node.name) for node in _tags(nodes) if node.name in ("td", "th"))

    def _cell(self, node: tree.Tag, name: str) -> str:
        return f"<{name}{_marks(node)}>{self._flow(node.contents)}</{name}>"


def _formula(name: str, tex: str) -> str:
    """A formula as the reader knows it; those of chemistry are one command of TeX."""
    shown = " ".join(tex.split())
    shown = shown if name == "math" or not shown else f"\\ce{{{shown}}}"
    return f'<math alttext="{html.escape(shown)}"></math>'


def _tags(nodes: tree.Nodes) -> Iterator[tree.Tag]:
    return (node for node in nodes if isinstance(node, tree.Tag))


def _marks(node: tree.Tag) -> str:
    """The class attribute, by which the reader knows noise."""
    value = node.attributes.get("class", "").strip()
    return f' class="{html.escape(value)}"' if value else ""


def _lines(lines: Iterable[str], blocks: list[str]) -> Iterator[str]:
    """HTML of lines: lists by their marks, blocks in their place, paragraphs between empty lines."""
    for kind, group in groupby(lines, _kind):
        if kind == "list":
            yield _list([(mark[0], line[mark.end() :].strip()) for line in group if (mark := _LIST.match(line))])
        elif kind == "block":
            yield from (blocks[int(match[1])] for line in group for match in _BLOCK_MARK.finditer(line))
        elif kind == "text":
            yield f"<p>{chr(10).join(group)}</p>"


def _kind(line: str) -> str:
    if not line.strip():
        return "empty"
    if _LIST.match(line):
        return "list"
    return "block" if _BLOCK_MARK.fullmatch(line.strip()) else "text"


_KINDS = {"*": ("ul", "li"), "#": ("ol", "li"), ":": ("dl", "dd"), ";": ("dl", "dt")}


def _list(items: list[tuple[str, str]]) -> str:
    """Nested lists of (marks, html); an item with more marks belongs to the one before it."""
    out = []
    for tag, group in groupby(items, key=lambda item: _KINDS[item[0][0]][0]):
        inner = ""
        for deeper, same in groupby(group, key=lambda item: len(item[0]) > 1):
            if not deeper:
                inner += "".join(_entry(marks, text) for marks, text in same)
                continue
            nested = _list([(marks[1:], text) for marks, text in same])
            inner = inner.removesuffix(_END[tag]) + nested + _END[tag] if inner else f"{_START[tag]}{nested}{_END[tag]}"
        out.append(f"<{tag}>{inner}</{tag}>")
    return "".join(out)


_START = {"ul": "<li>", "ol": "<li>", "dl": "<dd>"}
_END = {"ul": "</li>", "ol": "</li>", "dl": "</dd>"}


def _entry(marks: str, text: str) -> str:
    tag = _KINDS[marks[0]][1]
    if tag == "dt":
        term, colon, definition = text.partition(" :")
        return f"<dt>{term}</dt>" + (f"<dd>{definition.strip()}</dd>" if colon else "")
    return f"<{tag}>{text}</{tag}>"
