"""Which pages of a live wiki are wanted: the titles named, a category, or every article."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.errors import CirillaError
from cirilla_cli.scrape.answers import CONTENT, marked, with_content
from cirilla_cli.scrape.api import MOST_TITLES, Api, Batch, in_addresses
from cirilla_cli.scrape.config import MediaWikiConfig
from cirilla_cli.scrape.page import RawPage, Reject, Site
from cirilla_cli.scrape.redirects import Redirects
from cirilla_cli.scrape.templates import NOT_IN_TITLES

_ABOUT = {
    "prop": "info|revisions|redirects|pageprops", "rvprop": "ids|timestamp", "rdprop": "title", "rdlimit": "max",
    "ppprop": "disambiguation",
}  # fmt: skip
_WITH_CONTENT = {**_ABOUT, **CONTENT, "prop": f"{_ABOUT['prop']}|{CONTENT['prop'].partition('|')[2]}"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A page the wiki says it has, and the titles that redirect to it; ``whole``: with its wikitext."""

    page: RawPage
    aliases: tuple[str, ...]
    whole: bool = False


class Listing:
    """The pages a configuration selects, each once, in the wiki's order; iterating asks the wiki.

    Args:
        whole: every page is wanted, so what redirects lead to is asked for too, over any number of steps.
        with_content: pages come with their wikitext where that takes no further request.
    """

    def __init__(
        self, api: Api, config: MediaWikiConfig, site: Site, *, whole: bool = False, with_content: bool = False
    ) -> None:
        self.api, self.config, self.site = api, config, site
        self._whole, self._with_content = whole, with_content
        self._further: dict[str, tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Listed | Reject]:
        titles = [*self.config.titles, *(read_titles(self.config.titles_file) if self.config.titles_file else ())]
        if titles or self.config.titles_file:
            entries = self._by_links(titles)
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
        redirects = self._redirects() if self._whole else Redirects()
        self._further, titles = redirects.aliases(), set[str]()
        about, most = (_WITH_CONTENT, str(MOST_TITLES)) if self._with_content else (_ABOUT, "max")
        for namespace in self.config.namespaces:
            every = {"generator": "allpages", "gapnamespace": str(namespace), "gapfilterredir": "nonredirects"}
            for batch in self.api.batches(**every, gaplimit=most, **about):
                titles |= {str(page.get("title")) for page in batch.pages.values()}
                yield from self._entries(batch)
        for title in sorted(redirects.targets):
            end = redirects.end(title)
            if end not in titles:
                yield Reject(id=title, title=title, reason="broken redirect" if end else "redirect loop")

    def _redirects(self) -> Redirects:
        """Every redirect within each namespace; one list has the titles that lead on, the other where to."""
        redirects = Redirects()
        for namespace in map(str, self.config.namespaces):
            both = {"list": "allpages|allredirects", "apnamespace": namespace, "arnamespace": namespace}
            titles, ends = dict[int, str](), dict[int, str]()
            for answer in self.api.answers(
                **both, apfilterredir="redirects", aplimit="max", arprop="ids|title", arlimit="max"
            ):
                query = answer.get("query") or {}
                titles |= {int(page["pageid"]): str(page["title"]) for page in query.get("allpages", ())}
                ends |= {int(entry["fromid"]): str(entry["title"]) for entry in query.get("allredirects", ())}
            redirects.targets |= {title: ends[number] for number, title in titles.items() if number in ends}
        return redirects

    def _by_links(self, titles: list[str]) -> Iterator[Listed | Reject]:
        """Breadth first: the titles, the pages they link to, and so on for `follow` levels, at most `max_pages`."""
        level, seen = self._by_title(titles), set[int]()
        for _ in range(self.config.follow + 1):
            names = []
            for entry in level:
                if isinstance(entry, Listed):
                    if entry.page.id in seen:
                        continue
                    if len(seen) == self.config.max_pages:
                        return
                    seen.add(entry.page.id)
                    names.append(entry.page.title)
                yield entry
            level = self._linked(names)

    def _linked(self, titles: list[str]) -> Iterator[Listed | Reject]:
        """What pages link to; links that lead nowhere are no rejections, because nobody asked for them."""
        namespaces = "|".join(map(str, self.config.namespaces))
        links = {"generator": "links", "gpllimit": "max", "gplnamespace": namespaces, "redirects": "1"}
        for group in in_addresses(titles):
            for batch in self.api.batches(titles="|".join(group), **links, **_ABOUT):
                yield from (entry for entry in self._entries(batch) if isinstance(entry, Listed))

    def _by_category(self, category: str) -> Iterator[Listed | Reject]:
        """Breadth first; categories that contain one another are visited once."""
        prefix, colon, rest = category.partition(":")
        known = colon and self.site.namespaces.get(prefix.lower(), 14 if prefix.lower() == "category" else 0) == 14
        first = "Category:" + (rest if known else category).strip().replace("_", " ")
        queue, visited, level = [first], {first}, 0
        while queue and level <= self.config.depth:
            below: list[str] = []
            for name in queue:
                members = {"generator": "categorymembers", "gcmtitle": name, "gcmtype": "page|subcat"}
                for batch in self.api.batches(**members, gcmlimit="max", **_ABOUT):
                    below += [page["title"] for page in batch.pages.values() if page.get("ns") == 14]
                    yield from (e for e in self._entries(batch) if isinstance(e, Reject) or e.page.namespace != 14)
            queue = [name for name in dict.fromkeys(below) if name not in visited]
            visited.update(queue)
            level += 1

    def _by_title(self, titles: list[str]) -> Iterator[Listed | Reject]:
        """Pages by title, redirects followed; a title that leads nowhere is rejected."""
        bad = [title for title in titles if NOT_IN_TITLES.search(title) or not title.strip()]
        yield from (Reject(id=title, title=title, reason="not a title") for title in bad)
        for group in in_addresses([title for title in dict.fromkeys(titles) if title not in bad]):
            found: set[str] = set()
            leads = Redirects()
            for batch in self.api.batches(titles="|".join(group), redirects="1", **_ABOUT):
                leads.targets |= batch.normalized | batch.redirects
                found |= {str(page.get("title")) for page in batch.pages.values()}
                yield from self._entries(batch)
            for title in group:
                if leads.end(title) not in found:
                    yield Reject(id=title, title=title, reason="redirect loop")

    def _entries(self, batch: Batch) -> Iterator[Listed | Reject]:
        for page in batch.pages.values():
            title = str(page.get("title", ""))
            if not page.get("pageid"):
                yield Reject(id=title, title=title, reason="missing" if "missing" in page else "not a title")
                continue
            direct = (str(entry["title"]) for entry in page.get("redirects") or [])
            aliases = tuple(sorted({*direct, *self._further.get(title, ())}))
            content = with_content(page) if self._with_content else None
            yield Listed(content or self._bare(page), aliases, content is not None)

    def _bare(self, page: dict[str, Any]) -> RawPage:
        """A page without its content."""
        revision = (page.get("revisions") or [{}])[0]
        number = revision.get("revid") or page.get("lastrevid")
        return RawPage(
            int(page["pageid"]), str(page["title"]), int(page.get("ns", 0)), number, revision.get("timestamp"),
            self.config.reading, "", (), marked(page),
        )  # fmt: skip


def read_titles(path: Path) -> list[str]:
    """Titles from a file, one a line or a JSON list of strings, or from each such file of a folder.

    Raises:
        CirillaError: the file is missing, or JSON of another shape.
    """
    if path.is_dir():
        lists = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".txt")]
        if not lists:
            raise CirillaError(f"{path}: holds no .json or .txt file with titles")
        return [title for file in lists for title in read_titles(file)]
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
