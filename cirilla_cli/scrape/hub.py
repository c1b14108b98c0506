"""A data set from the Hugging Face Hub, or a local one, as a stream of documents.

name --commit--> files of the split --one after another--> rows --text--> documents
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.scrape.config import HubConfig
from cirilla_cli.scrape.page import Reject, Site
from cirilla_cli.scrape.results import ROW, Result


@dataclass(frozen=True, slots=True)
class Taken:
    """How far an earlier run came: the last rows it kept and rejected, and the UTF-8 bytes of the documents it kept."""

    ids: tuple[str, ...] = ()
    bytes: int = 0


class HubSource:
    """Documents of a data set; the id of each names its file and its row there, so that a stream can go on.

    Args:
        commit: the commit of the Hub that is read; None: that of ``config.revision``.
        taken: what an earlier run over the same commit has dealt with.
        spread: which of the files are read here.

    Raises:
        CirillaError: no such data set, configuration, split or column. ServiceError: the Hub does not answer.
    """

    requests = 0

    def __init__(
        self, config: HubConfig, min_chars: int, license: License | None, commit: str | None = None,
        taken: Taken | None = None, spread: Spread = ALONE,
    ) -> None:  # fmt: skip
        self.config, self.min_chars, self._spread = config, min_chars, spread
        self.commit, stated = _NOTHING if is_local(config) else _about(config.path, commit or config.revision)
        self._rows, self._files = _open(config, self.commit)
        taken = taken or Taken()
        self._bytes = taken.bytes
        self._file, self._row = max(map(self._place, taken.ids), default=(0, 0))
        name = config.path if self.commit is None else f"{config.path}@{self.commit}"
        self.site = Site(name, None, license or stated)

    def rows(self) -> Iterator[Document | Reject]:
        """Every row as a document or a rejection, until ``max_bytes`` of text are taken."""
        most = self.config.max_bytes
        if most is not None and self._bytes >= most:
            return
        left = range(self._file, len(self._files))
        for result in self._spread.several(left, lambda index: self._prefix(self._files[index]), self._read, ROW):
            yield result
            if isinstance(result, Document):
                self._bytes += len(result.text.encode("utf-8", "surrogatepass"))
                if most is not None and self._bytes >= most:
                    return

    def _place(self, id: str) -> tuple[int, int]:
        """(number of the file, number in it) of the row behind the one named."""
        file, _, row = id.rpartition("#")
        return [self._prefix(name) for name in self._files].index(file), int(row) + 1

    def _prefix(self, file: str) -> str:
        return f"{self.config.path}/{file}"

    def _read(self, index: int, done: int) -> Iterator[Result]:
        """What is left of a file, of which ``done`` rows are known; None is its end."""
        shard = self._rows.shard(len(self._files), index)
        first = done or (self._row if index == self._file else 0)
        with _hub_answers(self.config.path):
            for row, data in enumerate(shard.skip(first) if first else shard, first):
                yield self._document(f"{self._prefix(self._files[index])}#{row}", data)
        yield None

    def _document(self, name: str, row: dict[str, Any]) -> Document | Reject:
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
            license=self.site.license, site=self.site.name,
        )  # fmt: skip


Known = tuple[str | None, License | None]
"""The commit of a data set, and the licence that its card states."""

_NOTHING: Known = (None, None)


def is_local(config: HubConfig) -> bool:
    """Whether the data set lies here, and nobody is asked for it."""
    return Path(config.path).exists()


def pinned(config: HubConfig) -> str:
    """The commit of the Hub that ``config.revision`` is, for processes that start at different times.

    Raises:
        CirillaError: it is none, so each might read another; says the newest. ServiceError: the Hub does not answer.
    """
    if config.revision is not None and re.fullmatch("[0-9a-f]{40}", config.revision):
        return config.revision
    newest, _ = _about(config.path, config.revision)
    raise CirillaError(
        f"`scrape.source.revision` is {config.revision or 'null'}: must be a commit where several processes read it, "
        "which may start at different times",
        hint=f"in all parts and the merge: scrape.source.revision={newest}",
    )


def _about(name: str, revision: str | None) -> Known:
    from huggingface_hub import HfApi

    try:
        with _hub_answers(name):
            about = HfApi().dataset_info(name, revision=revision)
    except ValueError:
        hint = "source.path is OWNER/NAME, or a folder that exists"
        raise CirillaError(f"{name}: no such folder, and no name that the Hub could have", hint=hint) from None
    if about.sha is None:  # a mirror that answers with less than the Hub does
        raise ServiceError(f"{name}: the answer names no commit, so the text could not be found again")
    card: dict[str, Any] = about.card_data.to_dict() if about.card_data else {}  # type: ignore[no-untyped-call]
    return about.sha, _licence(card)


def _licence(card: dict[str, Any]) -> License | None:
    """The licence of a card: `license` is an identifier or several; behind `other` stand a name and an address."""
    stated = card.get("license")
    names = [stated] if isinstance(stated, str) else [name for name in stated or () if isinstance(name, str)]
    if not names:
        return None
    named = card.get("license_name") if names == ["other"] else None
    link = card.get("license_link")
    return License(name=str(named or ", ".join(names)), url=link if isinstance(link, str) else None)


def _open(config: HubConfig, commit: str | None) -> tuple[Any, Sequence[str]]:
    """(the stream, the names of the files it reads one after another)."""
    import datasets

    try:
        with _hub_answers(config.path):
            builder = datasets.load_dataset_builder(config.path, config.name, revision=commit)
            stream = builder.as_streaming_dataset(split=config.split)
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError) as error:
        raise CirillaError(f"{config.path}: {_first_line(error)}", hint="check source.path, name and split") from None
    paths = (builder.config.data_files or {}).get(config.split, ())
    if len(paths) != stream.num_shards:  # an archive of several files, say
        return stream, [f"{index:05d}" for index in range(stream.num_shards)]
    return stream, [_below(config.path, str(path)) for path in paths]


def _below(root: str, path: str) -> str:
    """A file's path within its data set."""
    if path.startswith("hf://"):
        return path.partition("@")[2].partition("/")[2]
    file = PurePosixPath(path)
    base = Path(root).resolve()
    return str(file.relative_to(base)) if base.is_dir() and file.is_relative_to(base) else file.name


@contextlib.contextmanager
def _hub_answers(name: str) -> Iterator[None]:
    """Whatever keeps the Hub from answering is the Hub's failure, not ours."""
    from cirilla_cli.hub.download import HUB_FAILURES, hub_error

    try:
        yield
    except HUB_FAILURES as error:
        raise hub_error(name, error) from None
    except FileNotFoundError:
        raise
    except (OSError, TimeoutError) as error:
        said = f"{name}: the Hub does not answer: {_first_line(error)}"
        raise ServiceError(said, hint="run the same command again") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
