"""What the tests of teachers share: `scripted`, and servers that end with their test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `scripted`, which the tests of this folder share

from scripted import Server  # noqa: E402


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
