"""The parts of a stage become the whole: the stage runs once more, and looks up what the parts have done."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.data.parts import PARTS, RESULTS, Form, MadeFrom, Share, content_of, mark_of, owner, parts_of, turn
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object
from cirilla_cli.held import held
from cirilla_cli.progress import Progress

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

_NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)")
_AGAIN = "remove the parts, and make them again with --shard"


class Parts:
    """The results of all parts; takes every item, and has made each already."""

    def __init__(self, folder: Path, of: int, total: int) -> None:
        self.folder, self.of, self.total = folder, of, total
        self.count = 0
        self._rows = [self._read(number) for number in range(1, of + 1)]

    def _read(self, number: int) -> Iterator[Mapping[str, Any]]:
        rows = (row.data for row in read_rows(self.folder / Share(number, self.of).name / RESULTS, Complaints()))
        next(rows, None)  # what it was made from
        return rows

    def folders(self) -> list[Path]:
        """Of the parts, in order."""
        return [self.folder / Share(number, self.of).name for number in range(1, self.of + 1)]

    def done_in(self, key: str) -> Path:
        """Where the item of that key was done."""
        return self.folder / Share(owner(key, self.of), self.of).name

    def takes(self, key: str) -> bool:
        """Yes: its result is there."""
        self.count += 1
        return True

    def each(
        self, items: Iterable[I], key: Callable[[I], str], make: Callable[[Iterator[I]], Iterator[R]], form: Form[R]
    ) -> Iterator[tuple[I, R]]:
        """Every item and its recorded result.

        Raises:
            CirillaError: the parts do not hold exactly these items, in this order.
        """
        for item in items:
            name = key(item)
            row = next(self._rows[owner(name, self.of) - 1], {})
            if not self.takes(name) or row.get("key") != name:
                raise _lacking(self.done_in(name), name)
            yield item, form.load(row["result"])
        self.complete()

    def several(
        self, items: Iterable[I], key: Callable[[I], str], make: Callable[[I, int], Iterator[R | None]], form: Form[R]
    ) -> Iterator[R]:
        """Every recorded result of every item.

        Raises:
            CirillaError: the parts do not hold exactly these items, in this order.
        """
        for item in items:
            self.count += 1
            yield from self._whole(key(item), turn(self.count, self.of), form)
        self.complete()

    def _whole(self, name: str, number: int, form: Form[R]) -> Iterator[R]:
        """An item's results, until its end."""
        for row in self._rows[number - 1]:
            if row.get("key") != name:
                break
            if row["result"] is None:
                return
            yield form.load(row["result"])
        raise _lacking(self.folder / Share(number, self.of).name, name)

    def complete(self) -> None:
        """All items have come by.

        Raises:
            CirillaError: the parts hold others, or another number of them.
        """
        left = [folder for folder, rows in zip(self.folders(), self._rows, strict=True) if next(rows, None)]
        if left or self.count != self.total:
            where = ", ".join(map(str, left)) or str(self.folder)
            raise CirillaError(f"{where}: parts of {self.total} items, and there are {self.count}", hint=_AGAIN)


def _lacking(part: Path, name: str) -> CirillaError:
    return CirillaError(f"{part}: does not hold the item {name}", hint=_AGAIN)


@contextlib.contextmanager
def merging(side: Path | None, made_from: MadeFrom, progress: Progress) -> Iterator[Parts]:
    """All parts in ``side``, removed when the block ends well: what they held stands in their place by then.

    Raises:
        CirillaError: parts are missing, not finished, changed, at work, of another number, recipe or input; all named.
    """
    folder = parts_of(side)
    with contextlib.ExitStack() as stack:
        of = _agreed(folder)
        complaints, totals = _complaints(folder, of, made_from)
        if complaints:
            raise CirillaError("\n".join(complaints), hint=_missing(folder, of) or _AGAIN)
        for number in range(1, of + 1):
            stack.enter_context(held(folder / Share(number, of).name))
        yield Parts(folder, of, totals.pop())
        gone = folder.with_name(f".{PARTS}.merged")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(folder, gone)  # at once: half of the parts would be called incomplete
        shutil.rmtree(gone)
    progress.say(f"{of} {'parts' if of > 1 else 'part'} merged and removed")


def _agreed(folder: Path) -> int:
    """Of how many the parts are.

    Raises:
        CirillaError: there are none, of different numbers, or something else lies among them.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not names:
        raise CirillaError(f"{folder}: no parts to merge", hint="the same command with --shard 1/N to N/N makes them")
    numbers = {name: _NAME.fullmatch(name) for name in names}
    strange = [name for name, match in numbers.items() if match is None or int(match[1]) > int(match[2])]
    if strange:
        raise CirillaError(f"{folder}: {', '.join(strange)}: not a part", hint="move it elsewhere")
    of: dict[int, list[str]] = {}
    for name, match in numbers.items():
        of.setdefault(int(match[2]) if match else 0, []).append(name)
    if len(of) > 1:
        said = "; ".join(_shortened(found) for found in of.values())
        raise CirillaError(f"{folder}: parts of different arrays: {said}", hint="remove those that are not meant")
    return next(iter(of))


def _complaints(folder: Path, of: int, made_from: MadeFrom) -> tuple[list[str], set[int]]:
    """(what is wrong with the parts, how many items they say there are)."""
    wrong: list[str] = []
    totals: dict[int, list[str]] = {}
    for number in range(1, of + 1):
        at, mark = folder / Share(number, of).name, mark_of(folder / Share(number, of).name)
        other = made_from.differs(MadeFrom.read(as_object(mark.get("made_from")))) if mark else None
        if not mark:
            wrong.append(f"{at}: {'not finished' if at.is_dir() else 'missing'}")
        elif mark.get("shard") != at.name:
            wrong.append(f"{at}: holds the part {mark.get('shard')}")
        elif other is not None:
            wrong.append(f"{at}: {other}")
        elif mark.get("sha256") != content_of(at):
            wrong.append(f"{at}: changed since it was made")
        else:
            totals.setdefault(int(mark["of"]), []).append(at.name)
    if len(totals) > 1:
        wrong.append(f"{folder}: parts of different numbers of items: {totals}")
    return wrong, set(totals)


def _missing(folder: Path, of: int) -> str | None:
    """What to start again, as a Slurm user writes it."""
    numbers = [n for n in range(1, of + 1) if not mark_of(folder / Share(n, of).name)]
    if not numbers:
        return None
    first = "; ".join(f"--shard {n}/{of}" for n in numbers[:3]) + ("; ..." if len(numbers) > 3 else "")
    return f"run again {first}, or the whole array: finished parts do nothing"


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
