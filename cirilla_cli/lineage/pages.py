"""The pages behind rows and shards: those that the rows name. What was left out on the way is none of them.

shards, rows --a page itself--> page
             --made of pages--> its `parents`, looked up in what the rows were made from, and so on
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cirilla_cli.data.jsonl import read_records
from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.data.rows import Document
from cirilla_cli.data.shards import ShardIndex, ShardInfo
from cirilla_cli.fs import hash_file, locate
from cirilla_cli.lineage.data import inputs_of, rows_file, rows_of

Key = tuple[str | None, str, int | None]


def key_of(page: RowOrigin) -> Key:
    """What a page is told from others by: site, id and revision."""
    return page.site, page.id, page.revision


def pages_of_shards(folder: Path, index: ShardIndex) -> Iterator[RowOrigin]:
    """The pages that were tokenized, by the lists of rows beside the shards.

    Where a list is missing or is not as it was written, all pages of what the shards were made from.
    """
    sources = [locate(Path(str(entry.get("path"))), folder) for entry in index.sources]
    infos = [info for split in index.splits.values() for info in split]
    if infos and all(_is_whole(folder, info) for info in infos):
        listed = (row for info in infos for row in read_records(folder / info.rows, RowOrigin))
        yield from _named(listed, sources, frozenset())
    else:
        yield from (page for source in sources for page in _behind(source, frozenset()))


def pages_of_rows(rows: Path, below: frozenset[Path] = frozenset()) -> Iterator[RowOrigin]:
    """The pages that stand in a file of rows, and those its rows were made of; ``below`` is made from them."""
    here = rows.resolve()
    if here not in below:
        sources = [locate(Path(str(entry["path"])), rows) for entry in inputs_of(rows)]
        yield from _named(_origins(rows), sources, below | {here})


def named(rows: Path, sources: Iterable[Path]) -> tuple[list[RowOrigin], set[str]]:
    """The pages behind a file of rows taken from ``sources``, and the ids of all that its rows are made of."""
    parents = set[str]()

    def noted() -> Iterator[RowOrigin]:
        for row in _origins(rows):
            parents.update(row.parents)
            yield row

    return list(_named(noted(), sources, frozenset())), parents


def pages_in(rows: Path) -> Iterator[RowOrigin]:
    """The pages in a file of rows; none for samples and for texts that were made of pages."""
    return filter(_is_page, _origins(rows))


def _is_page(row: RowOrigin) -> bool:
    return row.title is not None and row.strategy is None


def _is_whole(folder: Path, info: ShardInfo) -> bool:
    path = folder / info.rows
    return info.rows_sha256 is not None and path.is_file() and hash_file(path) == info.rows_sha256


def _named(rows: Iterable[RowOrigin], sources: Iterable[Path], below: frozenset[Path]) -> Iterator[RowOrigin]:
    """The pages among rows, then their parents among the pages of ``sources``.

    A row that says neither what it is nor who made it may rest on any page of those.
    """
    parents, silent = set[str](), False
    for row in rows:
        if _is_page(row):
            yield row
        parents.update(row.parents)
        silent |= row.title is None and row.strategy is None
    if parents or silent:
        found = (page for source in sources for page in _behind(source, below))
        yield from (page for page in found if silent or page.id in parents)


def _behind(source: Path, below: frozenset[Path]) -> Iterator[RowOrigin]:
    rows = rows_file(source)
    return iter(()) if rows is None else pages_of_rows(rows, below)


def _origins(rows: Path) -> Iterator[RowOrigin]:
    """Each row of a file without its text; of what is no document only what it was made of."""
    for row in rows_of(rows):
        try:
            if row.keys() >= {"id", "title", "text"}:
                yield RowOrigin.of(Document.model_validate(row))
                continue
        except ValueError:
            pass  # not a row of ours; who reads it as data complains
        listed, made = row.get("parents"), row.get("generator")
        parents = tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
        yield RowOrigin(id=str(row.get("id")), parents=parents, strategy=str(made) if made else None)
