"""A live wiki of which nobody is asked: the pages that an earlier scrape kept, read again."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from cirilla_cli.data.jsonl import read_records
from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError
from cirilla_cli.scrape.mediawiki import reading_of
from cirilla_cli.scrape.page import Reject, Rules, extract
from cirilla_cli.scrape.store import INDEX, PAGES, Line, read_page
from cirilla_cli.scrape.templates import Templates


class KeptWiki:
    """Documents of a live wiki from the pages in ``side``, in the order and with the aliases they had then.

    Raises:
        CirillaError: what is needed was not kept, by an older version, or is damaged.
    """

    requests = 0

    def __init__(self, side: Path, min_chars: int, license: License | None, stack: contextlib.ExitStack) -> None:
        index = side / "raw" / INDEX
        if not index.is_file():
            raise CirillaError(
                f"{side}: what the wiki said of itself and its redirects was not kept when it was scraped",
                hint="run that scrape once more: it fetches what has changed, and keeps these too",
            )
        self._raw = stack.enter_context((side / "raw" / PAGES).open("rb"))
        self._lines = read_records(index, Line)
        first = next(self._lines, None)
        if first is None or first.site is None:
            raise CirillaError(f"{index}:1: is damaged", hint="run that scrape once more, which writes it anew")
        self.site = first.site if first.site.license else replace(first.site, license=license)
        self._rules, self._templates = Rules(min_chars, first.namespaces), Templates()

    def rows(self) -> Iterator[Document | Reject]:
        """Every page as a document or a rejection, as the scrape met them."""
        reading = partial(reading_of, self._templates, self.site.namespaces)
        for line in self._lines:
            if line.reject is not None:
                yield line.reject
                continue
            page = read_page(self._raw, *line.place)
            if line.template:
                self._templates.add(page.title.partition(":")[2], page.content)
            else:
                yield extract(page, line.aliases, self.site, self._rules, reading)
