"""What a folder tells of the scrape that wrote it: by which recipe, from where, and what was kept of that."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import last_of_kind
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object, hash_path, locate
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, MediaWikiConfig, ScrapeConfig
from cirilla_cli.scrape.outputs import Place


@dataclass(frozen=True, slots=True)
class Earlier:
    """The last whole scrape in a folder."""

    side: Path
    """Where its journal lies."""
    config: ScrapeConfig
    """Its recipe, with the source that was asked."""
    sha256: str | None
    """Of the dump or the files that were read; None where none were."""

    def rules(self) -> dict[str, Any]:
        """The keys of its recipe that say what becomes of a page, and their values."""
        data = self.config.model_dump(mode="json")
        return {key: data[key] for key in ("limit", "license", "min_chars") if data[key] is not None}

    def source(self) -> MediaWikiConfig | DumpConfig | FilesConfig:
        """The source that was asked; a dump or files where they lie now.

        Raises:
            CirillaError: they are gone, or no longer what they were; a stream, of which only the rows are kept.
        """
        source = self.config.source
        match source:
            case MediaWikiConfig():
                return source
            case DumpConfig() | FilesConfig():
                downloaded = isinstance(source, DumpConfig) and source.address is not None
                path = self.side / "raw" / "dump" if downloaded else locate(Path(source.path), self.side)
                if path.exists() and hash_path(path) == self.sha256:
                    return source.model_copy(update={"path": path})
                state = "has changed since" if path.exists() else "is not there any more"
                hint = f"put it back, or scrape anew: cirilla scrape --{source.kind} {source.path}"
                raise CirillaError(f"{path}: {self.side} was scraped from it, and it {state}", hint=hint)
        hint = "stream it again; `site` in its rows names the commit, for scrape.source.revision"
        raise CirillaError(f"{self.side}: of a stream from the Hub only the rows are kept", hint=hint)


def earlier(path: Path) -> Earlier:
    """The last whole scrape in the folder ``path``, or of the FILE.jsonl.

    Raises:
        CirillaError: there is none, it is of another version, or its pages are kept elsewhere.
    """
    side = Place.of(path).side
    run = last_of_kind(side / "journal.jsonl", "run") if side is not None else {}
    if side is None or not run:
        raise CirillaError(
            f"{path}: here is no scrape that came to its end", hint="name the folder or FILE.jsonl that --out named"
        )
    if run.get("kept") is not None:
        kept = locate(Path(str(run["kept"])), side)
        raise CirillaError(f"{path}: was made again from what {kept} keeps", hint=f"cirilla scrape --again {kept}")
    try:
        # A contact beside a source that asks nobody is refused today, and made no difference then.
        config = ScrapeConfig.model_validate_json(json.dumps({**as_object(run.get("config")), "contact": None}))
    except ValueError:
        raise CirillaError(
            f"{side / 'journal.jsonl'}: was written by another version, whose recipe is not understood",
            hint="run that scrape once more; of a wiki only what has changed is fetched",
        ) from None
    return Earlier(side, config, run.get("sha256"))
