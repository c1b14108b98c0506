"""A real MediaWiki on loopback, seeded with pages whose truth is known, and a proxy that spoils its answers on order.

Needs php with sqlite and MediaWiki under /usr/share/mediawiki (Debian: `apt-get install mediawiki php-cli php-sqlite3
php-mbstring php-xml php-intl`). Nothing is installed from here.
"""

import contextlib
import email.utils
import gzip
import http.client
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SITE = Path(__file__).parent / "site"
MEDIAWIKI = Path("/usr/share/mediawiki")
_OPCACHE = [
    "-d", "opcache.enable=1", "-d", "opcache.enable_cli=1", "-d", "opcache.memory_consumption=256",
    "-d", "opcache.validate_timestamps=0", "-d", "opcache.max_accelerated_files=20000",
]  # fmt: skip


def installed(folder: Path, pages: Iterable[dict[str, Any]]) -> "RealWiki":
    """A wiki with these pages."""
    wiki = RealWiki(folder)
    wiki.install()
    wiki.seed(pages)
    return wiki


def missing() -> str | None:
    """Why no wiki can be run here, or None."""
    if shutil.which("php") is None:
        return "php is not installed"
    if not (MEDIAWIKI / "maintenance" / "install.php").is_file():
        return f"MediaWiki is not installed under {MEDIAWIKI}"
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=True).stdout.split()
    absent = [name for name in ("pdo_sqlite", "mbstring", "xml", "intl") if name not in modules]
    return f"php lacks {', '.join(absent)}" if absent else None


@dataclass(frozen=True)
class Stored:
    """A page as the wiki's own tables hold it."""

    id: int
    namespace: int
    title: str
    revision: int
    redirect: bool


