"""What tests of scraping share: a wiki on loopback, and a listener."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

import pytest

from .loopback_wiki import FakeWiki, Handler


@pytest.fixture
def wiki() -> Iterator[FakeWiki]:
    """A running wiki."""
    fake = FakeWiki()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"wiki": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Heard:
    """A progress listener that remembers."""

    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None: ...


@pytest.fixture
def heard() -> Heard:
    """What a scrape said."""
    return Heard()
