"""A live wiki as a source: what to fetch, fetching it once a revision, and reading it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import mwparserfromhell

from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.http import BotChallenge, Client
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.access import check_terms, honour_robots
from cirilla_cli.scrape.api import MOST_TITLES, Api, ApiError, Batch, find_api, in_addresses, read_site
from cirilla_cli.scrape.config import MediaWikiConfig
from cirilla_cli.scrape.html import read_html
from cirilla_cli.scrape.page import RawPage, Reading, Reject, Rules, Site, extract, reject
from cirilla_cli.scrape.store import Store
from cirilla_cli.scrape.templates import REDIRECT, Templates, template_name
from cirilla_cli.scrape.wikitext import read_wikitext

_ABOUT = {
    "prop": "info|revisions|redirects|pageprops", "rvprop": "ids|timestamp", "rdprop": "title", "rdlimit": "max",
    "ppprop": "disambiguation",
}  # fmt: skip
_GONE = frozenset({"missingtitle", "nosuchpageid", "nosuchrevid", "permissiondenied", "pagecannotexist"})
_MOST_FAILURES = 3
_NOT_IN_TITLES = re.compile(r"[\[\]{}|<>\n#\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Listed:
    """A page the wiki says it has: what is known before its content is fetched."""

    page: RawPage
    aliases: tuple[str, ...]


class WikiSource:
    """Documents of a live wiki.

    Args:
        client: made by `access.open_client`.
        store: where raw pages are kept; None keeps nothing (rows go to a pipe).
        limit: most documents wanted, so that no batch fetches more than that.

    Raises:
        CirillaError: the wiki may not be fetched from. ServiceError: it does not answer.
    """

    def __init__(
        self, config: MediaWikiConfig, client: Client, rules: Rules, limit: int | None, progress: Progress
    ) -> None:
        self.config, self.client, self.rules, self.limit = config, client, rules, limit
        url = config.api
        if url.split("?")[0].endswith("api.php"):
            honour_robots(client, url, config.permission, progress)
        url = find_api(client, url)
        if url != config.api:
            honour_robots(client, url, config.permission, progress)
        self.api = Api(client, url)
        self.site, host = read_site(self.api)
        check_terms(host, config.permission)
        self.aliases = 0
        self.store: Store | None = None
        self._templates, self._known_templates = Templates(), set[str]()
        self._failures, self._held = 0, dict[int, RawPage]()

    def keep_in(self, folder: Path) -> None:
        """Keep raw pages in ``folder``, and use those that lie there."""
        self.store = Store(folder, self.api.url)

    def close(self) -> None:
        """Close the store."""
        if self.store is not None:
            self.store.close()

    @property
    def fetched(self) -> int:
        """Pages whose content came over the network."""
        return self.store.fetched if self.store is not None else self._streamed

    _streamed = 0

    def rows(self, license: License | None) -> Iterator[Document | Reject]:
        """Every page as a document or a rejection, in the wiki's order."""
        site = self.site if self.site.license else Site(
            self.site.name, self.site.article_path, license, self.site.namespaces
        )  # fmt: skip
        listing, made = self._listing(), 0
        size = MOST_TITLES if self.config.reading == "wikitext" else 1
        while self.limit is None or made < self.limit:
            wanted = size if self.limit is None else min(size, self.limit - made)
            group = list(islice(listing, wanted))
            if not group:
                return
            for row in self._group(group, site):
                made += isinstance(row, Document)
                yield row

    def _group(self, group: list[Listed | Reject], site: Site) -> Iterator[Document | Reject]:
        failed = self._fetch([entry for entry in group if isinstance(entry, Listed)])
        for entry in group:
            if isinstance(entry, Reject):
                yield entry
                continue
            refused = self.rules.refuse(entry.page) or failed.get(entry.page.id)
            if refused is not None:
                yield refused
                continue
            page = self._raw(entry.page.id)
            row = extract(page, entry.aliases, site, self.rules, self._read)
            self.aliases += len(entry.aliases) if isinstance(row, Document) else 0
            yield row
        self._held.clear()

    def _raw(self, page_id: int) -> RawPage:
        return self._held[page_id] if self.store is None else self.store.load(page_id, self.config.reading)

    def _read(self, page: RawPage) -> Reading:
        if page.reading == "html":
            return read_html(page.content)
        return read_wikitext(page.content, page.title, self._templates, self.site.namespaces)

    # What to fetch

    def _listing(self) -> Iterator[Listed | Reject]:
        """The pages selected, each once."""
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
                members = {"generator": "categorymembers", "gcmtitle": name, "gcmtype": "page|subcat", "gcmlimit": "max"}
                for batch in self.api.batches(**members, **_ABOUT):
                    below += [page["title"] for page in batch.pages.values() if page.get("ns") == 14]
                    yield from (e for e in self._entries(batch) if not (isinstance(e, Listed) and e.page.namespace == 14))
            queue = [name for name in dict.fromkeys(below) if name not in visited]
            visited.update(queue)
            level += 1

    def _by_title(self, titles: list[str]) -> Iterator[Listed | Reject]:
        """Pages by title, redirects followed; a title that leads nowhere is rejected."""
        bad = [title for title in titles if _NOT_IN_TITLES.search(title) or not title.strip()]
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

    # Fetching it

    def _fetch(self, listed: list[Listed]) -> dict[int, Reject]:
        """Bring the content of pages that are not stored in their present revision; returns those that failed."""
        wanted = [entry.page for entry in listed if self.rules.refuse(entry.page) is None]
        missing = [page for page in wanted if not self._stored(page.id, page.revision)]
        if self.config.reading == "html":
            return self._fetch_html(missing)
        for group in in_addresses([str(page.id) for page in missing]):
            self._keep(self._contents(pageids="|".join(group)))
        got = [page for page in wanted if self._stored(page.id, None, any_revision=True)]
        self._fetch_templates([self._raw(page.id).content for page in got])
        return {page.id: reject(page, "missing") for page in wanted if page not in got}

    def _stored(self, page_id: int, revision: int | None, *, any_revision: bool = False) -> bool:
        if self.store is None:
            return page_id in self._held
        if any_revision:
            return self.store.knows(page_id, self.config.reading)
        return self.store.has(page_id, self.config.reading, revision)

    def _keep(self, pages: list[RawPage]) -> None:
        if self.store is not None:
            self.store.add(pages)
            return
        self._streamed += len(pages)
        self._held.update({page.id: page for page in pages})

    def _fetch_html(self, pages: list[RawPage]) -> dict[int, Reject]:
        failed = {}
        for page in pages:
            try:
                self._keep([self._parsed(page)])
                self._failures = 0
            except BotChallenge:
                raise
            except ApiError as error:
                if error.code not in _GONE:
                    raise
                failed[page.id] = reject(page, "missing", error.code)
            except ServiceError as error:
                self._failures += 1
                if self._failures >= _MOST_FAILURES:
                    raise
                failed[page.id] = reject(page, "failed", str(error))
        return failed

    def _parsed(self, page: RawPage) -> RawPage:
        """The page as the wiki renders it now."""
        answer = self.api.ask(
            action="parse", pageid=str(page.id), prop="text|revid|categories", disableeditsection="1", disabletoc="1",
            disablelimitreport="1",
        )["parse"]  # fmt: skip
        revision = int(answer.get("revid") or page.revision or 0) or None
        return RawPage(
            page.id, str(answer.get("title") or page.title), page.namespace, revision,
            page.timestamp if revision == page.revision else None, "html", _content(answer["text"]),
            _categories(answer.get("categories") or [], "category"), page.disambiguation,
        )  # fmt: skip

    def _contents(self, **which: str) -> list[RawPage]:
        """Pages with their wikitext, 50 a request; the wiki's own list of categories where it is not hidden."""
        found = []
        asked = {"prop": "revisions|categories", "rvprop": "ids|timestamp|content", "rvslots": "main"}
        for batch in self.api.batches(**which, **asked, cllimit="max", clshow="!hidden"):
            for page in batch.pages.values():
                revision = (page.get("revisions") or [None])[0]
                if not page.get("pageid") or revision is None:
                    continue
                slot = (revision.get("slots") or {}).get("main", revision)
                if not isinstance(_content(slot), str) or "texthidden" in revision:
                    continue
                found.append(RawPage(
                    int(page["pageid"]), str(page["title"]), int(page.get("ns", 0)), revision.get("revid"),
                    revision.get("timestamp"), "wikitext", _content(slot),
                    _categories(page.get("categories") or [], "title"),
                ))  # fmt: skip
        return found

    def _fetch_templates(self, texts: list[str]) -> None:
        """Bring the template pages that ``texts`` use, and those which these use in turn."""
        names = _used(texts) - self._known_templates
        while names:
            self._known_templates |= names
            texts = []
            for group in in_addresses([f"Template:{name}" for name in sorted(names)]):
                for page in self._template_pages(group):
                    self._templates.add(page.title.partition(":")[2], page.content)
                    texts.append(page.content)
            names = _used(texts) - self._known_templates

    def _template_pages(self, titles: list[str]) -> list[RawPage]:
        """Template pages by title: stored ones where they have not changed, the others fetched."""
        if self.store is None:
            return self._contents(titles="|".join(titles))
        now = [page for batch in self.api.batches(titles="|".join(titles), prop="info") for page in batch.pages.values()]
        ids = {int(page["pageid"]): page.get("lastrevid") for page in now if page.get("pageid")}
        changed = [str(number) for number, revision in ids.items() if not self.store.has(number, "wikitext", revision)]
        for group in in_addresses(changed):
            self.store.add(self._contents(pageids="|".join(group)))
        return [self.store.load(number, "wikitext") for number in ids if self.store.knows(number, "wikitext")]


def _content(value: Any) -> Any:
    """A text in the new form of an answer (itself, or under `content`) or the old one (under `*`)."""
    if isinstance(value, dict):
        return value.get("content", value.get("*"))
    return value


def _categories(entries: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    """Names without prefix and underscores; hidden ones (maintenance) are left out."""
    shown = (str(entry.get(key, entry.get("*", ""))) for entry in entries if entry.get("hidden", False) is False)
    return tuple((name.partition(":")[2] if key == "title" else name).replace("_", " ") for name in shown)


def _end(title: str, targets: dict[str, str]) -> str:
    """Where a title leads over normalisation and redirects."""
    seen: set[str] = set()
    while title in targets and title not in seen:
        seen.add(title)
        title = targets[title]
    return title


def _used(texts: list[str]) -> set[str]:
    """Names of the templates that wikitexts use or redirect to; parser functions left out."""
    names = set()
    for text in texts:
        target = REDIRECT.match(text)
        if target:
            names.add(template_name(target[1]))
        if "{{" in text:
            found = mwparserfromhell.parse(text).filter_templates()
            names |= {template_name(str(template.name)) for template in found}
    return {name for name in names if name and ":" not in name and not _NOT_IN_TITLES.search(name)}


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
