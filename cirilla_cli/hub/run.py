"""`cirilla push`: export, check by loading it back, then put the folder where it belongs.

Loaded --write--> folder beside the target --check--> renamed into place, or uploaded
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.fs import read_json, replace_folder
from cirilla_cli.hub.check import MOST_TEXTS, TEXTS, Check, check, failures
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import architecture_of, family_of
from cirilla_cli.hub.names import is_hub_name
from cirilla_cli.hub.read import LINEAGE, Published
from cirilla_cli.hub.upload import Place, upload
from cirilla_cli.hub.write import Written, plan_folder, write_folder
from cirilla_cli.lineage.gather import gather, sample_lines
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_bytes

_FOLDER = "dir:"


@dataclass
class PushReport:
    """What was published, where, and which checks it passed; `--json` prints it."""

    to: str
    """The folder, or the address of the repository."""
    architecture: str
    dtype: str
    files: list[Written]
    bytes: int
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    written: bool = True
    """False for a dry run."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)


def push(
    config: PushConfig,
    loaded: Published,
    *,
    scores: Path | None = None,
    token: SecretStr | None = None,
    progress: Progress,
    texts: Sequence[str] | None = None,
    endpoint: str | None = None,
) -> PushReport:
    """Publish a model to a local folder or to the Hub; what fails its checks is not published.

    Args:
        scores: the scores to put into the card; null for what ``config`` names, or `scores.json` beside the model.
        token: for the Hub; null for the one huggingface_hub is logged in with.
        texts: lines on which the tokenizers are compared; null for awkward ones and some of the training data.
        endpoint: address of the Hub; null for huggingface_hub's own.

    Raises:
        CirillaError: no public architecture, a target that is not ours to replace, or a failed check.
        ServiceError: the Hub failed; the token is not in the message.
    """
    started = time.monotonic()
    folder = local_target(config)
    architecture = architecture_of(family_of(loaded.config), loaded.config)
    with _building(folder) as building:
        files = write_folder(loaded, building, config, scores=scores or config.scores)
        progress.say(f"{architecture}, {len(files)} files, {show_bytes(sum(f.bytes for f in files))}; checking")
        if loaded.tokenizer is None:
            progress.say("the model has no tokenizer, so none is exported: ids in, ids out")
        checks = check(building, loaded, _compared(loaded) if texts is None else texts)
        _refuse_failed(checks)
        if folder is not None:
            replace_folder(building, folder)
            to = str(folder)
        else:
            place = Place(str(config.to), config.private, config.message, token, endpoint)
            to = upload(place, building, progress, "see push.license, push.language")
    size, seconds = sum(f.bytes for f in files), round(time.monotonic() - started, 3)
    return PushReport(to, architecture, config.dtype, files, size, checks, seconds)


def _compared(loaded: Published) -> list[str]:
    """Lines on which the tokenizers are compared."""
    lineage = gather(loaded.path, loaded.run, loaded.step, loaded.verb)
    return [*TEXTS, *sample_lines(lineage, MOST_TEXTS - len(TEXTS))]


def plan_files(config: PushConfig, loaded: Published, *, scores: Path | None = None) -> PushReport:
    """What `push` would publish, with sizes, for `--dry-run`; nothing is written to the target, nothing is checked.

    Raises:
        CirillaError: as `push`, as far as can be known beforehand.
    """
    local_target(config)
    with tempfile.TemporaryDirectory(prefix="cirilla-push-") as parent:
        files = plan_folder(loaded, Path(parent) / "model", config, scores=scores or config.scores)
    architecture = architecture_of(family_of(loaded.config), loaded.config)
    return PushReport(str(config.to), architecture, config.dtype, files, sum(f.bytes for f in files), written=False)


def local_target(config: PushConfig) -> Path | None:
    """The folder `push.to` means, None for the Hub.

    Raises:
        CirillaError: it means neither, or a folder that holds what this program did not write.
    """
    to = config.to
    if not to or to == _FOLDER:
        raise CirillaError(
            "`push.to` says nowhere to push", hint="--to dir:PATH for a folder, --to OWNER/NAME for the Hub"
        )
    if to.startswith(_FOLDER):
        folder = Path(to.removeprefix(_FOLDER))
        _refuse_foreign(folder)
        return folder
    if not is_hub_name(to):
        where = Where(key="push.to", value=to, expected="dir:PATH or OWNER/NAME")
        raise CirillaError(
            f"`push.to` is {to!r}: expected dir:PATH or OWNER/NAME (for rows hf://datasets/OWNER/NAME)",
            hint=f"for a folder: --to dir:{to}",
            where=[where],
        )
    return None


def _refuse_foreign(folder: Path) -> None:
    """A folder is replaced only if all it holds was written by an earlier push."""
    if folder.is_file():
        raise CirillaError(f"{folder}: is a file, a folder is expected")
    if not folder.is_dir():
        return
    record = folder / LINEAGE
    known = {LINEAGE, *(read_json(record).get("files", {}) if record.is_file() else ())}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise CirillaError(
            f"{folder}: holds files that push did not write: {', '.join(foreign[:3])}{more}",
            hint="name a new folder, or move those files away",
        )


@contextmanager
def _building(folder: Path | None) -> Iterator[Path]:
    """A place for the export to grow in: beside a local target, so that it can be renamed; gone in the end."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cirilla-push-") as parent:
            yield Path(parent) / "model"
        return
    resolved = folder.absolute()
    resolved.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{resolved.name}.", dir=resolved.parent))
    try:
        yield building / resolved.name
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_failed(checks: Sequence[Check]) -> None:
    failed = failures(checks)
    if failed:
        lines = [f"{c.name}: {c.detail}" for c in failed]
        raise CirillaError(
            "the export is not the model it was made from, so nothing was published:\n" + "\n".join(lines),
            hint="please report this with the recipe; `cirilla generate` works with the checkpoint itself",
        )
