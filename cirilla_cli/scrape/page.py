"""What every source has in common: raw pages, what is read from them, and the row or the rejection that follows."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from cirilla_cli.data.rows import Document, Fact, License, Record, WikiSection


class Reject(Record):
    """A page that gave no document, and why."""

    id: str
    title: str
    reason: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The wiki pages come from.

    ``namespaces`` maps lower-case prefixes to numbers; ``article_path`` holds ``$1`` where a title goes.
    """

    name: str | None = None
    article_path: str | None = None
    license: License | None = None
    namespaces: dict[str, int] = field(default_factory=dict)

    def url(self, title: str) -> str | None:
        """Address of the page ``title``."""
        if self.article_path is None:
            return None
        return self.article_path.replace("$1", quote(title.replace(" ", "_"), safe="/:@!$*(),;'~"))


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page as its source gave it: ``content`` is rendered HTML or wikitext, as ``reading`` says.

    ``categories`` is None where they stand in the wikitext.
    """

    id: int
    title: str
    namespace: int
    revision: int | None
    timestamp: str | None
    reading: str
    content: str
    categories: tuple[str, ...] | None = None
    disambiguation: bool = False

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "RawPage":
        """The page of a line of the raw store."""
        categories = row["categories"]
        return cls(**{**row, "categories": None if categories is None else tuple(categories)})


@dataclass(frozen=True, slots=True)
class Block:
    """A heading (``level`` > 0), or a paragraph, list or table as lines of plain text."""

    text: str
    level: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a page says: blocks in order, infobox facts, and the categories its wikitext names."""

    blocks: tuple[Block, ...]
    infobox: tuple[Fact, ...] = ()
    categories: tuple[str, ...] = ()
    disambiguation: bool = False


def outline(blocks: Iterable[Block]) -> tuple[str, tuple[WikiSection, ...]]:
    """(the whole text, its sections): headings stand on lines of their own; those with nothing below are dropped."""
    parts: list[tuple[int, str, list[str]]] = [(0, "", [])]
    for block in blocks:
        if block.level:
            parts.append((max(block.level, 2), block.text, []))
        else:
            parts[-1][2].append(block.text)
    parts = [part for index, part in enumerate(parts) if _has_text(parts, index)]
    text = "\n\n".join(piece for _, heading, body in parts for piece in (heading, *body) if piece)
    sections = (WikiSection(level=n, heading=heading, text="\n\n".join(body)) for n, heading, body in parts if n)
    return text, tuple(sections)


def _has_text(parts: list[tuple[int, str, list[str]]], index: int) -> bool:
    """Whether the part or one of its subsections holds text."""
    level = parts[index][0]
    if parts[index][2]:
        return True
    for below, _, body in parts[index + 1 :]:
        if level == 0 or below <= level:
            return False
        if body:
            return True
    return False


_DISAMBIGUATION = re.compile(r"\bdisambig", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which pages become documents."""

    min_chars: int
    namespaces: tuple[int, ...] = (0,)

    def refuse(self, page: RawPage) -> Reject | None:
        """The rejection of a page that need not be read, or None."""
        if page.namespace not in self.namespaces:
            return reject(page, "namespace", f"namespace {page.namespace}")
        if page.disambiguation or page.title.lower().endswith("(disambiguation)"):
            return reject(page, "disambiguation")
        return None


def reject(page: RawPage, reason: str, detail: str | None = None) -> Reject:
    """``page`` gives no document, for ``reason``."""
    return Reject(id=str(page.id), title=page.title, reason=reason, detail=detail)


_TRANSCRIPT = re.compile(r"\b(transcripts?|subtitles|screenplays?)\b", re.IGNORECASE)
_SPOKEN = re.compile(r"[^\s.!?:][^.!?:\n]{0,39}: \S")
_FEWEST_SPOKEN = 10


def is_transcript(title: str, categories: Iterable[str], text: str) -> bool:
    """Whether a page holds what somebody said: by its name, its categories, or because most lines begin `Name: `."""
    if any(_TRANSCRIPT.search(name) for name in (title, *categories)):
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    spoken = sum(_SPOKEN.match(line) is not None for line in lines)
    return spoken >= _FEWEST_SPOKEN and 2 * spoken > len(lines)


Reader = Callable[[RawPage], Reading]


def extract(page: RawPage, aliases: tuple[str, ...], site: Site, rules: Rules, read: Reader) -> Document | Reject:
    """The document of a raw page, or why there is none; the same page always gives the same row."""
    refused = rules.refuse(page)
    if refused is not None:
        return refused
    reading = read(page)
    categories = sorted({name for name in (page.categories or reading.categories) if name})
    if reading.disambiguation or any(_DISAMBIGUATION.search(name) for name in categories):
        return reject(page, "disambiguation")
    text, sections = outline(reading.blocks)
    if len(text) < max(rules.min_chars, 1):
        return reject(page, "short", f"{len(text)} characters")
    url = site.url(page.title)
    return Document(
        id=str(page.id), title=page.title, text=text, url=url,
        permalink=f"{url}{'&' if '?' in url else '?'}oldid={page.revision}" if url and page.revision else None,
        revision=page.revision, timestamp=page.timestamp, license=site.license, site=site.name,
        categories=tuple(categories), aliases=aliases, infobox=reading.infobox, sections=sections,
        kind="transcript" if is_transcript(page.title, categories, text) else None,
    )  # fmt: skip
