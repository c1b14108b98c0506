"""A stage of the data on many machines: which items a part does, what it leaves, and how the parts become the whole.

items --by hash--> OUT/parts/3-of-8/{results.jsonl, ..., part.json}   n processes, in any order, each on its own
OUT/parts/* --the stage once more, every result looked up--> OUT       one process, by `data/merging.py`

A part is done when its `part.json` stands; until then a further start of the same goes on behind the last whole line.
"""

import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import tee
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from cirilla_cli import __version__
from cirilla_cli.config import Section
from cirilla_cli.data.jsonl import STDIO, Complaints, JsonlWriter, read_rows, repair_tail
from cirilla_cli.errors import CirillaError, InterruptedRun, UsageError
from cirilla_cli.fs import as_object, hash_file, hash_json, hash_path, read_json, write_json
from cirilla_cli.held import FILE, held
from cirilla_cli.progress import Progress

PARTS = "parts"
"""Folder of the parts, in the folder of what a stage leaves."""
RESULTS = "results.jsonl"
"""What a part was made from, then a line for each result."""
MARK = "part.json"
"""Written last: that a part is done, and what it holds."""

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Share:
    """One of ``of`` shares of all items, ``number`` counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share that `--shard 3/8` means.

        Raises:
            UsageError: it is none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"`--shard` is {text!r}: I/N is expected, I from 1 to N",
                hint="--shard 3/8; under Slurm, with --array=1-8: --shard $SLURM_ARRAY_TASK_ID/8",
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number}-of-{self.of}"

    def takes(self, key: str) -> bool:
        """Whether the item of that key is in this share: by its hash alone."""
        return owner(key, self.of) == self.number


def owner(key: str, of: int) -> int:
    """Which of ``of`` shares an item belongs to, from 1."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % of + 1


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """Everything that a part's results follow from."""

    verb: str
    recipe: str
    """Hash of the recipe's section and seed."""
    inputs: tuple[str, ...]
    """SHA-256 of each file and folder that is read, in order."""
    paths: tuple[str, ...] = field(compare=False)
    version: str = __version__

    @classmethod
    def of(cls, verb: str, recipe: Any, paths: Iterable[Path]) -> Self:
        """Of a section as plain data, and what it names.

        Raises:
            CirillaError: an input is missing, or is standard input, which only one process can read.
        """
        paths = list(paths)
        for path in paths:
            if path == STDIO:
                raise CirillaError("standard input cannot be shared out: one process alone can read it")
            if not path.exists():
                raise CirillaError(f"{path}: no such file or folder")
        return cls(verb, hash_json(recipe), tuple(map(hash_path, paths)), tuple(map(str, paths)))

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From JSON; strange values equal nothing."""
        inputs, paths = (_texts(data.get(name)) for name in ("inputs", "paths"))
        return cls(str(data.get("verb")), str(data.get("recipe")), inputs, paths, str(data.get("version")))

    def differs(self, other: Self) -> str | None:
        """In what ``other`` was made otherwise, None where it was not."""
        if other.verb != self.verb:
            return f"made by `cirilla {other.verb}`, not `cirilla {self.verb}`"
        if other.version != self.version:
            return f"made by version {other.version}, this is {self.version}"
        if len(other.inputs) == len(self.inputs):
            changed = [p for p, new, old in zip(self.paths, self.inputs, other.inputs, strict=True) if new != old]
            if changed:
                return f"made from other content of {', '.join(changed)}"
        elif self.inputs != other.inputs:
            return f"made from other inputs: {', '.join(other.paths)}"
        return None if other.recipe == self.recipe else "made by another recipe"


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def paths_of(section: Section) -> Iterator[Path]:
    """The files and folders that a section of a recipe, and those in it, name."""
    for _, value in section:
        if isinstance(value, Section):
            yield from paths_of(value)
        elif isinstance(value, Path):
            yield value


@dataclass(frozen=True, slots=True)
class Form(Generic[R]):
    """How a result stands in a line of JSON."""

    dump: Callable[[R], Any]
    load: Callable[[Any], R]


class Spread(Protocol):
    """Who does what of a stage's items."""

    def takes(self, key: str) -> bool:
        """Whether the item of that key is to be done here; ask once for each, in order."""

    def complete(self) -> None:
        """All items have come by.

        Raises:
            CirillaError: and they are not those that have been done.
        """

    def each(
        self, items: Iterable[I], key: Callable[[I], str], make: Callable[[Iterator[I]], Iterator[R]], form: Form[R]
    ) -> Iterator[tuple[I, R]]:
        """Items with their results, in order; ``make`` gives one for each item of a stream, which it may read ahead."""


class Alone:
    """Everything is done here."""

    def takes(self, key: str) -> bool:
        """Yes."""
        return True

    def complete(self) -> None:
        """Nothing to compare with."""

    def each(
        self, items: Iterable[I], key: Callable[[I], str], make: Callable[[Iterator[I]], Iterator[R]], form: Form[R]
    ) -> Iterator[tuple[I, R]]:
        """Every item and its result."""
        items, again = tee(items)
        return zip(items, make(again), strict=True)


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class PartReport:
    """What a part did."""

    out: str
    shard: str
    items: int
    """Of this part."""
    of: int
    """Of all parts."""
    already_done: bool
    seconds: float


