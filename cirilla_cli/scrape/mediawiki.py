"""A live wiki as a source: each page fetched once a revision, kept raw, and read."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import mwparserfromhell

from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import ServiceError
from cirilla_cli.http import BotChallenge, Client
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.access import Robots, check_terms
from cirilla_cli.scrape.api import MOST_TITLES, Api, ApiError, find_api, in_addresses, read_site
from cirilla_cli.scrape.config import MediaWikiConfig
from cirilla_cli.scrape.html import read_html
from cirilla_cli.scrape.listing import NOT_IN_TITLES, Listed, Listing
from cirilla_cli.scrape.page import RawPage, Reading, Reject, Rules, Site, extract, reject
from cirilla_cli.scrape.store import PageStore
from cirilla_cli.scrape.templates import REDIRECT, Templates, template_name
from cirilla_cli.scrape.wikitext import read_wikitext

_GONE = frozenset({"missingtitle", "nosuchpageid", "nosuchrevid", "permissiondenied", "pagecannotexist"})
_MOST_FAILURES = 3
_FIRST_TRIES = 3


def connect(config: MediaWikiConfig, client: Client, progress: Progress) -> tuple[Api, Site]:
    """The wiki's API and what the wiki says of itself, after asking robots.txt.

    Raises:
        CirillaError: the wiki may not be fetched from. ServiceError: it, or its robots.txt, does not answer.
    """
    # A wrong address or a host that is down should be said soon; patience is for a wiki that has answered before.
    patience, client.max_tries = client.max_tries, min(client.max_tries, _FIRST_TRIES)
    robots = Robots(client, config.api, config.permission, progress)
    api = Api(client, find_api(client, config.api, robots))
    site, host = read_site(api)
    client.max_tries = patience
    check_terms(host, config.permission)
    return api, site


class WikiSource:
    """Documents of a live wiki.

    Args:
        store: where raw pages are kept, so that only changed revisions are fetched.
        license: terms to assume where the wiki states none.
        limit: most documents wanted; no batch fetches more than are missing.
    """

    def __init__(
        self,
        api: Api,
        site: Site,
        config: MediaWikiConfig,
        rules: Rules,
        store: PageStore,
        license: License | None,
        limit: int | None,
    ) -> None:
        self.api, self.config, self.rules, self.store, self.limit = api, config, rules, store, limit
        self.site = site if site.license else replace(site, license=license)
        self._templates, self._known_templates = Templates(), set[str]()
        self._failures = 0

    @property
    def requests(self) -> int:
        """Requests made so far."""
        return self.api.client.requests_made

    def rows(self) -> Iterator[Document | Reject]:
        """Every page as a document or a rejection, in the wiki's order."""
        listing, made = iter(Listing(self.api, self.config, self.site)), 0
        size = MOST_TITLES if self.config.reading == "wikitext" else 1
        while self.limit is None or made < self.limit:
            group = list(islice(listing, size if self.limit is None else min(size, self.limit - made)))
            if not group:
                return
            for row in self._group(group):
                made += isinstance(row, Document)
                yield row
            self.store.forget()

    def _group(self, group: list[Listed | Reject]) -> Iterator[Document | Reject]:
        refused = {
            entry.page.id: self.rules.refuse(entry.page) for entry in group if isinstance(entry, Listed)
        }  # fmt: skip
        wanted = [entry.page for entry in group if isinstance(entry, Listed) and refused[entry.page.id] is None]
        refused |= self._fetch(wanted)
        for entry in group:
            if isinstance(entry, Reject):
                yield entry
                continue
            page = entry.page
            yield refused[page.id] or self._extract(page.id, entry.aliases)

    def _extract(self, page_id: int, aliases: tuple[str, ...]) -> Document | Reject:
        page = self.store.load(page_id, self.config.reading)
        return extract(page, aliases, self.site, self.rules, self._read)

    def _read(self, page: RawPage) -> Reading:
        if page.reading == "html":
            return read_html(page.content)
        return read_wikitext(page.content, page.title, self._templates, self.site.namespaces)

    def _fetch(self, wanted: list[RawPage]) -> dict[int, Reject | None]:
        """Bring what is not stored in its present revision; returns the rejections of pages that failed."""
        stale = [page for page in wanted if not self.store.has(page.id, self.config.reading, page.revision)]
        if self.config.reading == "html":
            return {page.id: self._fetch_parsed(page) for page in stale}
        got: set[int] = set()
        for ids in in_addresses([str(page.id) for page in stale]):
            pages = self._contents(pageids="|".join(ids))
            self.store.add(pages)
            got |= {page.id for page in pages}
        failed: dict[int, Reject | None] = {page.id: reject(page, "missing") for page in stale if page.id not in got}
        self._fetch_templates([self.store.load(p.id, "wikitext").content for p in wanted if p.id not in failed])
        return failed

    def _fetch_parsed(self, page: RawPage) -> Reject | None:
        """Store a rendered page; a page that fails is rejected, several in a row end the run.

        Failures are no content: nothing is stored, so the next run asks again.
        """
        try:
            self.store.add([self._parsed(page)])
        except BotChallenge:
            raise
        except ApiError as error:
            if error.code not in _GONE:
                raise
            return reject(page, "missing", error.code)
        except ServiceError as error:
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise
            return reject(page, "failed", str(error))
        self._failures = 0
        return None

    def _parsed(self, page: RawPage) -> RawPage:
        """The page as the wiki renders it now."""
        answer = self.api.ask(
            action="parse", pageid=str(page.id), prop="text|revid|categories", disableeditsection="1", disabletoc="1",
            disablelimitreport="1",
        )["parse"]  # fmt: skip
        revision = int(answer.get("revid") or page.revision or 0) or None
        return replace(
            page, title=str(answer.get("title") or page.title), revision=revision,
            timestamp=page.timestamp if revision == page.revision else None, content=str(_content(answer["text"])),
            categories=_categories(answer.get("categories") or [], "category"),
        )  # fmt: skip

    def _contents(self, **which: str) -> list[RawPage]:
        """Pages with their wikitext, 50 a request, and the wiki's own list of categories that are not hidden."""
        asked = {"prop": "revisions|categories", "rvprop": "ids|timestamp|content", "rvslots": "main"}
        batches = self.api.batches(**which, **asked, cllimit="max", clshow="!hidden")
        pages = (_with_content(page) for batch in batches for page in batch.pages.values())
        return [page for page in pages if page is not None]

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
        batches = self.api.batches(titles="|".join(titles), prop="info")
        pages = [page for batch in batches for page in batch.pages.values() if page.get("pageid")]
        revisions = {int(page["pageid"]): page.get("lastrevid") for page in pages}
        stale = [str(number) for number, at in revisions.items() if not self.store.has(number, "wikitext", at)]
        for group in in_addresses(stale):
            self.store.add(self._contents(pageids="|".join(group)))
        stored = [number for number, at in revisions.items() if self.store.has(number, "wikitext", at)]
        return [self.store.load(number, "wikitext") for number in stored]


def _with_content(page: dict[str, Any]) -> RawPage | None:
    """A page of an answer with its wikitext, or None where it is missing or hidden."""
    revision = (page.get("revisions") or [{}])[0]
    text = _content((revision.get("slots") or {}).get("main", revision))
    if not page.get("pageid") or not isinstance(text, str):
        return None
    return RawPage(
        int(page["pageid"]), str(page["title"]), int(page.get("ns", 0)), revision.get("revid"),
        revision.get("timestamp"), "wikitext", text, _categories(page.get("categories") or [], "title"),
    )  # fmt: skip


def _content(value: Any) -> Any:
    """A text in the new form of an answer (itself, or under `content`) or the old one (under `*`)."""
    if isinstance(value, dict):
        return value.get("content", value.get("*"))
    return value


def _categories(entries: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    """Names without prefix and underscores; hidden ones (maintenance) are left out."""
    shown = (str(entry.get(key, entry.get("*", ""))) for entry in entries if entry.get("hidden", False) is False)
    return tuple((name.partition(":")[2] if key == "title" else name).replace("_", " ") for name in shown)


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
    return {name for name in names if name and ":" not in name and not NOT_IN_TITLES.search(name)}
