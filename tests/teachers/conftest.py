"""What the tests of teachers share: `scripted`, and servers that end with their test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `scripted`, which the tests of this folder share

from scripted import Server  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything is on loopback, and a client of httpx that is told of no others reads all authorities, for 22 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts scripted servers."""
    servers: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        if not server.over.is_set():
            server.close()
