"""The pages behind the rows of a set, and their licences: what who publishes the set must pass on."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.lineage.pages import key_of, named

_MOST_SHOWN = 20
"""Pages that could not be found which are named; of the others, the number."""


@dataclass(frozen=True)
class Terms:
    """What is known of the pages that stand behind a set."""

    pages: Sequence[RowOrigin]
    """Each once."""
    unknown: Sequence[str]
    """Ids of pages that rows name as their parents and no source holds, in order."""

    @classmethod
    def of(cls, files: Iterable[Path], sources: Sequence[Path]) -> "Terms":
        """Of files of rows that were taken from ``sources``, which lead on to what they were made from."""
        pages, parents = dict[tuple[str | None, str, int | None], RowOrigin](), set[str]()
        for file in files:
            found, wanted = named(file, sources)
            pages.update({key_of(page): page for page in found})
            parents |= wanted
        return cls(list(pages.values()), sorted(parents - {page.id for page in pages.values()}))

    @property
    def licences(self) -> Counter[str]:
        """Pages by licence, with those of which it is not known."""
        names = Counter(page.license or "not stated" for page in self.pages)
        return names + Counter({"page not found": len(self.unknown)})

    def attribution(self) -> str:
        """ATTRIBUTION.md; empty where no page stands behind the rows."""
        if not self.pages and not self.unknown:
            return ""
        lines = [f"- {_plain(page.title or page.id)}: {_where(page)}" for page in self.pages]
        return "\n".join(
            ["# Attribution", "", f"{len(lines)} pages stand behind these rows.", "", *lines, *self._lost()]
        )

    def section(self) -> str:
        """The part of a card about them; empty where no page stands behind the rows."""
        if not self.pages and not self.unknown:
            return ""
        rows = [f"| {_plain(name)} | {count:,} |" for name, count in self.licences.most_common()]
        said = "The rows were made of these pages, and keep their terms. `ATTRIBUTION.md` lists them."
        head = ["", "## Licences of the pages behind the rows", "", said, "", "| licence | pages |"]
        return "\n".join([*head, "| --- | ---: |", *rows, *self._lost(), ""])

    def _lost(self) -> list[str]:
        """What is said of pages that were not found."""
        if not self.unknown:
            return [""]
        shown = ", ".join(_plain(one) for one in self.unknown[:_MOST_SHOWN])
        more = f" and {len(self.unknown) - _MOST_SHOWN:,} more" if len(self.unknown) > _MOST_SHOWN else ""
        said = "Pages that rows were made of and that were not found, so that their terms are not known"
        return ["", f"{said} ({len(self.unknown):,}): {shown}{more}.", ""]


def _where(page: RowOrigin) -> str:
    return f"{page.permalink or 'address not known'} ({_plain(page.license or 'licence not stated')})"


def _plain(text: str) -> str:
    """``text`` on one line, with what Markdown would read as markup escaped."""
    text = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))
