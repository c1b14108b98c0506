"""Samples made on many machines: a part asks a teacher about its share of pages, or applies rules, or makes tasks."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, read_rows
from cirilla_cli.data.merging import Parts, merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, Spread, make_part, paths_of
from cirilla_cli.fs import hash_json
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Synthesizer
from cirilla_cli.synth.config import FandomConfig, ReasoningGymConfig, SynthConfig, SynthSection, TeacherSourceConfig
from cirilla_cli.synth.fandom import Fandom
from cirilla_cli.synth.journal import FILE
from cirilla_cli.synth.judge import FILE as JUDGED
from cirilla_cli.synth.reasoning import ReasoningGym
from cirilla_cli.synth.run import SynthReport, documents_of, places, rows_at, synthesize
from cirilla_cli.synth.teacher import TeacherSource


def synth_share(config: SynthConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False) -> PartReport:
    """Make one share of what can be made apart; ``fresh`` does it anew.

    Raises:
        CirillaError: bad input. ServiceError: a teacher does not answer.
    """
    made_from = _made_from(config)
    work = partial(_make_share, config, progress)
    return make_part(places(out)[1], share, made_from, progress, work, fresh=fresh)


def _make_share(config: SynthConfig, progress: Progress, part: Part) -> None:
    source = _spread(config.source, part.folder, part)
    for _ in source.make(documents_of(config, source), progress):
        pass


def _spread(source: SynthSection, workspace: Path | None, spread: Spread) -> Synthesizer:
    """The source, for the items that ``spread`` takes; of a teacher these are its pieces of pages."""
    match source:
        case FandomConfig():
            return Fandom(source, spread)
        case ReasoningGymConfig():
            return ReasoningGym(source, spread)
        case TeacherSourceConfig():
            return TeacherSource(source, workspace, spread)


def synth_merge(config: SynthConfig, out: Path, progress: Progress) -> SynthReport:
    """Make the rows of all parts, as `synthesize` makes them; a teacher is asked for nothing that is on record.

    Raises:
        CirillaError: parts are missing, or are not of this.
    """
    side = places(out)[1]
    with merging(side, _made_from(config), progress) as parts:
        assert side is not None, "`merging` refuses standard output"
        for name in (FILE, JUDGED):
            _join_answers(parts, side / name)
        return synthesize(config, out, progress, _spread(config.source, side, parts))


def _join_answers(parts: Parts, path: Path) -> None:
    """Add what the teachers of all parts have answered to the record at ``path``, each answer once."""
    files = [file for file in (folder / path.name for folder in parts.folders()) if file.is_file()]
    if not files:
        return
    with JsonlWriter(path, append=True) as record:
        known = {hash_json(row.data) for row in read_rows(path, Complaints())}
        for row in chain.from_iterable(read_rows(file, Complaints()) for file in files):
            if (told := hash_json(row.data)) not in known:
                known.add(told)
                record.write(row.data)


def _made_from(config: SynthConfig) -> MadeFrom:
    """What parts are made from.

    Raises:
        CirillaError: an input is missing.
    """
    source = config.source
    if isinstance(source, TeacherSourceConfig):
        source = source.model_copy(update={"cache": None})
    paths = [*map(rows_at, config.inputs), *paths_of(source)]
    # How many requests are under way at once, with which key, and who else asks, makes no difference to what is made.
    keys: dict[str, Any] = {"teacher": {"api_key": True}}
    apart = {"workers": True, "cache": True, **keys, "judge": keys}
    recipe = config.model_dump(mode="json", exclude={"source": apart})
    return MadeFrom.of("synth", recipe, paths)
