"""The one HTTP client: polite, patient, and clear about what it tried."""

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from urllib3.exceptions import HTTPError

from cirilla_cli.errors import ServiceError

_MAX_REDIRECTS = 10
R = TypeVar("R")

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

BrokenTransfer = HTTPError
"""What reading a body piece by piece fails with; the name hides that of urllib3, which is HTTPError."""


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half of a pair of surrogates."""


def _json(response: requests.Response) -> Any:
    """The JSON of an answer; half a pair of surrogates, which is no text, becomes the replacement character.

    Raises:
        JSONDecodeError: it is not JSON, or such that Python does not read it: nested deeply, numbers of 4,300 digits.
    """
    try:
        data = response.json()
    except (RecursionError, ValueError):
        raise requests.exceptions.JSONDecodeError("not JSON", "", 0) from None
    if _HALF.search(response.content) is None:
        return data
    text = json.dumps(data, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


class BotChallenge(ServiceError):
    """The host answers with a page that only a browser can pass: stop at once, never disguise."""


class NoAnswer(ServiceError):
    """No good answer within the tries."""

    def __init__(self, message: str, why: str, wait_s: float) -> None:
        super().__init__(message)
        self.why = why
        """What was wrong with the last try: `HTTP 503`, `no answer (ReadTimeout)`."""
        self.wait_s = wait_s
        """How long the server asked to wait before another; 0 where it did not say."""


class BadStatus(ServiceError):
    """The host answers, and refuses the request for good (HTTP 400 and up, but for those worth a retry)."""

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(f"{url}: HTTP {status}: {text[:200].strip()}")
        self.status = status


@dataclass
class Client:
    """GET and POST with JSON answers, a pause between requests, and a capped patience for failures.

    The retry loop surrounds request, reading, JSON decoding and the caller's own check, because truncated bodies and
    errors inside a 200 answer are not covered by urllib3's `Retry`.
    """

    user_agent: str
    pause_s: float = 0.0
    """Least time between the starts of two requests."""
    timeout_s: float = 30.0
    patience_s: float = 300.0
    """Longest total waiting for one request's retries."""
    max_tries: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep
    requests_made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": self.user_agent, **self.headers})
        self._session.max_redirects = _MAX_REDIRECTS
        self._last_start = float("-inf")

    def get_json(
        self, url: str, params: Mapping[str, Any] | None = None, check: Callable[[Any], float | None] | None = None
    ) -> Any:
        """The JSON answer to GET; ``check`` may return seconds to wait before asking again (an error inside a 200).

        Raises:
            BotChallenge: the host wants a browser.
            ServiceError: no good answer within ``max_tries`` and ``patience_s``.
        """
        return self._ask("GET", url, lambda: {"params": params}, check)

    def post_json(self, url: str, body: Any, check: Callable[[Any], float | None] | None = None) -> Any:
        """The JSON answer to POSTing ``body`` as JSON; otherwise like `get_json`."""
        return self._ask("POST", url, lambda: {"json": body}, check)

    def get_text(self, url: str) -> str | None:
        """The text at ``url``, or None where the host says that there is none for us (HTTP 400 to 499).

        Raises:
            BotChallenge: the host wants a browser.
            ServiceError: nobody knows: no answer, or a server that fails, within ``max_tries`` and ``patience_s``.
        """
        try:
            text: str = self._ask("GET", url, dict, read=lambda response: response.text)
        except BadStatus as error:
            if error.status >= 500:
                raise
            return None
        return text

    def stream(self, url: str, headers: Callable[[], Mapping[str, str]], read: Callable[[requests.Response], R]) -> R:
        """What ``read`` makes of the answer to GET, whose body it takes piece by piece from ``response.raw``.

        ``headers`` is asked before each try, as what has come by then changes what is still to be asked for. Where
        the body breaks off, ``read`` may return to keep what has come, or let the error pass to have it tried again.

        Raises:
            BadStatus: the host refuses. BotChallenge: it wants a browser.
            ServiceError: no good answer within ``max_tries`` and ``patience_s``.
        """
        answer: R = self._ask("GET", url, lambda: {"headers": headers(), "stream": True}, read=read)
        return answer

    def _ask(
        self,
        method: str,
        url: str,
        request: Callable[[], dict[str, Any]],
        check: Callable[[Any], float | None] | None = None,
        read: Callable[[requests.Response], Any] = _json,
    ) -> Any:
        waited, why, asked = 0.0, "", None
        for attempt in range(self.max_tries):
            asked, why, answer = self._once(method, url, request(), check, read)
            if asked is None:
                return answer
            wait = asked or min(2.0**attempt, 60.0)
            if waited + wait > self.patience_s or attempt == self.max_tries - 1:
                break
            self.sleep(wait)
            waited += wait
        said = f"{url}: {why}; gave up after {attempt + 1} tries and {waited:.0f} s of waiting"
        raise NoAnswer(said, why, asked or 0.0)

    def _once(
        self,
        method: str,
        url: str,
        request: dict[str, Any],
        check: Callable[[Any], float | None] | None,
        read: Callable[[requests.Response], Any],
    ) -> tuple[float | None, str, Any]:
        """(seconds to wait before the next try, or None when done; why; the answer). 0 seconds: back off."""
        try:
            with self._send(method, url, request) as response:
                _refuse_challenge(response, url)
                if response.status_code in RETRIED_STATUS:
                    return _retry_after(response), f"HTTP {response.status_code}", None
                if response.status_code >= 400:
                    raise BadStatus(url, response.status_code, response.text)
                answer = read(response)
        except (requests.ConnectionError, requests.Timeout) as error:
            return 0.0, f"no answer ({type(error).__name__})", None
        except requests.exceptions.JSONDecodeError:
            return 0.0, "the answer is not JSON", None
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError, BrokenTransfer):
            return 0.0, "the answer broke off", None
        except requests.RequestException as error:
            raise ServiceError(f"{url}: cannot be asked: {error}") from None
        wait = check(answer) if check else None
        if wait == 0.0:
            wait = _retry_after(response)
        return wait, "the server asked to wait", answer

    def _send(self, method: str, url: str, request: dict[str, Any]) -> requests.Response:
        rest = self._last_start + self.pause_s - time.monotonic()
        if rest > 0:
            self.sleep(rest)
        self._last_start = time.monotonic()
        self.requests_made += 1
        return self._session.request(method, url, timeout=self.timeout_s, **request)


def _refuse_challenge(response: requests.Response, url: str) -> None:
    challenged = response.headers.get("cf-mitigated") == "challenge"
    if not challenged and response.status_code in (403, 503):
        challenged = "/cdn-cgi/challenge-platform" in response.text or "Just a moment..." in response.text
    if challenged:
        raise BotChallenge(f"{url}: the host answers with a bot challenge", hint="use the site's XML dump: --dump FILE")


def _retry_after(response: requests.Response) -> float:
    """Seconds the server asks to wait (a number or an HTTP date), or 0 where it does not say."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        parts = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(parts) - time.time()) if parts else 0.0
