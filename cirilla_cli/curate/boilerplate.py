"""Lines that many pages of a source share, taken out: menus, notices, footers."""

import hashlib
from collections import Counter

from cirilla_cli.curate.base import Refused, Row
from cirilla_cli.curate.config import BoilerplateConfig
from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError


class Boilerplate:
    """Counts on how many pages of each source a line stands, then takes the common ones out.

    Memory grows with the number of distinct lines (16 bytes of hash and a count each), not with their length.
    """

    reads_twice = True

    def __init__(self, config: BoilerplateConfig) -> None:
        self.config = config
        self._pages: dict[str, Counter[bytes]] = {}
        self._read: Counter[str] = Counter()

    def look(self, row: Row, source: str) -> None:
        """Count the lines of a page.

        Raises:
            CirillaError: the source holds samples.
        """
        if not isinstance(row, Document):
            raise CirillaError(
                f"source `{source}` holds samples, and a filter of kind boilerplate is for documents",
                hint="take the filter out, or curate samples by a recipe of their own",
            )
        self._read[source] += 1
        self._pages.setdefault(source, Counter()).update({_key(line) for line in row.text.splitlines() if line.strip()})

    def apply(self, row: Row, source: str) -> Row | Refused:
        """The page without its boilerplate, or, where nothing else stands in it, why it does not stay."""
        assert isinstance(row, Document)  # `look` has refused all else
        text = self._without(row.text, source)
        if not text:
            return Refused("nothing but boilerplate", {"characters": len(row.text)})
        if text == row.text.strip():
            return row
        sections = tuple(s.model_copy(update={"text": self._without(s.text, source)}) for s in row.sections)
        changed = row.model_dump(exclude={"sha256"}) | {"text": text, "sections": [s.model_dump() for s in sections]}
        return Document.model_validate(changed)

    def _without(self, text: str, source: str) -> str:
        lines = text.splitlines()
        kept = [line for line in lines if not (line.strip() and self._is_common(line, source))]
        return "\n".join(kept).strip() if len(kept) < len(lines) else text.strip()

    def _is_common(self, line: str, source: str) -> bool:
        pages = self._pages[source][_key(line)]
        return pages >= self.config.min_pages and pages > self.config.share * self._read[source]


def _key(line: str) -> bytes:
    """A line's hash, free of the space around it."""
    return hashlib.blake2b(line.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
