"""`cirilla push ROWS --to hf://datasets/OWNER/NAME`: rows as a data set on the Hub, with a card of what they are.

rows --export--> Parquet and card, in a folder that goes --read back--> equal? --upload--> repository
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cirilla_cli.curate.config import CurateConfig, SourceConfig
from cirilla_cli.curate.export import FOLDERS, export
from cirilla_cli.curate.outputs import side_folder
from cirilla_cli.curate.report import CurateReport
from cirilla_cli.curate.run import curate
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object, hash_file, read_json
from cirilla_cli.progress import Progress

if TYPE_CHECKING:
    from cirilla_cli.hub.upload import Place


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a data set."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was compared, and how it came out."""

    name: str
    outcome: str
    detail: str


@dataclass
class SetReport:
    """What was published, and where; `--json` prints it."""

    to: str
    """The address of the repository."""
    kind: str
    """`documents` or `samples`."""
    splits: dict[str, int]
    """Rows of each."""
    files: list[PublishedFile]
    bytes: int
    checks: list[Checked] = field(default_factory=list)
    seconds: float = 0.0
    written: bool = True
    """False for a dry run."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)


def publish(rows: Path, place: "Place", progress: Progress, *, dry_run: bool = False) -> SetReport:
    """Upload rows as a data set; those of a curated set with its splits and numbers.

    Args:
        rows: the folder or file of `cirilla curate`, or any file or folder of rows, which then is one split.
        dry_run: make the files, tell their sizes, and send nothing.

    Raises:
        CirillaError: there are no rows, some cannot be read, or a curated set has changed since its report.
        ServiceError: the Hub failed; the token is not in the message.
    """
    from cirilla_cli.hub.upload import upload

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cirilla-push-") as parent:
        folder, report, sides = _exported(rows, Path(parent), progress)
        checks = [_compared(folder, side, file) for side, file in sides.items()]
        files = list(_files(folder))
        hint = "the licence comes from the rows: mend it there, and curate them again"
        to = f"hf://datasets/{place.name}" if dry_run else upload(place, folder, progress, hint)
    splits = {side: int(split["rows"]) for side, split in report.splits.items()}
    size, seconds = sum(file.bytes for file in files), round(time.monotonic() - started, 3)
    return SetReport(to, report.kind, splits, files, size, checks, seconds, written=not dry_run)


def _exported(rows: Path, parent: Path, progress: Progress) -> tuple[Path, CurateReport, Mapping[str, Path]]:
    """The folder for the Hub, what it is, and the rows of its splits."""
    known = _curated(rows)
    if known is not None:
        report, sides = known
        return export("datasets", report, sides, parent), report, sides
    # Standard input can be read once; an empty one is found out below.
    if rows != STDIO and next(read_inputs([rows]), None) is None:
        raise CirillaError(f"{rows}: holds no rows", hint="a data set needs one at least")
    source = SourceConfig(path=rows)
    config = CurateConfig(sources={"rows" if rows == STDIO else rows.stem: source}, duplicates=None, export="datasets")
    report = curate(config, parent / "set", progress)
    if report.quarantined:
        reasons = "; ".join(f"{count:,} rows: {reason}" for reason, count in report.quarantined.items())
        raise CirillaError(
            f"{rows}: rows that cannot be read would be missing: {reasons}",
            hint=f"cirilla curate {rows} --out set  sets them aside with file and line; then push set",
        )
    return parent / "set" / FOLDERS["datasets"], report, {"train": parent / "set" / f"{report.kind}.jsonl"}


def _curated(rows: Path) -> tuple[CurateReport, dict[str, Path]] | None:
    """The report of a curated set and the rows of its splits; None for other rows.

    Raises:
        CirillaError: they are not those that the report tells of.
    """
    side = side_folder(rows)
    if side is None or not (side / "report.json").is_file():
        return None
    try:
        report = CurateReport(**read_json(side / "report.json"))
        splits = {name: as_object(split) for name, split in report.splits.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    sides = {name: _beside(rows, side, str(split.get("file"))) for name, split in splits.items()}
    changed = [
        str(file) for name, file in sides.items()
        if not file.is_file() or hash_file(file) != splits[name].get("sha256")
    ]  # fmt: skip
    if changed:
        raise CirillaError(
            f"{', '.join(changed)}: missing, or changed since {side / 'report.json'} was written",
            hint="make the same `cirilla curate` call again",
        )
    return report, sides


def _beside(rows: Path, side: Path, named: str) -> Path:
    """Where a file of a curated set lies now: the set may have been moved."""
    name = Path(named).name
    return rows if rows.suffix == ".jsonl" and name == rows.name else side / name


def _compared(folder: Path, side: str, file: Path) -> Checked:
    """Raises: CirillaError: what is read back is not row for row what was written."""
    (table,) = (folder / "data").glob(f"{side}-*.parquet")
    number = 0
    for number, (theirs, ours) in enumerate(zip_longest(read_inputs([table]), read_inputs([file])), 1):
        if theirs is None or ours is None or theirs.line() != ours.line():
            raise CirillaError(f"{file}:{number}: not the row that is read back from Parquet; nothing was published")
    return Checked(side, "passed", f"{number:,} rows, read back equal")


def _files(folder: Path) -> Iterator[PublishedFile]:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield PublishedFile(file.relative_to(folder).as_posix(), file.stat().st_size, hash_file(file))