class Part:
    """One share's results, which gather in ``folder``; those of an earlier start of the same are found again.

    What a stage keeps here by content (answers, token shards) stays also when recipe or inputs have changed.
    """

    def __init__(self, folder: Path, share: Share, made_from: MadeFrom) -> None:
        self.folder, self.share, self.made_from = folder, share, made_from
        self.total = self.own = 0
        (folder / MARK).unlink(missing_ok=True)
        path = folder / RESULTS
        repair_tail(path)
        self.found = _lines_behind(path, made_from)
        self._writer = JsonlWriter(path, append=self.found is not None)
        if self.found is None:
            self._writer.write({"made_from": asdict(made_from)})

    def takes(self, key: str) -> bool:
        """Whether it is this share's."""
        self.total += 1
        taken = self.share.takes(key)
        self.own += taken
        return taken

    def complete(self) -> None:
        """Nothing to compare with."""

    def each(
        self, items: Iterable[I], key: Callable[[I], str], make: Callable[[Iterator[I]], Iterator[R]], form: Form[R]
    ) -> Iterator[tuple[I, R]]:
        """This share's items and results, without those done before; each is on record before it comes."""
        waiting: deque[I] = deque()

        def own() -> Iterator[I]:
            for item in items:
                if self.takes(key(item)) and self.own > (self.found or 0):
                    waiting.append(item)
                    yield item

        for result in make(own()):
            item = waiting.popleft()
            self._writer.write({"key": key(item), "result": form.dump(result)})
            yield item, result

    def close(self) -> None:
        """Bring the results onto the disk."""
        self._writer.close()

    def finish(self) -> None:
        """Say that everything is there."""
        mark = {"shard": self.share.name, "items": self.own, "of": self.total, "made_from": asdict(self.made_from)}
        write_json(self.folder / MARK, {**mark, "sha256": content_of(self.folder)})


def _lines_behind(path: Path, made_from: MadeFrom) -> int | None:
    """Results on record of the same; None where there is no record of it, or a damaged one."""
    if not path.is_file():
        return None
    complaints = Complaints()
    rows = read_rows(path, complaints)
    first = next(rows, None)
    if first is None or MadeFrom.read(as_object(first.data.get("made_from"))) != made_from:
        return None
    found = sum(1 for _ in rows)
    return None if complaints.count else found


def content_of(folder: Path) -> str:
    """Hash of every file of a part but its mark, and what is hidden: locks, and files that were never whole."""
    shown = (path for path in folder.rglob("[!.]*") if path.is_file())
    files = sorted(path for path in shown if path != folder / MARK)
    return hash_json([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files])


def _empty(folder: Path) -> None:
    """Remove all in ``folder`` but what holds it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != FILE:
            path.unlink()


def make_part(
    side: Path | None, share: Share, made_from: MadeFrom, progress: Progress, work: Callable[[Part], None],
    *, fresh: bool = False,
) -> PartReport:  # fmt: skip
    """Do one share in ``side``/parts, by ``work``; nothing is done where it has been.

    Raises:
        CirillaError: there is no folder for parts, or the same share is at work in another process.
        InterruptedRun: the user stopped it; what was done is kept.
    """
    started, folder = time.monotonic(), parts_of(side) / share.name
    with held(folder):
        if fresh:
            _empty(folder)
        mark = _done(folder, made_from)
        if mark is not None:
            return PartReport(str(folder), share.name, int(mark["items"]), int(mark["of"]), True, 0.0)
        part = Part(folder, share, made_from)
        try:
            work(part)
        except KeyboardInterrupt:
            raise InterruptedRun("stopped; what was done is kept", hint="the same command goes on") from None
        finally:
            part.close()
        part.finish()
    seconds = round(time.monotonic() - started, 3)
    return PartReport(str(folder), share.name, part.own, part.total, False, seconds)


def parts_of(side: Path | None) -> Path:
    """The folder of the parts of what is left in ``side``.

    Raises:
        CirillaError: that is standard output.
    """
    if side is None:
        raise CirillaError("parts need a folder, and `out` is standard output", hint="--out FOLDER")
    return side / PARTS


def mark_of(folder: Path) -> Mapping[str, Any]:
    """What a part says of itself; nothing where it is not done, or damaged."""
    try:
        mark = as_object(read_json(folder / MARK))
    except (FileNotFoundError, ValueError):
        return {}
    kinds = {"shard": str, "items": int, "of": int}
    whole = all(isinstance(mark.get(name), kind) for name, kind in kinds.items())
    return mark if whole else {}


def _done(folder: Path, made_from: MadeFrom) -> Mapping[str, Any] | None:
    mark = mark_of(folder)
    same = bool(mark) and MadeFrom.read(as_object(mark.get("made_from"))) == made_from
    return mark if same and mark.get("sha256") == content_of(folder) else None
