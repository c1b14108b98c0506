"""MediaWiki's api.php: one question at a time, every continuation followed, errors inside good answers found."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from cirilla_cli.data.rows import License
from cirilla_cli.errors import ServiceError
from cirilla_cli.http import BotChallenge, Client
from cirilla_cli.scrape.access import Robots
from cirilla_cli.scrape.page import Site

_BASE = {"format": "json", "formatversion": "2", "maxlag": "5"}
_WAITING = frozenset({"maxlag", "ratelimited", "readonly"})
MOST_TITLES = 50
"""Most values of `titles` or `pageids` that a wiki takes at once."""
_MOST_ADDRESS = 6000


class ApiError(ServiceError):
    """The wiki understood the question and refuses it; ``code`` is its word for why."""

    def __init__(self, url: str, code: str, info: str) -> None:
        super().__init__(f"{url}: the wiki answers {code}: {info}")
        self.code = code


class Api:
    """The api.php at ``url``."""

    def __init__(self, client: Client, url: str) -> None:
        self.client, self.url = client, url

    def ask(self, **params: str) -> dict[str, Any]:
        """One answer.

        Raises:
            ApiError: the wiki refuses. ServiceError: no good answer came.
        """
        answer = self.client.get_json(self.url, {**_BASE, **params}, self._judge)
        assert isinstance(answer, dict)
        return answer

    def _judge(self, answer: Any) -> float | None:
        """Seconds to wait (0: back off), or None for a good answer."""
        if not isinstance(answer, dict):
            raise ServiceError(f"{self.url}: this is not a MediaWiki API: {str(answer)[:80]}")
        error = answer.get("error")
        if not error:
            return None
        code = str(error.get("code", "")) if isinstance(error, dict) else str(error)
        if code in _WAITING or code.startswith("internal_api_error"):
            return 0.0
        raise ApiError(self.url, code, str(error.get("info", "")) if isinstance(error, dict) else "")

    def batches(self, **params: str) -> Iterator["Batch"]:
        """All answers to a query, following every ``continue``; a batch is whole when it comes.

        A generator with content answers with all its pages but the content of only 50; the rest follows page part by
        page part, so the parts are merged by page until the wiki says the batch is complete.
        """
        batch = Batch()
        for answer in self.answers(**params):
            batch.take(answer.get("query") or {})
            if "batchcomplete" in answer:
                yield batch
                batch = Batch()
        if batch.pages or batch.redirects:
            yield batch

    def answers(self, **params: str) -> Iterator[dict[str, Any]]:
        """Every answer to a query, as long as the wiki says that it continues."""
        going_on = dict[str, str]()
        while True:
            answer = self.ask(action="query", **params, **going_on)
            yield answer
            further = {key: str(value) for key, value in (answer.get("continue") or {}).items()}
            if not further:
                return
            if further == going_on:
                raise ServiceError(f"{self.url}: the wiki continues at the same place again and again: {further}")
            going_on = further


class Batch:
    """The pages of some answers, merged, and how the titles asked for were read."""

    def __init__(self) -> None:
        self.pages: dict[int | str, dict[str, Any]] = {}
        """By page id; missing and invalid ones by title."""
        self.normalized: dict[str, str] = {}
        self.redirects: dict[str, str] = {}

    def take(self, query: Mapping[str, Any]) -> None:
        """Merge one answer's ``query``: lists grow, single values are replaced."""
        for name, into in (("normalized", self.normalized), ("redirects", self.redirects)):
            into.update({str(entry["from"]): str(entry["to"]) for entry in query.get(name, ())})
        pages = query.get("pages") or []
        for part in pages.values() if isinstance(pages, dict) else pages:
            known = self.pages.setdefault(_key(part), {})
            for key, value in part.items():
                if isinstance(value, list) and isinstance(known.get(key), list):
                    known[key] = known[key] + [entry for entry in value if entry not in known[key]]
                else:
                    known[key] = value


def _key(page: Mapping[str, Any]) -> int | str:
    number = page.get("pageid")
    return int(number) if number else str(page.get("title", ""))


def in_addresses(values: list[str]) -> Iterator[list[str]]:
    """``values`` in groups that one request can ask for: at most 50, and short enough for an address."""
    group: list[str] = []
    size = 0
    for value in values:
        length = 3 * len(value.encode()) + 3
        if group and (len(group) == MOST_TITLES or size + length > _MOST_ADDRESS):
            yield group
            group, size = [], 0
        group.append(value)
        size += length
    if group:
        yield group


def find_api(client: Client, address: str, robots: Robots) -> str:
    """The address of api.php, given itself or any address of the wiki.

    Raises:
        CirillaError: robots.txt forbids it. ServiceError: none answers.
    """
    if urlsplit(address).path.endswith("api.php"):
        return robots.allowed([address.split("?")[0]])[0]
    root = urljoin(address, "/")
    below = urljoin(root, urlsplit(address).path.rstrip("/") + "/")
    candidates = [urljoin(below, "api.php"), urljoin(root, "w/api.php"), urljoin(root, "api.php")]
    candidates = robots.allowed(list(dict.fromkeys(candidates)))
    for candidate in candidates:
        if _is_api(client, candidate):
            return candidate
    # None answered: ask one again in earnest, so that its own words (a challenge, a refusal) reach the user.
    Api(client, candidates[0]).ask(action="query", meta="siteinfo")
    return candidates[0]


def _is_api(client: Client, address: str) -> bool:
    """Whether an api.php answers there. Raises: BotChallenge: which every other address would answer too."""
    try:
        text = client.get_text(f"{address}?action=query&meta=siteinfo&format=json")
    except BotChallenge:
        raise
    except ServiceError:
        return False
    return text is not None and text.lstrip().startswith("{")


def read_site(api: Api) -> tuple[Site, str]:
    """(what the wiki says of itself, the host it names); the licence is None where it states none."""
    query = api.ask(action="query", meta="siteinfo", siprop="general|rightsinfo|namespaces|namespacealiases")["query"]
    general, rights = query.get("general", {}), query.get("rightsinfo", {})
    namespaces = {}
    for entry in (query.get("namespaces") or {}).values():
        for name in (entry.get("name", entry.get("*")), entry.get("canonical")):
            if name:
                namespaces[str(name).lower()] = int(entry["id"])
    for entry in query.get("namespacealiases") or []:
        namespaces[str(entry.get("alias", entry.get("*"))).lower()] = int(entry["id"])
    name, address = rights.get("text") or rights.get("url"), rights.get("url") or None
    path = general.get("articlepath")
    server = urljoin(api.url, general.get("server") or "/")
    site = Site(
        name=general.get("sitename"),
        article_path=urljoin(server, path) if path else None,
        license=License(name=str(name), url=address) if name else None,
        namespaces=namespaces,
    )
    return site, urlsplit(server).hostname or ""
