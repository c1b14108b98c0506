"""A live wiki as a source: each page fetched once a revision, kept raw, and read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import ServiceError
from cirilla_cli.http import BotChallenge, Client
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.access import Robots, check_terms
from cirilla_cli.scrape.answers import CONTENT, categories, in_any_form, used_templates, with_content
from cirilla_cli.scrape.api import MOST_TITLES, Api, ApiError, find_api, in_addresses, read_site
from cirilla_cli.scrape.config import MediaWikiConfig
from cirilla_cli.scrape.html import read_html
from cirilla_cli.scrape.listing import Listed, Listing
from cirilla_cli.scrape.page import RawPage, Reading, Reject, Rules, Site, extract, reject
from cirilla_cli.scrape.store import Line, PageStore
from cirilla_cli.scrape.templates import Templates
from cirilla_cli.scrape.wikitext import read_wikitext

_GONE = frozenset({"missingtitle", "nosuchpageid", "nosuchrevid", "permissiondenied", "pagecannotexist"})
_MOST_FAILURES = 3
_FIRST_TRIES = 3
_MOST_AT_ONCE = 10 * MOST_TITLES
"""Pages whose templates are asked for together; each asks for few, and 50 of them fit a request."""


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


def reading_of(templates: Templates, namespaces: Mapping[str, int], page: RawPage) -> Reading:
    """What a page of a wiki says, in either reading."""
    if page.reading == "html":
        return read_html(page.content)
    return read_wikitext(page.content, page.title, templates, namespaces)


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
        self._stated = site
        self._templates, self._known_templates = Templates(), set[str]()
        self._first = store.empty
        self._failures = 0

    @property
    def requests(self) -> int:
        """Requests made so far."""
        return self.api.client.requests_made

    def rows(self) -> Iterator[Document | Reject]:
        """Every page as a document or a rejection, in the wiki's order."""
        with_content = self._first and self.config.reading == "wikitext"
        whole = self.limit is None
        listing, made = iter(Listing(self.api, self.config, self.site, whole=whole, with_content=with_content)), 0
        self.store.note(Line(site=self._stated, namespaces=self.config.namespaces))
        size = 1 if self.config.reading == "html" else _MOST_AT_ONCE if whole else MOST_TITLES
        while self.limit is None or made < self.limit:
            group = list(islice(listing, size if self.limit is None else min(size, self.limit - made)))
            if not group:
                return
            for row in self._group(group):
                made += isinstance(row, Document)
                yield row
            self.store.forget()

    def _group(self, group: list[Listed | Reject]) -> Iterator[Document | Reject]:
        refused = {e.page.id: self.rules.refuse(e.page) for e in group if isinstance(e, Listed)}
        wanted = [entry for entry in group if isinstance(entry, Listed) and refused[entry.page.id] is None]
        refused |= self._fetch(wanted)
        for entry in group:
            refusal = entry if isinstance(entry, Reject) else refused[entry.page.id]
            if refusal is not None:
                self.store.note(Line(reject=refusal))
                yield refusal
            elif isinstance(entry, Listed):
                self.store.note(Line(aliases=entry.aliases), (entry.page.id, self.config.reading))
                yield self._extract(entry.page.id, entry.aliases)

    def _extract(self, page_id: int, aliases: tuple[str, ...]) -> Document | Reject:
        page = self.store.load(page_id, self.config.reading)
        return extract(page, aliases, self.site, self.rules, partial(reading_of, self._templates, self.site.namespaces))

    def _fetch(self, wanted: list[Listed]) -> dict[int, Reject | None]:
        """Bring what is not stored in its present revision; returns the rejections of pages that failed."""
        stale = [e for e in wanted if not self.store.has(e.page.id, self.config.reading, e.page.revision)]
        if self.config.reading == "html":
            return {entry.page.id: self._fetch_parsed(entry.page) for entry in stale}
        came = [entry.page for entry in stale if entry.whole]
        self.store.add(came)
        got = {page.id for page in came}
        for ids in in_addresses([str(entry.page.id) for entry in stale if not entry.whole]):
            pages = self._contents(pageids="|".join(ids))
            self.store.add(pages)
            got |= {page.id for page in pages}
        failed = {e.page.id: reject(e.page, "missing") for e in stale if e.page.id not in got}
        self._fetch_templates(self.store.load(e.page.id, "wikitext").content for e in wanted if e.page.id not in failed)
        return dict(failed)

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
            timestamp=page.timestamp if revision == page.revision else None, content=str(in_any_form(answer["text"])),
            categories=categories(answer.get("categories") or [], "category"),
        )  # fmt: skip

    def _contents(self, **which: str) -> list[RawPage]:
        """The pages named, with their wikitext; missing and hidden ones left out."""
        pages = (with_content(page) for batch in self.api.batches(**which, **CONTENT) for page in batch.pages.values())
        return [page for page in pages if page is not None]

    def _fetch_templates(self, texts: Iterable[str]) -> None:
        """Bring the template pages that ``texts`` use, and those which these use in turn."""
        names = used_templates(texts) - self._known_templates
        while names:
            self._known_templates |= names
            found: list[str] = []
            for group in in_addresses([f"Template:{name}" for name in sorted(names)]):
                for page in self._template_pages(group):
                    self._templates.add(page.title.partition(":")[2], page.content)
                    self.store.note(Line(template=True), (page.id, "wikitext"))
                    found.append(page.content)
            names = used_templates(found) - self._known_templates

    def _template_pages(self, titles: list[str]) -> list[RawPage]:
        """Template pages by title: stored ones where they have not changed, the others fetched."""
        if self._first:
            pages = self._contents(titles="|".join(titles))
            self.store.add(pages)
            return pages
        listed = [p for batch in self.api.batches(titles="|".join(titles), prop="info") for p in batch.pages.values()]
        revisions = {int(page["pageid"]): page.get("lastrevid") for page in listed if page.get("pageid")}
        stale = [str(number) for number, at in revisions.items() if not self.store.has(number, "wikitext", at)]
        for group in in_addresses(stale):
            self.store.add(self._contents(pageids="|".join(group)))
        stored = [number for number, at in revisions.items() if self.store.has(number, "wikitext", at)]
        return [self.store.load(number, "wikitext") for number in stored]
