"""A data set from the Hugging Face Hub, or a local one, as a stream of documents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.scrape.config import HubConfig
from cirilla_cli.scrape.page import Reject, Site


class HubSource:
    """Documents of a streamed data set; the id of each holds its place in the stream, so a stream can go on.

    Args:
        taken: rows of the stream that an earlier run has dealt with.
        taken_bytes: UTF-8 bytes of the documents it kept.

    Raises:
        CirillaError: no such data set, configuration, split or column. ServiceError: the Hub does not answer.
    """

    requests = 0

    def __init__(
        self, config: HubConfig, min_chars: int, license: License | None, taken: int = 0, taken_bytes: int = 0
    ) -> None:
        self.config, self.min_chars = config, min_chars
        self._taken, self._bytes = taken, taken_bytes
        self._rows = _open(config)
        stated = getattr(self._rows.info, "license", None)
        given = license or (License(name=stated) if stated else None)
        self.site = Site(config.path, None, given)

    def rows(self) -> Iterator[Document | Reject]:
        """Every row as a document or a rejection, until ``max_bytes`` of text are taken."""
        stream = self._rows.skip(self._taken) if self._taken else self._rows
        most = self.config.max_bytes
        if most is not None and self._bytes >= most:
            return
        for index, row in enumerate(_guarded(stream, self.config), self._taken):
            result = self._row(index, row)
            yield result
            if isinstance(result, Document):
                self._bytes += len(result.text.encode("utf-8", "surrogatepass"))
                if most is not None and self._bytes >= most:
                    return

    def _row(self, index: int, row: dict[str, Any]) -> Document | Reject:
        name = f"{self.config.path}#{index}"
        title = str(row.get(self.config.title_key) or "") if self.config.title_key else ""
        if self.config.text_key not in row:
            raise CirillaError(
                f"{self.config.path}: has no column `{self.config.text_key}`",
                hint=f"scrape.source.text_key=...; there are: {', '.join(map(str, row))}",
            )
        text = row[self.config.text_key]
        if not isinstance(text, str) or len(text.strip()) < max(self.min_chars, 1):
            return Reject(id=name, title=title, reason="short" if isinstance(text, str) else "no text")
        url = row.get("url")
        return Document(
            id=name, title=title, text=text.strip(), url=url if isinstance(url, str) else None,
            license=self.site.license, site=self.config.path,
        )  # fmt: skip


def _open(config: HubConfig) -> Any:
    import datasets

    local = Path(config.path).exists()
    try:
        return datasets.load_dataset(
            config.path, config.name, split=config.split, revision=None if local else config.revision, streaming=True
        )
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError) as error:
        raise CirillaError(f"{config.path}: {_first_line(error)}", hint="check source.path, name and split") from None
    except OSError as error:
        raise _unreachable(config, error) from None


def _guarded(stream: Any, config: HubConfig) -> Iterator[dict[str, Any]]:
    """The rows of a stream; a lost connection is the Hub's failure, not ours."""
    try:
        yield from stream
    except (OSError, TimeoutError) as error:
        raise _unreachable(config, error) from None


def _unreachable(config: HubConfig, error: Exception) -> ServiceError:
    return ServiceError(
        f"{config.path}: the Hub does not answer: {_first_line(error)}", hint="run the same command again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
