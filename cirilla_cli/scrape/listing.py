"""Which pages of a live wiki are wanted: the titles named, a category, or every article."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cirilla_cli.errors import CirillaError
from cirilla_cli.scrape.api import Api, Batch, in_addresses
from cirilla_cli.scrape.config import MediaWikiConfig
from cirilla_cli.scrape.page import RawPage, Reject, Site

_ABOUT = {
    "prop": "info|revisions|redirects|pageprops", "rvprop": "ids|timestamp", "rdprop": "title", "rdlimit": "max",
    "ppprop": "disambiguation",
}  # fmt: skip
NOT_IN_TITLES = re.compile(r"[\[\]{}|<>\n#\x00-\x1f]")
"""What no title of a wiki holds."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page the wiki says it has, without its content, and the titles that redirect to it."""

    page: RawPage
    aliases: tuple[str, ...]


class Listing:
    """The pages a configuration selects, each once, in the wiki's order; iterating asks the wiki."""

    def __init__(self, api: Api, config: MediaWikiConfig, site: Site) -> None:
        self.api, self.config, self.site = api, config, site

    def __iter__(self) -> Iterator[Listed | Reject]:
        titles = [*self.config.titles, *(read_titles(self.config.titles_file) if self.config.titles_file else ())]
        if titles or self.config.titles_file:
            entries = self._by_title(titles)
        elif self.config.category is not None:
            entries = self._by_category(self.config.category)
        else:
            entries = self._all()
        seen: set[int | str] = set()
        for entry in entries:
            key = entry.page.id if isinstance(entry, Listed) else entry.title
            if key not in seen:
                seen.add(key)
                yield entry

    def _all(self) -> Iterator[Listed | Reject]:
        for namespace in self.config.namespaces:
            every = {"generator": "allpages", "gapnamespace": str(namespace), "gapfilterredir": "nonredirects"}
            for batch in self.api.batches(**every, gaplimit="max", **_ABOUT):
                yield from self._entries(batch)

    def _by_category(self, category: str) -> Iterator[Listed | Reject]:
        """Breadth first; categories that contain one another are visited once."""
        prefix, colon, rest = category.partition(":")
        known = colon and self.site.namespaces.get(prefix.lower(), 14 if prefix.lower() == "category" else 0) == 14
        first = "Category:" + (rest if known else category).strip().replace("_", " ")
        queue, visited, level = [first], {first}, 0
        while queue and level <= self.config.depth:
            below: list[str] = []
            for name in queue:
                members = {
                    "generator": "categorymembers",
                    "gcmtitle": name,
                    "gcmtype": "page|subcat",
                    "gcmlimit": "max",
                }
                for batch in self.api.batches(**members, **_ABOUT):
                    below += [page["title"] for page in batch.pages.values() if page.get("ns") == 14]
                    yield from (
                        e for e in self._entries(batch) if not (isinstance(e, Listed) and e.page.namespace == 14)
                    )
            queue = [name for name in dict.fromkeys(below) if name not in visited]
            visited.update(queue)
            level += 1

    def _by_title(self, titles: list[str]) -> Iterator[Listed | Reject]:
        """Pages by title, redirects followed; a title that leads nowhere is rejected."""
        bad = [title for title in titles if NOT_IN_TITLES.search(title) or not title.strip()]
        yield from (Reject(id=title, title=title, reason="not a title") for title in bad)
        for group in in_addresses([title for title in dict.fromkeys(titles) if title not in bad]):
            found: set[str] = set()
            targets: dict[str, str] = {}
            for batch in self.api.batches(titles="|".join(group), redirects="1", **_ABOUT):
                targets |= batch.normalized | batch.redirects
                found |= {str(page.get("title")) for page in batch.pages.values()}
                yield from self._entries(batch)
            for title in group:
                if _end(title, targets) not in found:
                    yield Reject(id=title, title=title, reason="redirect loop")

    def _entries(self, batch: Batch) -> Iterator[Listed | Reject]:
        for page in batch.pages.values():
            title = str(page.get("title", ""))
            if not page.get("pageid"):
                yield Reject(id=title, title=title, reason="missing" if "missing" in page else "not a title")
                continue
            revision = (page.get("revisions") or [{}])[0]
            number = revision.get("revid") or page.get("lastrevid")
            aliases = tuple(sorted(str(entry["title"]) for entry in page.get("redirects") or []))
            marked = "disambiguation" in (page.get("pageprops") or {})
            raw = RawPage(
                int(page["pageid"]), title, int(page.get("ns", 0)), number, revision.get("timestamp"),
                self.config.reading, "", (), marked,
            )  # fmt: skip
            yield Listed(raw, aliases)


def _end(title: str, targets: dict[str, str]) -> str:
    """Where a title leads over normalisation and redirects."""
    seen: set[str] = set()
    while title in targets and title not in seen:
        seen.add(title)
        title = targets[title]
    return title


def read_titles(path: Path) -> list[str]:
    """Titles from a file: one a line, or a JSON list of strings.

    Raises:
        CirillaError: the file is missing, or JSON of another shape.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CirillaError(f"{path}: the titles cannot be read: {why}") from None
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        titles = json.loads(text)
    except json.JSONDecodeError as error:
        raise CirillaError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise CirillaError(f"{path}: a flat list of titles is expected, each a string")
    return [title.strip() for title in titles if title.strip()]
