"""A dump at an address: it comes whole, checked and once, whatever the server and the way do to it."""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.http import Client
from cirilla_cli.lineage.trace import trace
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import DumpConfig, ScrapeConfig, ScrapedConfig
from cirilla_cli.scrape.download import fetch
from cirilla_cli.scrape.run import scrape

from .killing import wait_until

ROOT = Path(__file__).parents[2]
# Numbered, so that bytes put at a wrong place are another file.
PADDING = b"\n<!--" + b" ".join(b"%07d" % i for i in range(150_000)) + b"-->\n"
DUMP = (ROOT / "recipes" / "quickstart" / "wiki.xml").read_bytes().rstrip() + PADDING
OTHER = DUMP.replace(b"0000", b"0001")
MIDDLE = len(DUMP) // 2


@dataclass
class Host:
    """A server of one file, and how it behaves."""

    body: bytes = DUMP
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    status: int = 200
    announced: int | None = None
    """Content-Length, where it is not the truth."""
    ranges: bool = True
    if_range: bool = True
    leads_to: str | None = None
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each of the next bodies breaks off."""
    held: threading.Event | None = None
    """Where set, a body stops in the middle until the event comes."""
    asked: list[dict[str, str]] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    """Files of digests by name; there are no others."""
    asked_beside: list[str] = field(default_factory=list)
    url: str = ""

    def piece(self, headers: dict[str, str]) -> int | None:
        """Where the piece begins that is asked for and may be sent (RFC 9110, 13.1.5 and 14.2)."""
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        known = headers.get("If-Range", self.headers.get("ETag")) == self.headers.get("ETag") or not self.if_range
        return int(wanted[1]) if wanted and self.ranges and known else None


class _Handler(BaseHTTPRequestHandler):
    host: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        host, asked = self.host, dict(self.headers.items())
        self.close_connection = True
        name = self.path.rpartition("/")[2]
        if name.endswith((".md5", ".sha1", ".sha256", "sums.txt")):
            host.asked_beside.append(name)
            text = host.beside.get(name)
            return self._answer(404 if text is None else 200, (text or "none").encode(), {})
        host.asked.append(asked)
        start = host.piece(asked)
        if host.leads_to is not None and self.path != "/there":
            self._answer(302, b"", {"Location": host.leads_to})
        elif host.status != 200:
            self._answer(host.status, host.body, host.headers)
        elif asked.get("If-None-Match") == host.headers.get("ETag", ""):
            self._answer(304, b"", host.headers)
        elif start is None:
            self._answer(200, host.body, host.headers)
        elif start >= len(host.body):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(host.body)}"})
        else:
            span = f"bytes {start}-{len(host.body) - 1}/{len(host.body)}"
            self._answer(206, host.body[start:], {**host.headers, "Content-Range": span})
        return None

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = self.host.announced if self.host.announced is not None and status == 200 else len(body)
        if length >= 0 and status != 304:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.host.cuts and status in (200, 206):
            body = body[: self.host.cuts.pop(0)]
        if self.host.held is not None and body:
            self.wfile.write(body[:MIDDLE])
            self.wfile.flush()
            self.host.held.wait(30)
            body = body[MIDDLE:]
        self.wfile.write(body)


@contextlib.contextmanager
def _serving(served: Host) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"host": served}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who is killed hangs up
    served.url = f"http://127.0.0.1:{server.server_address[1]}/wiki.xml"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def host() -> Iterator[Host]:
    served = Host()
    with _serving(served):
        yield served


def _fetch(host: Host, folder: Path, heard: Any) -> bytes:
    return fetch(Client("test", sleep=lambda seconds: None), host.url, folder, heard).read_bytes()


def _ranges(host: Host) -> list[str | None]:
    return [asked.get("Range") for asked in host.asked]


def test_a_downloaded_dump_gives_the_rows_of_the_file_and_comes_once(host: Host, heard: Any, tmp_path: Path) -> None:
    (tmp_path / "wiki.xml").write_bytes(DUMP)
    scrape(ScrapeConfig(source=DumpConfig(path=tmp_path / "wiki.xml")), tmp_path / "file", Silent())
    config = ScrapeConfig(source=DumpConfig(path=host.url))
    # One for the dump, three for a digest beside it.
    assert scrape(config, tmp_path / "net", heard).requests == 4
    rows = (tmp_path / "file" / "documents.jsonl").read_bytes()
    assert (tmp_path / "net" / "documents.jsonl").read_bytes() == rows
    journal = json.loads((tmp_path / "net" / "journal.jsonl").read_text().splitlines()[-1])
    assert journal["sha256"] == hashlib.sha256(DUMP).hexdigest()
    note = json.loads((tmp_path / "net" / "raw" / "dump.json").read_text())
    assert {key: note[key] for key in ("address", "etag", "length", "sha256")} == {
        "address": host.url, "etag": '"one"', "length": len(DUMP), "sha256": journal["sha256"],
    }  # fmt: skip
    assert scrape(config, tmp_path / "net", heard).requests == 1
    assert "nothing is downloaded" in heard.said[-2] + heard.said[-1]
    assert [asked.get("If-None-Match") for asked in host.asked] == [None, '"one"']
    assert sorted(p.name for p in (tmp_path / "net" / "raw").iterdir()) == ["dump", "dump.json"]


def test_the_trace_of_a_downloaded_dump_compares_what_lies_there(host: Host, heard: Any, tmp_path: Path) -> None:
    scrape(ScrapeConfig(source=DumpConfig(path=host.url)), tmp_path, heard)
    found = trace(tmp_path / "documents.jsonl")
    source = found.root.parents[0]
    assert (source.path, source.state, found.problems) == (host.url, "same", [])
    (tmp_path / "raw" / "dump").write_bytes(OTHER)
    assert trace(tmp_path / "documents.jsonl").root.parents[0].state == "changed"


def test_a_downloaded_dump_is_read_again_without_a_word_to_its_host_and_traced_to_it(
    host: Host, heard: Any, tmp_path: Path
) -> None:
    scrape(ScrapeConfig(source=DumpConfig(path=host.url)), tmp_path / "net", heard)
    asked, rows = len(host.asked), (tmp_path / "net" / "documents.jsonl").read_bytes()
    again = ScrapeConfig(source=ScrapedConfig(path=tmp_path / "net"))
    for out in (tmp_path / "net", tmp_path / "new"):
        assert scrape(again, out, heard).requests == 0
        assert (out / "documents.jsonl").read_bytes() == rows
        found = trace(out / "documents.jsonl")
        source = found.root.parents[0]
        assert (source.path, source.state, found.problems) == (host.url, "same", [])
    assert len(host.asked) == asked
    (tmp_path / "net" / "raw" / "dump").write_bytes(OTHER)
    assert trace(tmp_path / "new" / "documents.jsonl").root.parents[0].state == "changed"
    with pytest.raises(CirillaError, match="raw/dump: .* has changed since"):
        scrape(again, tmp_path / "net", heard)
    assert (tmp_path / "net" / "documents.jsonl").read_bytes() == rows


def test_fresh_forgets_the_download_beside_a_file_of_rows(host: Host, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "cirilla_cli", "scrape", "--dump", host.url, "--out", "rows.jsonl"]
    for more in ([], ["--fresh"]):
        done = subprocess.run([*call, *more], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows.scrape" / "raw" / "dump").read_bytes() == DUMP
    assert [asked.get("If-None-Match") for asked in host.asked] == [None, None]


def test_rows_for_standard_output_leave_no_file(host: Host, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "cirilla_cli", "scrape", "--dump", host.url, "--out", "-"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["text"] for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_is_downloaded_anew_and_a_damaged_copy_too(host: Host, heard: Any, tmp_path: Path) -> None:
    _fetch(host, tmp_path, heard)
    host.body, host.headers = OTHER, {"ETag": '"two"'}
    assert _fetch(host, tmp_path, heard) == OTHER
    assert any("has changed since 2" in line for line in heard.said)
    (tmp_path / "dump").write_bytes(DUMP)
    assert _fetch(host, tmp_path, heard) == OTHER
    assert any("the copy that lies here was changed" in line for line in heard.said)


def test_what_breaks_off_goes_on_where_it_ended(host: Host, heard: Any, tmp_path: Path) -> None:
    host.cuts = [MIDDLE, 300_000]
    assert _fetch(host, tmp_path, heard) == DUMP
    first, second, third = _ranges(host)
    assert first is None
    assert second is not None
    assert 0 < int(second[6:-1]) <= MIDDLE
    assert third is not None
    assert int(third[6:-1]) > int(second[6:-1])
    assert [asked.get("If-Range") for asked in host.asked] == [None, '"one"', '"one"']


def test_a_redirect_is_followed_and_the_rest_is_asked_for_there(host: Host, heard: Any, tmp_path: Path) -> None:
    host.leads_to, host.cuts = "/there", [MIDDLE]
    assert _fetch(host, tmp_path, heard) == DUMP
    asked_there = _ranges(host)[1::2]
    assert len(asked_there) == 2
    assert asked_there[1] is not None


def test_a_redirect_from_https_to_http_is_not_followed_to_its_end(
    host: Host, heard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, capture_output=True, check=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    safe = Host(leads_to=host.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with _serving(safe) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        safe.url = safe.url.replace("http:", "https:")
        with pytest.raises(ServiceError, match="leads from https to http"):
            _fetch(safe, tmp_path / "out", heard)
    assert list((tmp_path / "out").iterdir()) == []


def test_killed_before_the_last_rename_the_next_run_asks_for_nothing(host: Host, heard: Any, tmp_path: Path) -> None:
    _fetch(host, tmp_path, heard)
    (tmp_path / "dump").rename(tmp_path / "dump.part")
    shutil.copyfile(tmp_path / "dump.json", tmp_path / "dump.part.json")
    assert _fetch(host, tmp_path, heard) == DUMP
    assert len(host.asked) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dump", "dump.json"]


def test_a_server_without_ranges_starts_over(host: Host, heard: Any, tmp_path: Path) -> None:
    host.ranges, host.cuts = False, [MIDDLE]
    assert _fetch(host, tmp_path, heard) == DUMP
    assert any("does not continue downloads; from the beginning" in line for line in heard.said)


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_between_two_pieces_is_never_mixed(
    host: Host, heard: Any, tmp_path: Path, if_range: bool
) -> None:
    host.cuts = [MIDDLE] + [0] * 20
    with pytest.raises(ServiceError, match="the answer broke off; gave up after 8 tries"):
        _fetch(host, tmp_path, heard)
    host.body, host.headers, host.if_range, host.cuts = OTHER, {"ETag": '"two"'}, if_range, []
    assert _fetch(host, tmp_path, heard) == OTHER
    assert any("from the beginning" in line for line in heard.said)


def test_a_copy_longer_than_the_file_starts_over(host: Host, heard: Any, tmp_path: Path) -> None:
    host.cuts = [MIDDLE] + [0] * 20
    with pytest.raises(ServiceError):
        _fetch(host, tmp_path, heard)
    host.cuts = []
    (tmp_path / "dump.part").write_bytes(DUMP + b"more")
    assert _fetch(host, tmp_path, heard) == DUMP


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 3)])
def test_stopped_in_the_middle_the_next_run_fetches_the_rest(
    host: Host, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    host.held = threading.Event()
    call = [sys.executable, "-m", "cirilla_cli", "scrape", "--dump", host.url, "--out", str(tmp_path / "out")]
    process = subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "out" / "raw" / "dump.part"
    wait_until(process, lambda: part.exists() and part.stat().st_size > 0)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    assert sent == signal.SIGKILL or "what was downloaded is kept" in said
    host.held.set()
    come = part.stat().st_size
    assert 0 < come <= MIDDLE
    scrape(ScrapeConfig(source=DumpConfig(path=host.url)), tmp_path / "out", Silent())
    assert _ranges(host) == [None, f"bytes={come}-"]
    assert (tmp_path / "out" / "raw" / "dump").read_bytes() == DUMP


def _md5(data: bytes) -> dict[str, str]:
    digest = hashlib.md5(data)
    return {
        "Content-MD5": base64.b64encode(digest.digest()).decode(),
        "x-amz-meta-md5": digest.hexdigest(),
        "ETag": f'"{digest.hexdigest()}"',
    }


@pytest.mark.parametrize("name", ["Content-MD5", "x-amz-meta-md5", "ETag"])
def test_the_digest_that_a_server_gives_is_checked_and_said(host: Host, heard: Any, tmp_path: Path, name: str) -> None:
    host.headers = {name: _md5(DUMP)[name], "x-amz-request-id": "1"}
    assert _fetch(host, tmp_path / "right", heard) == DUMP
    assert heard.said[-1].endswith(f"as announced, and their MD5 is that of {name}")
    host.headers = {name: _md5(OTHER)[name], "x-amz-request-id": "1"}
    with pytest.raises(ServiceError, match=f"and {name} gives .*: damaged"):
        _fetch(host, tmp_path / "wrong", heard)
    assert list((tmp_path / "wrong").iterdir()) == []


_LIST = "{0}  other.xml\n{1} *./{2}\n"
STATED = {
    "wiki.xml.sha256": ("wiki.xml", "sha256", "{1}\n"),
    "wiki.xml.sha1": ("wiki.xml", "sha1", _LIST),
    "wiki.xml.md5": ("wiki.xml", "md5", "MD5 ({2})= {1}\n"),
    "aawiki-20260101-sha1sums.txt": ("aawiki-20260101-pages.xml", "sha1", _LIST),
    "aawiki-20260101-md5sums.txt": ("aawiki-20260101-pages.xml", "md5", _LIST),
}


@pytest.mark.parametrize("beside", STATED)
def test_what_a_file_beside_the_dump_states_is_checked_and_said(
    host: Host, heard: Any, tmp_path: Path, beside: str
) -> None:
    name, kind, form = STATED[beside]
    host.url = host.url.replace("wiki.xml", name)
    right, wrong = (hashlib.new(kind, data).hexdigest() for data in (DUMP, OTHER))
    host.beside = {beside: form.format(wrong, right.upper(), name)}
    assert _fetch(host, tmp_path / "right", heard) == DUMP
    assert heard.said[-1].endswith(f"as announced, and their {kind.upper()} is that of {beside}")
    host.beside = {beside: form.format(right, wrong, name)}
    with pytest.raises(ServiceError, match=f"the {kind.upper()} of what came is {right}, and {beside} gives {wrong}"):
        _fetch(host, tmp_path / "wrong", heard)
    assert list((tmp_path / "wrong").iterdir()) == []
    # The same beside a file.
    (tmp_path / name).write_bytes(DUMP)
    config = ScrapeConfig(source=DumpConfig(path=tmp_path / name))
    (tmp_path / beside).write_text(form.format(right, wrong, name))
    with pytest.raises(CirillaError, match=f"is not the file whose {kind.upper()} {beside} states"):
        scrape(config, tmp_path / "out", heard)
    (tmp_path / beside).write_text(form.format(wrong, right, name))
    assert scrape(config, tmp_path / "out", heard).documents > 0


def test_what_is_stated_of_other_files_is_left_alone(host: Host, heard: Any, tmp_path: Path) -> None:
    wrong = hashlib.sha1(OTHER).hexdigest()
    host.beside = {"wiki.xml.sha1": f"<html>{wrong}</html>\n{wrong}  a.xml\n", "wiki.xml.md5": "not found\n\n"}
    assert _fetch(host, tmp_path, heard) == DUMP
    assert heard.said[-1].endswith("the server gives no digest to check them by")
    assert host.asked_beside == ["wiki.xml.sha256", "wiki.xml.sha1", "wiki.xml.md5"]


@pytest.mark.parametrize("more", [{}, {"x-amz-request-id": "1", "x-amz-server-side-encryption": "aws:kms"}])
def test_an_etag_that_need_not_be_a_digest_refuses_nothing(
    host: Host, heard: Any, tmp_path: Path, more: dict[str, str]
) -> None:
    host.headers = {"ETag": _md5(OTHER)["ETag"], **more}
    assert _fetch(host, tmp_path, heard) == DUMP
    assert heard.said[-1].endswith("as announced; the server gives no digest to check them by")


def test_without_length_digest_or_version_the_dump_comes_and_that_is_said(
    host: Host, heard: Any, tmp_path: Path
) -> None:
    host.headers, host.announced = {}, -1
    assert _fetch(host, tmp_path, heard) == DUMP
    assert "their number not announced; the server gives no digest" in heard.said[-1]
    assert _fetch(host, tmp_path, heard) == DUMP
    assert any("may have changed" in line for line in heard.said)


def test_a_body_shorter_than_announced_is_never_taken_for_whole(host: Host, heard: Any, tmp_path: Path) -> None:
    host.announced, host.ranges = len(DUMP) + 10, False
    with pytest.raises(ServiceError, match="the answer broke off; gave up after"):
        _fetch(host, tmp_path, heard)
    assert not (tmp_path / "dump").exists()


def test_a_dump_larger_than_the_room_is_refused_before_its_first_byte(host: Host, heard: Any, tmp_path: Path) -> None:
    host.announced = 10**18
    with pytest.raises(CirillaError, match=r"is 1,000,000,000,000,000,000 bytes, and .* has room for"):
        _fetch(host, tmp_path, heard)
    assert list(tmp_path.iterdir()) == []


PAGE = b"\n<!DOCTYPE html><html><title>Just a moment...</title></html>"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"status": 404, "body": b"<Error>NoSuchKey</Error>"}, r"no such file \(HTTP 404\)"),
        ({"status": 403, "body": b"no"}, r"does not give this file to programs \(HTTP 403\)"),
        ({"status": 403, "body": PAGE}, "bot challenge"),
        ({"status": 500, "body": b""}, "HTTP 500; gave up after 8 tries"),
        ({"body": PAGE, "headers": {"Content-Type": "text/html; charset=utf-8"}}, "is a web page"),
        ({"body": PAGE}, "is a web page"),
        ({"leads_to": "/wiki.xml"}, "Exceeded 10 redirects"),
        ({"leads_to": "file:///etc/passwd"}, "cannot be asked"),
    ],
)
def test_what_is_no_dump_ends_in_one_message(
    host: Host, heard: Any, tmp_path: Path, behaviour: dict[str, Any], said: str
) -> None:
    vars(host).update(behaviour)
    with pytest.raises(ServiceError, match=said) as caught:
        _fetch(host, tmp_path, heard)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dump").exists()


def test_a_missing_dump_is_a_failure_of_the_service(host: Host, tmp_path: Path) -> None:
    host.status, host.body = 404, b""
    call = [sys.executable, "-m", "cirilla_cli", "scrape", "--dump", host.url, "--out", str(tmp_path / "out")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "there is no such file (HTTP 404)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://example.org/wiki.xml", "must be a file, or an http or https address"),
        ("file:///etc/passwd", "must be a file, or an http or https address"),
        ("https:///wiki.xml", "must be a file, or an http or https address"),
        ("https://me:secret@example.org/wiki.xml", "must not hold a name or a password"),
    ],
)
def test_other_addresses_are_refused_before_anything_is_asked(address: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DumpConfig(path=address)


def test_a_host_whose_terms_forbid_programs_is_not_asked(tmp_path: Path, heard: Any) -> None:
    config = ScrapeConfig(source=DumpConfig(path="https://witcher.fandom.com/wiki.xml"))
    with pytest.raises(CirillaError, match="its terms forbid automated access"):
        scrape(config, tmp_path / "out", heard)
