"""A dump at an address, brought to a folder: whole and checked, or not there; what broke off is continued."""

import base64
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests
from pydantic import BaseModel, ConfigDict, ValidationError

from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.fs import atomic_write, hash_file, sync_folder
from cirilla_cli.http import BadStatus, BotChallenge, BrokenTransfer, Client
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.checksums import Digest, digest_of, stated

_CHUNK = 1 << 18
_MOST_STATED = 1 << 20
"""Bytes of a list of digests that are read."""
_BY_HAND = "download the file in a browser, then --dump FILE"
_WHY = {
    401: ("the server wants a password (HTTP 401)", _BY_HAND),
    403: ("the server does not give this file to programs (HTTP 403)", _BY_HAND),
    404: ("there is no such file (HTTP 404)", "take the link anew from the page that names the dump"),
    410: ("the file is gone (HTTP 410)", "take the link anew from the page that names the dump"),
}


class Version(BaseModel):
    """What a server says of the file at an address, as far as it does; once the file is whole, what it then was."""

    model_config = ConfigDict(frozen=True)

    address: str
    etag: str | None = None
    modified: str | None = None
    """Last-Modified, as it was sent."""
    length: int | None = None
    """Bytes."""
    md5: str | None = None
    """In hexadecimal."""
    md5_from: str | None = None
    """The header that gave it."""
    md5_is_sure: bool = False
    """Whether it must be the MD5: outside S3 an ETag may be anything."""
    counted: bool = False
    """Whether ``length`` was counted here, as the server announced none."""
    sha256: str | None = None
    """Of the bytes that came; None until all have."""
    finished: str | None = None
    """When that was."""

    @classmethod
    def of(cls, address: str, headers: Mapping[str, str]) -> Self:
        """What the headers of a whole answer say."""
        length = headers.get("Content-Length", "")
        md5, source, sure = _digest(headers)
        return cls(
            address=address, etag=headers.get("ETag"), modified=headers.get("Last-Modified"),
            length=int(length) if length.isdecimal() else None, md5=md5, md5_from=source, md5_is_sure=sure,
        )  # fmt: skip

    @property
    def validator(self) -> str | None:
        """What tells this version from another byte by byte (RFC 9110, 13.1.5): a strong ETag, or else the date."""
        if self.etag is None:
            return self.modified
        return None if self.etag.startswith("W/") else self.etag

    def same(self, other: "Version") -> bool:
        """Whether the server calls both one version; never where it names none."""
        mine, others = self.etag or self.modified, other.etag or other.modified
        lengths = {self.length, other.length} - {None}
        return self.address == other.address and mine is not None and mine == others and len(lengths) < 2


def _digest(headers: Mapping[str, str]) -> tuple[str | None, str | None, bool]:
    """(MD5 of the file in hexadecimal, the header that gives it, whether it must be that), or nothing.

    The ETag is taken last: in S3 it is the MD5 of a file stored in one piece and not encrypted by a key of its own.
    """
    for name in ("Content-MD5", "x-amz-meta-md5"):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9a-fA-F]{32}", value):
            return value.lower(), name, True
        if re.fullmatch(r"[A-Za-z0-9+/]{22}==", value):
            return base64.b64decode(value).hex(), name, True
    etag = re.fullmatch(r'"([0-9a-fA-F]{32})"', headers.get("ETag", ""))
    if etag is None:
        return None, None, False
    encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    return etag[1].lower(), "ETag", "x-amz-request-id" in headers and not encrypted


