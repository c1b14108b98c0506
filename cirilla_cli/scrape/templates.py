"""Expands templates in wikitext from their own pages, as far as plain text needs it."""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import Tag
from bs4.formatter import HTMLFormatter

from cirilla_cli.scrape import tree

_MOST_DEPTH = 12
_MOST_CHARS = 2_000_000
_EXPANSION = 400
"""What one expansion counts for beside its length, so that at most 5,000 happen on a page."""
_SKIPPED = re.compile(
    r"navbox|^nav\b|\bstub\b|reflist|^references?$|^cit(e|ation)\b|^cn$|citation needed|clean ?up|succession"
    r"|^toc\b|^anchor$|^clr?$|^clear$|short description|^main$|^see ?also$|^about$|^for$|^other ?uses|spoiler",
    re.IGNORECASE,
)
_DISAMBIGUATION = re.compile(r"^(disambig|dab$|hndis|geodis)", re.IGNORECASE)
_QUOTES = re.compile(r"quot|dialogue|epigraph", re.IGNORECASE)
_INFOBOX = re.compile(r"infobox|^taxobox", re.IGNORECASE)
_DRAWN = re.compile(r"class\s*=\s*[\"']?[^\"'>]*\binfobox\b", re.IGNORECASE)
"""A template that draws its infobox as a table; the reader knows its rows by their labels."""
_NOT_FACTS = re.compile(
    r"^(image|caption|title|name|theme|type|float|width|img|photo|logo|alt|tabs?|bg|color)\w*$", re.IGNORECASE
)
_ONLY = re.compile(r"<onlyinclude>(.*?)</onlyinclude>", re.DOTALL | re.IGNORECASE)
_NOT_INCLUDED = re.compile(r"<noinclude>.*?(?:</noinclude>|\Z)", re.DOTALL | re.IGNORECASE)
_INCLUDE_TAGS = re.compile(r"</?includeonly>", re.IGNORECASE)
NOT_IN_TITLES = re.compile(r"[\[\]{}|<>\n#\x00-\x1f]")
"""What no title of a wiki holds."""
REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[\s*([^\]|#]+)", re.IGNORECASE)
_INFOBOX_TAG = re.compile(r"<infobox\b.*?</infobox>", re.DOTALL | re.IGNORECASE)
COMMENT = re.compile(r"(?:(?<=\n)[ \t]*(?:<!--.*?-->[ \t]*)+\n)|<!--.*?-->", re.DOTALL)


def template_name(name: str) -> str:
    """The one spelling of a template's name: no prefix, no underscores, upper-case first letter."""
    name = re.sub(r"[\s_]+", " ", name).strip().lstrip(":")
    prefix, colon, rest = name.partition(":")
    if colon and prefix.strip().lower() == "template":
        name = rest.strip()
    return name[:1].upper() + name[1:]


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a portable infobox: the parameter it shows, its label, and wikitext to show instead or by default."""

    source: str
    label: str
    default: str = ""
    form: str = ""


class Templates:
    """Template pages by name, kept as wikitext; `body` gives what a page that uses one includes."""

    def __init__(self, pages: Mapping[str, str] | None = None) -> None:
        self._pages = {template_name(name): text for name, text in (pages or {}).items()}
        self._fields: dict[str, tuple[Field, ...]] = {}

    def add(self, name: str, text: str) -> None:
        """Keep the page of a template; ``name`` with or without its prefix."""
        name = template_name(name)
        self._pages[name] = text
        self._fields.pop(name, None)

    def body(self, name: str) -> str | None:
        """The part of a template's page that is included elsewhere, redirects followed; None where it is unknown."""
        seen: set[str] = set()
        while name in self._pages and name not in seen:
            seen.add(name)
            text = self._pages[name]
            target = REDIRECT.match(text)
            if target is None:
                return _included(text)
            name = template_name(target[1])
        return None

    def fields(self, name: str, body: str) -> tuple[Field, ...]:
        """The rows of the portable infobox in a template's body; none where it draws none."""
        if name not in self._fields:
            boxes = (BeautifulSoup(match[0], "html.parser") for match in _INFOBOX_TAG.finditer(body))
            self._fields[name] = tuple(_field(data) for box in boxes for data in box.find_all("data"))
        return self._fields[name]


def _included(text: str) -> str:
    text = COMMENT.sub("", text)
    only = _ONLY.findall(text)
    return _INCLUDE_TAGS.sub("", "".join(only) if only else _NOT_INCLUDED.sub("", text))


_AS_WRITTEN = HTMLFormatter(entity_substitution=None)


def _field(data: Tag) -> Field:
    def inner(name: str, around: Tag = data) -> str:
        tag = around.find(name, recursive=False)
        return tag.decode_contents(formatter=_AS_WRITTEN).strip() if isinstance(tag, Tag) else ""

    source = str(data.get("source", ""))
    section = data.find_parent("section")
    tab = inner("label", section) if section is not None else ""
    return Field(source, (inner("label") or source) + (f" ({tab})" if tab else ""), inner("default"), inner("format"))


Frame = dict[str, str]
_BRACES = re.compile(r"\{{2,}|\}{2,}")


def _pieces(text: str) -> list[tuple[str, bool]]:
    """``text`` in pieces, and whether each stands in braces; one such piece where the braces do not match.

    Most of a page stands outside of braces, and parsing it only to find that out took half the time of a page.
    """
    found, open_braces, start, end = list[tuple[str, bool]](), 0, 0, 0
    for match in _BRACES.finditer(text):
        if match[0][0] == "{":
            start = start if open_braces else match.start()
            open_braces += len(match[0])
        elif open_braces:
            open_braces -= len(match[0])
            if open_braces == 0:
                found += [(text[end:start], False), (text[start : match.end()], True)]
                end = match.end()
            if open_braces < 0:
                break
    return [(text, True)] if open_braces else [*found, (text[end:], False)]


@dataclass
class Expander:
    """Expands the templates of one page; infoboxes leave the text and are gathered in ``boxes``.

    A template within itself gives nothing, and the total is capped, so no page can blow up.
    """

    templates: Templates
    title: str
    boxes: list[list[tuple[str, str]]] = field(default_factory=list)
    """Per infobox: label and wikitext of each row that has a value."""
    disambiguation: bool = False
    _spent: int = 0
    _open: list[str] = field(default_factory=list)

    def expand(self, text: str, frame: Frame | None = None, depth: int = 0) -> str:
        """``text`` without templates and arguments."""
        if "{{" not in text:
            return text
        return "".join(
            self._nodes(tree.parse(piece), frame or {}, depth) if braced else piece for piece, braced in _pieces(text)
        )

    def _nodes(self, nodes: tree.Nodes, frame: Frame, depth: int) -> str:
        return "".join([self._node(node, frame, depth) for node in nodes])

    def _node(self, node: Any, frame: Frame, depth: int) -> str:
        if isinstance(node, tree.Comment):
            return ""
        text = str(node)
        if "{{" not in text:
            return text
        if isinstance(node, tree.Template):
            return self._template(node, frame, depth)
        if isinstance(node, tree.Argument):
            name = self._nodes(node.first, frame, depth).strip()
            default = "" if node.second is None else self._nodes(node.second, frame, depth)
            return frame.get(name, default)
        if isinstance(node, tree.Link | tree.Heading):
            node.first = [self._nodes(node.first, frame, depth)]
        if isinstance(node, tree.Link | tree.Address) and node.second is not None:
            node.second = [self._nodes(node.second, frame, depth)]
        if isinstance(node, tree.Tag):
            node.contents = [self._nodes(node.contents, frame, depth)]
        return str(node)

    def _template(self, node: tree.Template, frame: Frame, depth: int) -> str:
        name = self._nodes(node.name, frame, depth).strip()
        if depth > _MOST_DEPTH or self._spent > _MOST_CHARS:
            return ""
        function, colon, first = name.partition(":")
        if colon and (function.startswith("#") or function.strip().lower() in _WORD_FUNCTIONS or function.isupper()):
            return self._function(function.strip().lower(), [first, *node.given()], frame, depth)
        if name in ("PAGENAME", "FULLPAGENAME", "BASEPAGENAME", "SUBPAGENAME"):
            return self.title
        if name == "!":
            return "|"
        return self._include(template_name(name), self._arguments(node, frame, depth), depth)

    def _arguments(self, node: tree.Template, frame: Frame, depth: int) -> Frame:
        arguments: Frame = {}
        unnamed = 0
        for name, nodes in node.params:
            value = self._nodes(nodes, frame, depth)
            if name is None:
                unnamed += 1
                arguments[str(unnamed)] = value
            else:
                arguments[self._nodes(name, frame, depth).strip()] = value.strip()
        return arguments

    def _include(self, name: str, arguments: Frame, depth: int) -> str:
        if _DISAMBIGUATION.match(name):
            self.disambiguation = True
            return ""
        body = self.templates.body(name)
        fields = self.templates.fields(name, body) if body is not None else ()
        if body is not None and fields:
            self._box(fields, arguments, depth)
            body = _INFOBOX_TAG.sub("", body)
        elif _INFOBOX.search(name) and (body is None or not _DRAWN.search(body)):
            shown = [key for key in arguments if not _NOT_FACTS.match(key) and not key.isdigit()]
            self.boxes.append([(key, arguments[key]) for key in shown if arguments[key].strip()])
            return ""
        if _SKIPPED.search(name):
            return ""
        if body is None:
            return _guess(name, arguments)
        if name in self._open:
            return ""
        self._spent += len(body) + _EXPANSION
        self._open.append(name)
        text = self.expand(body, arguments, depth + 1)
        self._open.pop()
        return text

    def _box(self, fields: tuple[Field, ...], arguments: Frame, depth: int) -> None:
        rows = []
        for row in fields:
            given = arguments.get(row.source, "").strip()
            if given and row.form:
                given = self.expand(row.form, arguments, depth + 1)
            value = given or self.expand(row.default, arguments, depth + 1)
            if value.strip():
                rows.append((self.expand(row.label, arguments, depth + 1), value))
        self.boxes.append(rows)

    def _function(self, name: str, given: list[str], frame: Frame, depth: int) -> str:
        def value(text: str) -> str:
            return self.expand(text, frame, depth + 1).strip()

        def branch(index: int) -> str:
            return value(given[index]) if index < len(given) else ""

        match name:
            case "#if":
                return branch(1) if value(given[0]) else branch(2)
            case "#ifeq":
                return branch(2) if value(given[0]) == branch(1) else branch(3)
            case "#switch":
                return _switch(value(given[0]), given[1:], value)
            case _ if name in _WORD_FUNCTIONS:
                return _WORD_FUNCTIONS[name](value(given[0]))
        return ""


_WORD_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "lc": str.lower, "uc": str.upper, "formatnum": str, "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:], "nowrap": str, "padleft": str, "padright": str,
}  # fmt: skip


def _switch(subject: str, cases: list[str], value: Callable[[str], str]) -> str:
    """The branch of ``#switch``: cases without ``=`` fall through to the next that has one."""
    matched, default = False, ""
    for index, case in enumerate(cases):
        key, equals, result = case.partition("=")
        if not equals:
            matched = matched or value(key) == subject
            default = value(key) if index == len(cases) - 1 else default
            continue
        if matched or value(key) == subject:
            return value(result)
        if value(key) == "#default":
            default = value(result)
    return default


def _guess(name: str, arguments: Frame) -> str:
    """What an unknown template likely shows: a quotation all its parts, another its last unnamed argument."""
    unnamed = [value.strip() for key, value in arguments.items() if key.isdigit() and value.strip()]
    if _QUOTES.search(name):
        parts = unnamed or [arguments[key] for key in ("text", "quote", "speaker", "source") if arguments.get(key)]
        return f"<blockquote>{'<br>'.join(parts)}</blockquote>" if parts else ""
    return unnamed[-1] if unnamed else ""


def facts_html(boxes: list[list[tuple[str, str]]], render: Callable[[str], str]) -> str:
    """Infobox rows as the HTML a portable infobox renders to."""
    rows = (
        f'<div class="pi-item pi-data"><h3 class="pi-data-label">{render(label) or html.escape(label)}</h3>'
        f'<div class="pi-data-value">{render(value)}</div></div>'
        for box in boxes
        for label, value in box
    )
    content = "".join(rows)
    return f'<aside class="portable-infobox">{content}</aside>' if content else ""
