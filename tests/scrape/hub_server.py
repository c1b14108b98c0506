"""A server on this machine that speaks the part of the Hub's protocol by which data sets are listed and read."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OLD, NEW = "1" * 40, "2" * 40
"""The two commits a data set here can have; `main` is the newer one that exists."""


class DataHub(ThreadingHTTPServer):
    """Data sets by name: of each commit its files, and what its card says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.nameless: set[str] = set()
        """Data sets whose commit is not told, as some mirrors do."""
        self.failing: set[str] = set()
        """Parts of addresses that are answered with 503."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[str]:
        """The files whose content was asked for, each once."""
        return list(dict.fromkeys(path for call, _, path in (a.partition(" ") for a in self.asked) if call == "GET"))


class _Handler(BaseHTTPRequestHandler):
    server: DataHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if any(part in path for part in self.server.failing):
            self._answer({"error": "busy"}, 503)
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            self._about(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            self._tree(found[1], found[2], found[3] or "")
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._answer({"error": f"unknown: {path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", unquote(self.path))
        if found is None:
            self._answer({"error": "unknown"}, 404)
            return
        files = self._files(found[1], found[2])
        sent = body.decode()
        wanted = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent).get("paths", [])
        self._answer([entry for path in wanted for entry in self._entries(files or {}, path)])

    def _entries(self, files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
        if path in files:
            data = files[path]
            return [{"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}]
        below = any(name.startswith(f"{path}/") for name in files)
        return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}] if below else []

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        commits = self.server.commits.get(name, {})
        return commits.get(revision if revision != "main" else max(commits, default=""))

    def _about(self, name: str, revision: str) -> None:
        commits, files = self.server.commits.get(name, {}), self._files(name, revision)
        if files is None:
            self._answer({"error": "Repository Not Found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        sha = revision if revision != "main" else max(commits)
        told = {} if name in self.server.nameless else {"sha": sha}
        about = {"id": name, **told, "private": False, "gated": False, "disabled": False, "tags": []}
        siblings = [{"rfilename": path} for path in sorted(files)]
        self._answer({**about, "siblings": siblings, "cardData": self.server.cards.get(name, {})})

    def _tree(self, name: str, revision: str, folder: str) -> None:
        files = self._files(name, revision)
        if files is None:
            self._answer({"error": "Repository Not Found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["False"])[0].lower() == "true"
        start = f"{folder}/" if folder else ""
        below = [path.removeprefix(start) for path in sorted(files) if path.startswith(start)]
        names = below if recursive else sorted({path.split("/")[0] for path in below})
        self._answer([entry for each in names for entry in self._entries(files, start + each)])

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self._files(name, revision)
        if files is None or path not in files:
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self.server.asked.append(f"{self.command} {path}")
        data, status, extra = files[path], 200, {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            extra["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(
            data, status, "application/octet-stream", {**extra, "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        )

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, "application/json", headers or {})

    def _send(self, body: bytes, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