@dataclass(frozen=True)
class Room:
    """Where a dump lies, and its unfinished copy; no name comes from the server."""

    folder: Path

    @property
    def whole(self) -> Path:
        """The file, once it is whole."""
        return self.folder / "dump"

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.folder / "dump.part"

    def write(self, file: Path, version: Version) -> None:
        """Note what ``file`` is a version of."""
        with atomic_write(file.with_name(f"{file.name}.json")) as out:
            out.write(version.model_dump_json(indent=2).encode() + b"\n")

    def read(self, file: Path) -> Version | None:
        """What ``file`` is a version of, if that is known."""
        try:
            return Version.model_validate_json(file.with_name(f"{file.name}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def size(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def forget_part(self) -> None:
        """Start over."""
        self.part.unlink(missing_ok=True)
        self.part.with_name(f"{self.part.name}.json").unlink(missing_ok=True)


def fetch(client: Client, address: str, folder: Path, progress: Progress) -> Path:
    """The file at ``address``, in ``folder``; downloaded only where what lies there is not that version.

    Raises:
        ServiceError: it cannot be had, is a web page, or is not what the server says it sent.
        CirillaError: there is no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = _Download(client, address, Room(folder), progress)
    try:
        return work.run()
    except BotChallenge as error:
        raise BotChallenge(str(error), hint=_BY_HAND) from None
    except BadStatus as error:
        message, hint = _WHY.get(error.status, (f"HTTP {error.status}", "try again later"))
        raise ServiceError(f"{address}: {message}", hint=hint) from None


class _Download:
    """One download; ``_most`` is the most bytes that lay there at any time, so that only progress renews patience."""

    def __init__(self, client: Client, address: str, room: Room, progress: Progress) -> None:
        self._client, self._address, self._room, self._progress = client, address, room, progress
        self._most = room.size()

    def run(self) -> Path:
        if not self._is_current():
            while not self._is_whole():
                self._ask()
            self._finish()
        return self._room.whole

    def _say(self, text: str) -> None:
        self._progress.say(f"{self._address}: {text}")

    def _is_current(self) -> bool:
        """Whether the file that lies there is whole, and the version the server has now."""
        kept = self._room.read(self._room.whole)
        if kept is None or kept.address != self._address or not self._room.whole.is_file():
            return False
        if kept.sha256 != hash_file(self._room.whole):
            self._say("the copy that lies here was changed; downloading it again")
            return False
        given = {"If-None-Match": kept.etag, "If-Modified-Since": None if kept.etag else kept.modified}
        headers = {"Accept-Encoding": "identity", **{name: value for name, value in given.items() if value}}
        if self._client.stream(self._address, lambda: headers, lambda answer: self._unchanged(answer, kept)):
            self._say(f"not changed since {kept.finished}; nothing is downloaded")
            return True
        named = kept.etag or kept.modified
        self._say(f"{'has changed' if named else 'may have changed'} since {kept.finished}; downloading it again")
        return False

    def _unchanged(self, answer: requests.Response, kept: Version) -> bool:
        return answer.status_code == 304 or kept.same(Version.of(self._address, answer.headers))

    def _unfinished(self) -> Version | None:
        """The version of what has come so far, where the server can be asked for the rest of just that."""
        begun = self._room.read(self._room.part)
        usable = begun is not None and begun.address == self._address and begun.validator and self._room.size() > 0
        return begun if usable else None

    def _is_whole(self) -> bool:
        begun = self._room.read(self._room.part)
        return begun is not None and begun.address == self._address and begun.length == self._room.size()

    def _ask(self) -> None:
        try:
            self._client.stream(self._address, self._headers, self._take)
        except BadStatus as error:
            # 416: what lies here is no beginning of the file.
            if error.status != 416 or self._room.size() == 0:
                raise
            self._room.forget_part()

    def _headers(self) -> dict[str, str]:
        begun = self._unfinished()
        whole = {"Accept-Encoding": "identity"}
        if begun is None or begun.validator is None:
            return whole
        return {**whole, "Range": f"bytes={self._room.size()}-", "If-Range": begun.validator}

    def _take(self, answer: requests.Response) -> None:
        """Add what an answer brings to what has come; returns where it is to be asked for more."""
        if answer.url.startswith("http:") and any(step.url.startswith("https:") for step in answer.history):
            raise ServiceError(f"{self._address}: leads from https to http", hint=_BY_HAND)
        if answer.status_code == 206:
            if not self._continues(answer.headers):
                self._room.forget_part()
                return
        else:
            self._begin(answer.headers)
        self._copy(answer)

    def _continues(self, headers: Mapping[str, str]) -> bool:
        """Whether a piece goes on where what has come ends, in the same version."""
        begun, piece = self._unfinished(), re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if begun is None:
            raise ServiceError(f"{self._address}: the server sends a piece where the whole is asked for", hint=_BY_HAND)
        total = int(piece[2]) if piece and piece[2] != "*" else begun.length
        fits = piece is not None and int(piece[1]) == self._room.size() and begun.length in (None, total)
        if not fits or headers.get("ETag", begun.etag) != begun.etag:
            self._say("the server goes on with another version; from the beginning")
            return False
        if total != begun.length:
            self._room.write(self._room.part, begun.model_copy(update={"length": total}))
        self._say(f"goes on after {self._room.size():,} bytes")
        return True

    def _begin(self, headers: Mapping[str, str]) -> None:
        """Start over with the version that comes now."""
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
            raise self._a_page()
        now, begun = Version.of(self._address, headers), self._room.read(self._room.part)
        if begun is not None and begun.address == self._address and self._room.size():
            self._say(f"{_why_over(begun, now)}; from the beginning")
        self._room.forget_part()
        free = shutil.disk_usage(self._room.folder).free
        if now.length is not None and now.length > free:
            raise CirillaError(
                f"{self._address}: is {now.length:,} bytes, and {self._room.folder} has room for {free:,}",
                hint="make room, or name another place with --out",
            )
        self._room.write(self._room.part, now)

    def _a_page(self) -> ServiceError:
        return ServiceError(
            f"{self._address}: is a web page, and a dump is expected",
            hint="give the address of the file itself: the link, not the page it stands on; or " + _BY_HAND,
        )

    def _copy(self, answer: requests.Response) -> None:
        begun = self._room.read(self._room.part)
        assert begun is not None, "written before the first byte"
        with self._room.part.open("ab") as file:
            try:
                # Not decoded: what comes is what the server measures and hashes, and packed dumps stay packed.
                for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                    if file.tell() == 0 and _is_page(chunk):
                        raise self._a_page()
                    file.write(chunk)
                    self._progress.step("downloaded bytes", file.tell(), begun.length)
                self._settle(begun, file.tell())
            except BrokenTransfer:
                # A try that brought more than any before it is no failure: the rest is asked for at once.
                if file.tell() <= self._most:
                    raise
            self._most = max(self._most, file.tell())

    def _settle(self, begun: Version, size: int) -> None:
        """Compare what came, now that the answer has ended, with what was announced."""
        if begun.length is None:
            self._room.write(self._room.part, begun.model_copy(update={"length": size, "counted": True}))
        elif size < begun.length:
            raise BrokenTransfer(f"{size} of {begun.length} bytes")
        elif size > begun.length:
            self._room.forget_part()
            raise ServiceError(
                f"{self._address}: more came than the {begun.length:,} bytes announced", hint="run the command again"
            )

    def _finish(self) -> None:
        """Check what has come, note it, and put it in its place."""
        version = self._room.read(self._room.part)
        assert version is not None, "a whole file has its note"
        sha256, md5 = hash_file(self._room.part), digest_of(self._room.part, "md5")
        must = Digest("md5", version.md5 or "", version.md5_from or "") if version.md5_is_sure else self._beside()
        came = md5 if must is None else digest_of(self._room.part, must.kind)
        if must is not None and must.value != came:
            self._room.forget_part()
            raise ServiceError(
                f"{self._address}: the {must.kind.upper()} of what came is {came}, and {must.said_by} gives "
                f"{must.value}: damaged",
                hint="run the command again: it downloads the file from the beginning",
            )
        self._say(_checked_by(version, md5, must))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        # The note first: killed in between, the next run finds the unfinished copy whole, and comes here again.
        self._room.write(self._room.whole, version.model_copy(update={"sha256": sha256, "finished": now}))
        os.replace(self._room.part, self._room.whole)
        self._room.forget_part()
        sync_folder(self._room.folder)

    def _beside(self) -> Digest | None:
        """The digest that a file beside this one states; few have one, so nobody waits for it for long."""

        def read(name: str) -> str | None:
            with contextlib.suppress(ServiceError):
                return self._client.stream(urljoin(self._address, quote(name)), dict, _stated_in)
            return None

        tries, self._client.max_tries = self._client.max_tries, 2
        try:
            return stated(unquote(urlsplit(self._address).path.rpartition("/")[2]), read)
        finally:
            self._client.max_tries = tries


def _stated_in(answer: requests.Response) -> str:
    return bytes(answer.raw.read(_MOST_STATED, decode_content=True)).decode("utf-8", "replace")


def _is_page(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html"))


def _why_over(begun: Version, now: Version) -> str:
    if begun.validator is None:
        return "the server names no version, so what had come cannot be continued"
    return "the server does not continue downloads" if now.same(begun) else "has changed since the download began"


def _checked_by(version: Version, md5: str, must: Digest | None) -> str:
    """What the bytes were checked by, in words."""
    size = f"{version.length:,} bytes came, {'their number not announced' if version.counted else 'as announced'}"
    if must is not None or version.md5 == md5:
        kind, source = (must.kind, must.said_by) if must is not None else ("md5", version.md5_from)
        return f"{size}, and their {kind.upper()} is that of {source}"
    return f"{size}; the server gives no digest to check them by"
