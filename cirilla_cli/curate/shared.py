"""Curating on many machines: a part filters its share of the rows and compares them with the evaluation sets.

What needs all rows at once, repetitions, mixture and numbers, is done by the merge.
"""

import shutil
from pathlib import Path

from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.outputs import Outputs
from cirilla_cli.curate.places import Places
from cirilla_cli.curate.report import CurateReport
from cirilla_cli.curate.run import checked_side, curate
from cirilla_cli.curate.sift import Sifter
from cirilla_cli.data.merging import merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, make_part
from cirilla_cli.progress import Progress


def curate_share(
    config: CurateConfig, out: Path, share: Share, progress: Progress, *, seed: int = 0, fresh: bool = False
) -> PartReport:
    """Judge one share of the rows, each by itself; ``fresh`` does it anew.

    Raises:
        CirillaError: no sources, unreadable ones, or documents and samples mixed.
    """

    def work(part: Part) -> None:
        spare = part.folder / "spare"
        outputs = Outputs(spare)
        try:
            sifter = Sifter(config, places, outputs, seed, progress, part)
            sifter.look()
            for _ in sifter.judged():
                pass
        finally:
            outputs.abort()
            shutil.rmtree(spare, ignore_errors=True)

    side, places = checked_side(config, out), Places.of(config.paths(), progress)
    return make_part(side, share, _made_from(config, places, seed), progress, work, fresh=fresh)


def curate_merge(config: CurateConfig, out: Path, progress: Progress, *, seed: int = 0) -> CurateReport:
    """Make one set of the rows as all parts have judged them, as `curate` makes it.

    Raises:
        CirillaError: parts are missing, or are not of this; or no row is left.
    """
    side, places = checked_side(config, out), Places.of(config.paths(), progress)
    with merging(side, _made_from(config, places, seed), progress) as parts:
        return curate(config, out, progress, seed=seed, spread=parts)


def _made_from(config: CurateConfig, places: Places, seed: int) -> MadeFrom:
    files = [file for path in config.paths() for file in places.files(path)]
    return MadeFrom.of("curate", [config.model_dump(mode="json"), seed], files)
