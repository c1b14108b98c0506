"""Samples made on many machines: a part asks a teacher about its share of pages, or makes its share of the tasks."""

from functools import partial
from pathlib import Path

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, read_rows
from cirilla_cli.data.merging import Parts, merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, make_part
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress
from cirilla_cli.synth.config import FandomConfig, ReasoningGymConfig, SynthConfig, TeacherQAConfig
from cirilla_cli.synth.journal import FILE
from cirilla_cli.synth.reasoning import ReasoningGym
from cirilla_cli.synth.run import SynthReport, documents_of, places, rows_at, synthesize


def synth_share(config: SynthConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False) -> PartReport:
    """Make one share of what can be made apart; ``fresh`` does it anew.

    Raises:
        CirillaError: bad input, or a source that cannot be shared out. ServiceError: a teacher does not answer.
    """
    made_from = _made_from(config)
    work = partial(_make_share, config, progress)
    return make_part(places(out)[1], share, made_from, progress, work, fresh=fresh)


def _make_share(config: SynthConfig, progress: Progress, part: Part) -> None:
    match config.source:
        case ReasoningGymConfig():
            source = ReasoningGym(config.source, part)
            made = source.make(documents_of(config, source), progress)
        case _:
            teacher = config.source.build(part.folder)
            own = (document for document in documents_of(config, teacher) if part.takes(document.id))
            made = teacher.make(own, progress)
    for _ in made:
        pass


def synth_merge(config: SynthConfig, out: Path, progress: Progress) -> SynthReport:
    """Make the rows of all parts, as `synthesize` makes them; a teacher is asked for nothing that is on record.

    Raises:
        CirillaError: parts are missing, or are not of this.
    """
    side = places(out)[1]
    with merging(side, _made_from(config), progress) as parts:
        if isinstance(config.source, ReasoningGymConfig):
            return synthesize(config, out, progress, ReasoningGym(config.source, parts))
        assert side is not None, "`merging` refuses standard output"
        for document in documents_of(config, config.source.build(None)):
            parts.takes(document.id)
        parts.complete()
        _join_answers(parts, side / FILE)
        return synthesize(config, out, progress)


def _join_answers(parts: Parts, path: Path) -> None:
    """Add what the teachers of all parts have answered to the record at ``path``, each answer once."""
    with JsonlWriter(path, append=True) as record:
        known = {(row.data.get("teacher"), row.data.get("id")) for row in read_rows(path, Complaints())}
        for file in (folder / FILE for folder in parts.folders()):
            for row in read_rows(file, Complaints()) if file.is_file() else ():
                key = row.data.get("teacher"), row.data.get("id")
                if key not in known:
                    known.add(key)
                    record.write(row.data)


def _made_from(config: SynthConfig) -> MadeFrom:
    """What parts are made from.

    Raises:
        CirillaError: the source cannot be shared out.
    """
    source = config.source
    paths = list(map(rows_at, config.inputs))
    match source:
        case FandomConfig():
            raise CirillaError(
                "source `fandom` cannot be shared out: its rules compare every page with all others",
                hint="leave out --shard and --merge; a teacher's work and tasks can be shared out",
            )
        case TeacherQAConfig():
            if source.limit is not None:
                raise CirillaError(
                    "`synth.source.limit` counts parts of pages in order, and cannot be shared out",
                    hint="leave it out, or leave out --shard and --merge",
                )
            paths += [] if source.prompt is None else [source.prompt]
            paths += [source.teacher.path] if source.teacher.kind == "replay" else []
    # How many requests are under way at once, and with which key, makes no difference to what is made.
    recipe = config.model_dump(mode="json", exclude={"source": {"workers": True, "teacher": {"api_key": True}}})
    return MadeFrom.of("synth", recipe, paths)
