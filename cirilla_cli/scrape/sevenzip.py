"""The one file that knows py7zr."""

from pathlib import Path

from cirilla_cli.errors import CirillaError, missing_extra

try:
    import py7zr
    from py7zr.io import Py7zIO, WriterFactory
except ImportError as error:
    raise missing_extra("py7zr", "dump") from error


class _ToFile(Py7zIO):  # type: ignore[misc]
    """Writes a member to a file of our choosing: names inside an archive never become paths."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def read(self, size: int | None = None) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def flush(self) -> None:
        self._file.flush()

    def size(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class _Factory(WriterFactory):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        self._path = path
        self.made: list[_ToFile] = []

    def create(self, filename: str) -> Py7zIO:
        self.made.append(_ToFile(self._path))
        return self.made[-1]


def unpack_xml(archive: Path, plain: Path) -> None:
    """Unpack the first .xml member of ``archive`` to ``plain``.

    Raises:
        CirillaError: the archive is damaged, or holds no .xml.
    """
    try:
        with py7zr.SevenZipFile(archive) as file:
            names = [name for name in file.getnames() if name.endswith(".xml")]
            if not names:
                raise CirillaError(f"{archive}: holds no .xml file")
            factory = _Factory(plain)
            file.extract(targets=names[:1], factory=factory)
            for member in factory.made:
                member.close()
    except (py7zr.exceptions.ArchiveError, EOFError, OSError, ValueError) as error:
        raise CirillaError(f"{archive}: cannot be unpacked: {error}", hint="download it again") from None