@dataclass
class RealWiki:
    """An installation in ``folder`` and its server."""

    folder: Path
    port: int = 0
    _server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def install(self) -> None:
        """A fresh wiki on SQLite, with the settings of the test."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            "install.php", "--dbtype", "sqlite", "--dbpath", str(self.folder), "--dbname", "wiki", "--confpath",
            str(self.folder), "--pass", "a-long-password", "--scriptpath", "", "Test Wiki", "Admin",
        ]  # fmt: skip
        self._maintain(command)
        with (self.folder / "LocalSettings.php").open("a") as file:
            file.write(f'$wgCacheDirectory = "{self.folder}/cache";\nrequire "{SITE}/settings.php";\n')
        (self.folder / "cache").mkdir()

    def copy(self, folder: Path) -> "RealWiki":
        """The same wiki, as it stands now, in another folder; not served."""
        shutil.copytree(self.folder, folder)
        settings = folder / "LocalSettings.php"
        settings.write_text(settings.read_text().replace(str(self.folder), str(folder)))
        return RealWiki(folder)

    def _maintain(self, command: list[str], lines: str = "") -> None:
        script = MEDIAWIKI / "maintenance" / command[0]
        path = script if script.is_file() else SITE / command[0]
        done = subprocess.run(
            ["php", *_OPCACHE, str(path), *command[1:]], input=lines, capture_output=True, text=True, env=self._env()
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _env(self) -> dict[str, str]:
        settings = self.folder / "LocalSettings.php"
        return os.environ | ({"MW_CONFIG_FILE": str(settings)} if settings.exists() else {})

    def seed(self, pages: Iterable[dict[str, Any]]) -> None:
        """Save or delete pages: {"title", "text"} or {"title", "delete": True}."""
        self._maintain(["seed.php"], "".join(json.dumps(page) + "\n" for page in pages))

    def start(self) -> None:
        """Serve it on a free port of loopback."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["php", *_OPCACHE, "-S", f"127.0.0.1:{self.port}", "-t", str(MEDIAWIKI)]
        self._server = subprocess.Popen(command, env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError("php does not serve")

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def stored(self) -> dict[str, Stored]:
        """Every page by title (namespace numbers before the others' titles), from the wiki's tables."""
        with contextlib.closing(sqlite3.connect(self.folder / "wiki.sqlite")) as database:
            rows = database.execute(
                "SELECT page_id, page_namespace, page_title, page_latest, page_is_redirect FROM page"
            )
            found = [Stored(int(a), int(b), _text(c), int(d), bool(int(e))) for a, b, c, d, e in rows]
        return {(f"{page.namespace}:" if page.namespace else "") + page.title: page for page in found}


def _text(value: str | bytes) -> str:
    return (value.decode() if isinstance(value, bytes) else value).replace("_", " ")


FAULTS = (
    "429 seconds", "429 date", "503", "500", "reset", "truncated", "cut gzip", "html", "broken json", "maxlag",
    "ratelimited", "slow", "wrong length",
)  # fmt: skip


@dataclass
class Proxy:
    """Stands before a wiki: notes every question, and spoils the n-th question for content as ``faults`` says."""

    wiki: RealWiki
    faults: dict[int, str] = field(default_factory=dict)
    robots: str | None = None
    delay_s: float = 0.0
    slow_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    contents: int = 0
    """Questions for content so far."""
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    @property
    def api(self) -> str:
        return self.url + "/api.php"

    def clear(self) -> None:
        """Forget what was asked."""
        self.asked.clear()
        self.headers.clear()
        self.faults, self.contents, self.delay_s, self.most_at_once = {}, 0, 0.0, 0


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        parts, proxy = urlsplit(self.path), self.proxy
        if parts.path == "/robots.txt":
            robots = proxy.robots
            return self._send(200 if robots is not None else 404, (robots or "none").encode(), "text/plain")
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        proxy.asked.append(asked)
        proxy.headers.append(dict(self.headers))
        proxy.at_once += 1
        proxy.most_at_once = max(proxy.most_at_once, proxy.at_once)
        self._answer(asked)
        return None

    def _answer(self, asked: dict[str, str]) -> None:
        fault = None
        if asked.get("action") == "parse" or "content" in asked.get("rvprop", ""):
            time.sleep(self.proxy.delay_s)
            self.proxy.contents += 1
            fault = self.proxy.faults.get(self.proxy.contents)
        try:
            status, body, kind = self._forward()
        finally:
            # Before the answer: who has it may ask again before this thread goes on.
            self.proxy.at_once -= 1
        if fault is None:
            packed = "gzip" in self.headers.get("Accept-Encoding", "")
            self._send(
                status, gzip.compress(body, 1) if packed else body, kind, {"Content-Encoding": "gzip"} if packed else {}
            )
        else:
            self._spoil(fault, body)

    def _forward(self) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.wiki.port, timeout=120)
        headers = {"Host": self.headers["Host"], "User-Agent": self.headers.get("User-Agent", "")}
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, answer.getheader("Content-Type", "text/html")

    def _spoil(self, fault: str, body: bytes) -> None:
        json_type = "application/json"
        match fault:
            case "429 seconds":
                self._send(429, b"slow down", "text/plain", {"Retry-After": "7"})
            case "429 date":
                at = email.utils.formatdate(time.time() + 9, usegmt=True)
                self._send(429, b"slow down", "text/plain", {"Retry-After": at})
            case "503" | "500":
                self._send(int(fault), b"later", "text/plain")
            case "reset":
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
            case "truncated":
                self._send(200, body[: len(body) // 2], json_type, {"Content-Length": str(len(body))})
            case "cut gzip":
                packed = gzip.compress(body)
                self._send(200, packed[: len(packed) // 2], json_type, {"Content-Encoding": "gzip"})
            case "html":
                self._send(200, b"<!DOCTYPE html><title>Maintenance</title>", "text/html")
            case "broken json":
                self._send(200, body[: len(body) // 2] + b"}", json_type)
            case "maxlag" | "ratelimited":
                error = {"error": {"code": fault, "info": "Wait."}}
                self._send(200, json.dumps(error).encode(), json_type, {"Retry-After": "5"})
            case "slow":
                time.sleep(self.proxy.slow_s)
                self._send(200, body, json_type)
            case "wrong length":
                self._send(200, body, json_type, {"Content-Length": str(len(body) - 5)})
            case "challenge":
                text = b"<title>Just a moment...</title><script src='/cdn-cgi/challenge-platform/x'></script>"
                self._send(403, text, "text/html", {"cf-mitigated": "challenge"})

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            given = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
            for key, value in given.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def proxied(wiki: RealWiki) -> Iterator[Proxy]:
    """A running proxy before a running wiki."""
    proxy = Proxy(wiki)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def running(wiki: RealWiki) -> Iterator[Proxy]:
    """An installed wiki, served, and the proxy before it."""
    wiki.start()
    try:
        with proxied(wiki) as proxy:
            yield proxy
    finally:
        wiki.stop()
