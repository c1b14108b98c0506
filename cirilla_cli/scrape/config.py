"""Sections for scraping: where text comes from, under which licence, and what is too short to keep; torch-free."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, ValidationInfo, field_validator, model_validator

from cirilla_cli.config import ByKind, FilePath, Section, Texts
from cirilla_cli.units import Bytes, PositiveCount, Seconds


class LicenseConfig(Section):
    """Terms of the text, for sources that do not state them: dumps, folders, most data sets."""

    name: str
    """Name of the licence, such as CC BY-SA 3.0."""
    url: str | None = None
    """Address of its text."""


def _checked(address: str, expected: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isprintable() or " " in address:
        raise ValueError(f"must be {expected}")
    if parts.username is not None:
        raise ValueError("must not hold a name or a password: addresses are written down beside the rows")
    return address


class MediaWikiConfig(Section):
    """A live wiki through its api.php: the titles named, a category, or every article when neither is given."""

    kind: Literal["mediawiki"] = "mediawiki"
    api: str
    """Address of api.php, or of the wiki (then /api.php and /w/api.php are tried)."""
    titles: Texts = ()
    """Pages to fetch, by title."""
    titles_file: FilePath | None = None
    """More titles: a file with one a line or a JSON list of strings, or a folder of such files."""
    follow: NonNegativeInt = 0
    """Levels of links to follow from the titles, breadth first; needs `max_pages`."""
    max_pages: PositiveCount | None = None
    """Most pages to take while links are followed, those named included."""
    category: str | None = None
    """Fetch the pages of this category."""
    depth: NonNegativeInt = 0
    """Levels of subcategories to follow below `category`."""
    namespaces: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (0,)
    """Numbers of the namespaces whose pages are articles; pages of others are rejected."""
    reading: Literal["html", "wikitext"] = "html"
    """html: one rendered page a request; wikitext: 50 pages a request, templates read from the wiki."""
    pause: Seconds = 1.0
    """Least time between the starts of two requests; a longer Crawl-delay in robots.txt wins."""
    permission: str | None = None
    """Who permitted automated access and where; needed for hosts whose terms or robots.txt forbid it."""

    @field_validator("api")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return _checked(value, "an http or https address, such as https://wiki.example.org/w/api.php")

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if self.category is not None and (self.titles or self.titles_file):
            raise ValueError("takes `category` or `titles`, not both")
        if self.depth and self.category is None:
            raise ValueError("`depth` needs `category`")
        if self.follow and not (self.titles or self.titles_file):
            raise ValueError("`follow` needs `titles` or `titles_file` to begin at")
        if bool(self.follow) != (self.max_pages is not None):
            raise ValueError("`follow` and `max_pages` need one another: links lead through a whole wiki")
        return self


class DumpConfig(Section):
    """A MediaWiki XML export: plain, .gz, .bz2 or, with the extra `dump`, .7z; a file, or an address to download."""

    kind: Literal["dump"] = "dump"
    path: FilePath | str
    """The export, a file or an http or https address; a wiki on Fandom links its own under Special:Statistics."""
    namespaces: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (0,)
    """Numbers of the namespaces whose pages are articles; pages of others are rejected."""

    @field_validator("path", mode="before")
    @classmethod
    def _file_or_address(cls, value: Any) -> Any:
        if not isinstance(value, str) or "://" not in value:
            return Path(value) if isinstance(value, str) else value
        return _checked(value, "a file, or an http or https address such as https://example.org/wiki.xml.bz2")

    @property
    def address(self) -> str | None:
        """Where the export is downloaded from; None for a file."""
        return self.path if isinstance(self.path, str) else None


class FilesConfig(Section):
    """Files: .txt and .md with their names as titles, saved .html pages, each line of a .jsonl with a `text`."""

    kind: Literal["files"] = "files"
    path: FilePath
    """A folder, read with its subfolders, or one file."""


class HubConfig(Section):
    """A public base corpus from the Hugging Face Hub, or a local folder in one of its formats, streamed."""

    kind: Literal["hub"] = "hub"
    path: str
    """OWNER/NAME on the Hub, or a local folder of .jsonl, .parquet, .csv or .txt files."""
    name: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit, tag or branch on the Hub; null is the newest, and each row says which commit that was."""
    text_key: str = "text"
    """Column that holds the text."""
    title_key: str | None = None
    """Column that holds a title, where there is one."""
    max_bytes: Bytes | None = None
    """Stop once the texts taken hold this many UTF-8 bytes."""


class ScrapedConfig(Section):
    """An earlier scrape: its rows are made again from what it kept, by the rules given here; nobody is asked."""

    kind: Literal["scraped"] = "scraped"
    path: FilePath
    """The folder it wrote, or its FILE.jsonl."""


SourceSection = Annotated[MediaWikiConfig | DumpConfig | FilesConfig | HubConfig | ScrapedConfig, ByKind()]


class ScrapeConfig(Section):
    """What `cirilla scrape` does: documents from one source."""

    source: SourceSection
    """Where the text comes from."""
    contact: str | None = None
    """A mail or web address where a wiki's operators reach you; sent with each request to a host that is not local."""
    limit: PositiveCount | None = None
    """Most documents to take; all when null."""
    license: LicenseConfig | None = None
    """Terms of the text, where the source does not state them; for a live wiki its own statement wins."""
    min_chars: NonNegativeInt = 40
    """Pages whose plain text is shorter are rejected."""

    @field_validator("contact")
    @classmethod
    def _is_said_to_somebody(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not (value.strip() and value.isascii() and value.isprintable()):
            raise ValueError("must be a mail or web address in plain ASCII on one line")
        source = info.data.get("source")
        asks = isinstance(source, MediaWikiConfig) or (isinstance(source, DumpConfig) and source.address is not None)
        if value is not None and source is not None and not asks:
            raise ValueError("is said to a wiki or to the host of a dump, and none is asked here: leave it out")
        return value
