"""Who we are to a host, and whether we may fetch from it: terms, robots.txt, pace."""

import ipaddress
import time
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from cirilla_cli import __version__
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.http import Client
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.config import MediaWikiConfig

_LONG_WAIT_S = 3.0
_DOWNLOAD_PAUSE_S = 1.0
_TERMS_FORBID = {
    "fandom.com": "https://www.fandom.com/terms-of-use",
    "wikia.com": "https://www.fandom.com/terms-of-use",
    "wikia.org": "https://www.fandom.com/terms-of-use",
}
_API_PERMITTED = {
    domain: "https://www.mediawiki.org/wiki/API:Etiquette"
    for domain in (
        "wikipedia.org", "wikimedia.org", "wiktionary.org", "wikibooks.org", "wikiquote.org", "wikisource.org",
        "wikinews.org", "wikiversity.org", "wikivoyage.org", "wikidata.org", "mediawiki.org",
    )
}  # fmt: skip
"""Hosts whose robots.txt keeps crawlers off /w/ while their API rules welcome agents that say who they are."""


def open_client(contact: str | None, config: MediaWikiConfig, progress: Progress) -> Client:
    """The client for a wiki, which says what asks and who answers for it.

    Raises:
        CirillaError: the host's terms forbid automation, or no contact is given for a host that is not local.
    """
    check_access(contact, config)
    return _client(urlsplit(config.api).hostname or "", contact, config.pause, progress)


def check_access(contact: str | None, config: MediaWikiConfig) -> None:
    """Refuse what no client is opened for; nothing is asked of the host.

    Raises:
        CirillaError: the host's terms forbid automation, or no contact is given for a host that is not local.
    """
    host = urlsplit(config.api).hostname or ""
    check_terms(host, config.permission)
    if contact is None and not _is_local(host):
        raise CirillaError(
            f"{host}: no contact is given; a wiki's operators must be able to reach whoever reads it automatically",
            hint="--contact you@example.org",
        )


def open_download(contact: str | None, address: str, progress: Progress) -> Client:
    """The client for one file that the user names; as one file is no crawl, a contact is said only where it is given.

    Raises:
        CirillaError: the host's terms forbid automation.
    """
    host = urlsplit(address).hostname or ""
    check_terms(host, None)
    return _client(host, contact, _DOWNLOAD_PAUSE_S, progress)


def _client(host: str, contact: str | None, pause_s: float, progress: Progress) -> Client:
    person = f"; {contact}" if contact else ""

    def wait(seconds: float) -> None:
        if seconds > pause_s + _LONG_WAIT_S:
            progress.say(f"{host}: waiting {seconds:.0f} s before the next request")
        time.sleep(seconds)

    return Client(f"cirilla/{__version__} (+https://github.com/cirilla{person})", pause_s=pause_s, sleep=wait)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_terms(host: str, permission: str | None) -> None:
    """Refuse hosts whose terms forbid automated access, unless a permission is stated.

    Raises:
        CirillaError: naming the terms and the way by the host's own dump.
    """
    terms = _listed(host, _TERMS_FORBID)
    if terms is None or permission:
        return
    raise CirillaError(
        f"{host}: its terms forbid automated access without written permission ({terms})",
        hint=f"take the wiki's XML dump, linked at https://{host}/wiki/Special:Statistics, and run "
        "cirilla scrape --dump FILE; or state your permission: --permission 'who granted it, and where'",
    )


def _listed(host: str, table: dict[str, str]) -> str | None:
    for domain, address in table.items():
        if host == domain or host.endswith("." + domain):
            return address
    return None


class Robots:
    """What robots.txt of the host of ``address`` allows; reading it also sets the client's pace to its Crawl-delay.

    Raises:
        ServiceError: robots.txt cannot be reached, which forbids everything (RFC 9309, 2.3.1.4), and neither a
            permission nor the host's API rules allow it.
    """

    def __init__(self, client: Client, address: str, permission: str | None, progress: Progress) -> None:
        parts = urlsplit(address)
        self._host, self._rules = parts.hostname or "", RobotFileParser()
        self._reason = permission or _listed(self._host, _API_PERMITTED)
        self._progress = progress
        text = self._read(client, f"{parts.scheme}://{parts.netloc}/robots.txt")
        self._rules.parse((text or "").splitlines())
        delay = self._rules.crawl_delay("cirilla")
        if delay is not None:
            client.pause_s = max(client.pause_s, float(delay))

    def _read(self, client: Client, address: str) -> str | None:
        try:
            return client.get_text(address)
        except ServiceError as error:
            if self._reason is None:
                raise ServiceError(
                    f"{error}; as long as nobody knows what robots.txt forbids, nothing may be fetched",
                    hint="try again later, or use the wiki's XML dump (--dump FILE)",
                ) from None
            self._progress.say(f"{error}; going on by: {self._reason}")
            return None

    def allowed(self, addresses: list[str]) -> list[str]:
        """Those of ``addresses`` that may be asked: by robots.txt, a stated permission, or the host's API rules.

        Raises:
            CirillaError: none of them.
        """
        open_ones = [address for address in addresses if self._rules.can_fetch("cirilla", address)]
        if open_ones or not addresses:
            return open_ones
        if self._reason is None:
            raise CirillaError(
                f"{self._host}: robots.txt forbids {urlsplit(addresses[0]).path}",
                hint="use the wiki's XML dump (--dump FILE), or state a permission: --permission 'who and where'",
            )
        self._progress.say(f"{self._host}: robots.txt keeps crawlers off the API; going on by: {self._reason}")
        return addresses
