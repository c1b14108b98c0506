"""`cirilla curate`: several sources in, one set out.

sources --read--> rows --filters--> --evaluation sets--> --duplicates--> --split--> validation, test
                                                                              \\--mixture--> train
"""

import shutil
import time
from pathlib import Path

from cirilla_cli import __version__
from cirilla_cli.curate.card import card
from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.export import FOLDERS, export
from cirilla_cli.curate.outputs import Outputs, side_folder
from cirilla_cli.curate.places import Places
from cirilla_cli.curate.report import CurateReport
from cirilla_cli.curate.sift import Sifter
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object, hash_file, hash_json, read_json, write_json, write_text
from cirilla_cli.held import held
from cirilla_cli.progress import Progress


def curate(
    config: CurateConfig, out: Path, progress: Progress, *, seed: int = 0, fresh: bool = False, spread: Spread = ALONE
) -> CurateReport:
    """Read the sources and write what is worth learning from, once, on the right side of the split.

    Args:
        config: sources, filters, and the rest.
        out: a folder, a file FILE.jsonl (the other files go to the folder FILE.curate beside it), or - for rows on
            standard output and nothing else.
        progress: who watches.
        seed: of the mixture's choice and order of rows.
        fresh: work even where the same was done before.
        spread: may look up what parts have said of the rows.

    Raises:
        CirillaError: no sources, unreadable ones, documents and samples mixed, or no row left.
        ServiceError: the Hub, which a source names, does not answer.
    """
    side, places = checked_side(config, out), Places.of(config.paths(), progress)
    if side is None:
        return _curate(config, places, Outputs(out), progress, seed, fresh, spread)
    with held(side):
        return _curate(config, places, Outputs(out), progress, seed, fresh, spread)


def checked_side(config: CurateConfig, out: Path) -> Path | None:
    """The folder for all but the training rows; None beside standard output.

    Raises:
        CirillaError: there are no sources, or what is written would be read the next time.
    """
    if not config.sources:
        raise CirillaError("nothing to curate", hint="name files or folders: cirilla curate documents.jsonl")
    side = side_folder(out)
    if side is not None:
        _check_outside(side, config)
    return side


def _check_outside(side: Path, config: CurateConfig) -> None:
    """Raises: CirillaError: what is written would be read the next time."""
    for name, source in config.sources.items():
        if source.path.is_dir() and side.resolve().is_relative_to(source.path.resolve()):
            raise CirillaError(
                f"{side}: lies in the source `{name}` ({source.path}), and would be read the next time",
                hint="--out names a place outside of it",
            )


def _curate(
    config: CurateConfig, places: Places, outputs: Outputs, progress: Progress, seed: int, fresh: bool, spread: Spread
) -> CurateReport:
    started, out, made_from = time.monotonic(), outputs.out, _fingerprint(config, places, seed)
    done = None if fresh else _done(outputs, made_from, out)
    if done is not None:
        progress.say(f"{out}: done already (--fresh starts over)")
        return done
    # A report vouches for the rows beside it; those are about to change.
    if outputs.side is not None:
        (outputs.side / "report.json").unlink(missing_ok=True)
    report = _curated(config, places, outputs, progress, seed, spread)
    report.made_from = made_from
    if outputs.side is not None:
        for folder in FOLDERS.values():
            shutil.rmtree(outputs.side / folder, ignore_errors=True)
        if config.export is not None:
            report.export = str(export(config.export, report, outputs.sides(), outputs.side))
        write_text(outputs.side / "report.md", card(report))
        write_json(outputs.side / "report.json", report.as_dict())
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _fingerprint(config: CurateConfig, places: Places, seed: int) -> str | None:
    """Hash of everything the result follows from; None where a source is a stream."""
    hashes = [places.digest(path) for path in config.paths()]
    return None if None in hashes else hash_json([config.model_dump(mode="json"), seed, hashes, __version__])


def _done(outputs: Outputs, made_from: str | None, out: Path) -> CurateReport | None:
    """The report of an earlier run of the same on the same, whose files are still as it left them."""
    if outputs.side is None or made_from is None or not (outputs.side / "report.json").is_file():
        return None
    try:
        report = CurateReport(**read_json(outputs.side / "report.json"))
    except (ValueError, TypeError):
        return None
    splits = [as_object(split) for split in as_object(report.splits).values()]
    files = [(Path(str(split.get("file"))), split.get("sha256")) for split in splits]
    whole = bool(files) and all(file.is_file() and hash_file(file) == digest for file, digest in files)
    whole &= report.export is None or Path(str(report.export)).is_dir()
    report.already_done = True
    return report if report.made_from == made_from and report.out == str(out) and whole else None


def _curated(
    config: CurateConfig, places: Places, outputs: Outputs, progress: Progress, seed: int, spread: Spread
) -> CurateReport:
    sifter = Sifter(config, places, outputs, seed, progress, spread)
    try:
        sifter.look()
        sifter.sift()
        report = sifter.finish()
        outputs.commit()
    except BaseException:
        outputs.abort()
        raise
    return report
