"""A server on this machine that speaks the Hub's commit protocol, and a listener."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "s3cr3t" * 5


class Heard:
    """A progress listener that keeps every line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None: ...


class Hub(ThreadingHTTPServer):
    """One repository; ``fail`` maps a part of a path to the status it is answered with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.tokens: set[str | None] = set()
        self.created: dict[str, Any] = {}
        self.messages: list[str] = []
        self.lfs: tuple[str, ...] = ()
        self.fail: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The calls that create a repository and commit files to it."""

    server: Hub

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def begin(self) -> bool:
        """Note the call; False if it was answered with a failure."""
        self.server.calls.append(f"{self.command} {self.path}")
        for part, status in self.server.fail.items():
            if part in self.path:
                self.body()
                self.answer({"error": f"no, and your token was {TOKEN}"}, status)
                return False
        return True

    def do_POST(self) -> None:
        if not self.begin():
            return
        self.server.tokens.add(self.headers.get("Authorization"))
        body, path = self.body(), self.path
        if path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": f"{self.server.url}/me/witcher", "name": "me/witcher"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            modes = {f["path"]: "lfs" if f["path"] in self.server.lfs else "regular" for f in json.loads(body)["files"]}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"objects": [self.upload(o) for o in json.loads(body)["objects"]]})
        elif path.endswith("/commit/main"):
            self.commit(body)
        else:
            self.answer({"error": "unknown"}, 404)

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/put/{wanted['oid']}"}}}

    def commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[value["path"]]
            else:
                assert line["key"] == "lfsFile"
                self.server.files[value["path"]] = self.server.blobs[value["oid"]]
        oid = "a" * 40
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/me/witcher/commit/{oid}"})

    def do_PUT(self) -> None:
        if not self.begin():
            return
        body = self.body()
        oid = self.path.removeprefix("/put/")
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.answer({})

    def do_GET(self) -> None:
        if not self.begin():
            return
        name = self.path.rpartition("/resolve/")[2].partition("/")[2]
        if name in self.server.files:
            self.file(name)
        elif "/api/models/me/witcher" in self.path:
            entries = [
                {"type": "file", "path": n, "size": len(b), "oid": "b" * 40} for n, b in self.server.files.items()
            ]
            siblings = [{"rfilename": n} for n in self.server.files]
            self.answer(
                entries if "/tree/" in self.path else {"id": "me/witcher", "sha": "a" * 40, "siblings": siblings}
            )
        else:
            self.answer({"error": "unknown"}, 404)

    do_HEAD = do_GET

    def file(self, name: str) -> None:
        data = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
