"""One door for every MODEL: a run, a checkpoint, a Hugging Face folder, or a name on the Hub."""

from pathlib import Path
from typing import cast

import torch

from cirilla_cli.checkpoint import AVERAGE, Checkpoint, Config, Found, Loaded, load_checkpoint
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import newest, read_object
from cirilla_cli.hub.names import is_hub_name
from cirilla_cli.hub.read import read_config, read_folder
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.progress import SILENT, Progress


def load_model(
    where: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress = SILENT,
) -> Loaded:
    """The language model at ``where``, in evaluation mode, in float32 unless ``dtype`` says otherwise.

    Args:
        where: run directory (its default checkpoint), checkpoint folder, Hugging Face folder, or OWNER/NAME.

    Raises:
        CirillaError: nothing is there, or nothing that continues text; what was looked for is named.
        ServiceError: the Hub failed.
    """
    found = load_any(where, device=device, dtype=dtype, progress=progress)
    if not isinstance(found.model, Decoder):
        raise CirillaError(
            f"{where}: this model is of kind {found.config.kind}, which cannot continue text; kind decoder is wanted",
            hint=other_uses(found.config.kind, where),
        )
    return cast(Loaded, found)


def other_uses(kind: str, where: str | Path) -> str:
    """What a model of a kind that does not continue text is good for, as commands."""
    return _OTHER_USES[kind].format(where)


_OTHER_USES = {
    "encoder": "`cirilla generate {0}` restores hidden tokens; `cirilla sft` with data.kind=labelled_text makes a "
    "classifier of it",
    "classifier": "`cirilla generate {0} --prompt TEXT` names a text's label; `cirilla eval {0} --labels rows.jsonl` "
    "tells how often it is right",
}


def load_any(
    where: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress = SILENT,
) -> Found[Model, Config]:
    """The model at ``where``, of whatever kind, as `load_model` finds it.

    Raises:
        CirillaError: nothing is there, or nothing that is a model; what was looked for is named.
        ServiceError: the Hub failed.
    """
    folder = _folder(where, progress)
    checkpoint = _checkpoint(folder)
    if checkpoint is not None:
        if checkpoint.best_weights.name == AVERAGE:
            progress.say(f"{checkpoint.path}: the moving average of the weights is taken ({AVERAGE})")
        loaded: Found[Model, Config] = load_checkpoint(checkpoint, device=device, dtype=dtype)
    elif (folder / "config.json").is_file():
        loaded = read_folder(folder, device, dtype)
    else:
        raise _not_a_model(folder)
    loaded.model.eval()
    return loaded


def read_shape(where: str | Path) -> Config:
    """The shape of the model in a folder, without its weights.

    Raises:
        CirillaError: there is no such folder, or no model in it; a name on the Hub is not fetched.
    """
    folder = Path(where)
    if not folder.is_dir():
        raise CirillaError(f"{where}: there is no such folder", hint="`cirilla runs` lists what has been trained here")
    checkpoint = _checkpoint(folder)
    if checkpoint is not None:
        return checkpoint.model_config()
    if (folder / "config.json").is_file():
        return read_config(folder)
    raise _not_a_model(folder)


def newest_model(root: Path = Path("runs")) -> Path:
    """The run below ``root`` that saved a checkpoint last, or a checkpoint folder that belongs to no run.

    Raises:
        CirillaError: there is no complete checkpoint.
    """
    manifests = root.rglob("MANIFEST.json") if root.is_dir() else ()
    found = newest(m for m in manifests if Checkpoint.at(m.parent) is not None)
    if found is None:
        raise CirillaError(f"{root}: there is no trained model yet", hint="cirilla run quickstart")
    return found.parents[2] if found.parents[1].name == "checkpoints" else found.parent


def default_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint of a run that its index prefers, else the newest complete one.

    Raises:
        CirillaError: none is complete.
    """
    preferred = _preferred(run / "checkpoints")
    checkpoint = preferred or Checkpoint.newest(run)
    if checkpoint is None:
        raise CirillaError(
            f"{run}: this run has no complete checkpoint yet", hint="the command that began it continues it"
        )
    return checkpoint


def _preferred(folder: Path) -> Checkpoint | None:
    """What `index.json` calls the default, where that is complete."""
    path = folder / "index.json"
    try:
        index = read_object(path) if path.is_file() else {}
    except CirillaError:
        # Damaged; the checkpoints themselves still say which is the newest.
        return None
    name = index.get(index.get("default", "last"))
    return Checkpoint.at(folder / name) if isinstance(name, str) else None


def _folder(where: str | Path, progress: Progress) -> Path:
    """The existing folder that ``where`` means, downloaded first if it is a Hub name."""
    path = Path(where)
    if path.is_dir():
        return path
    if path.is_file():
        raise CirillaError(f"{path}: {_of_file(path)}", hint="name a run, a checkpoint or a Hugging Face folder")
    # `runs/misspelt` is a path where runs/ is a folder, not somebody's repository.
    if is_hub_name(str(where)) and not path.parent.is_dir():
        from cirilla_cli.hub.download import download

        return download(str(where), progress)
    raise CirillaError(f"{where}: there is no such folder", hint="`cirilla runs` lists what has been trained here")


def _of_file(path: Path) -> str:
    if path.suffix == ".gguf":
        return "GGUF files are not read; take the model in safetensors"
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return "pickled weights can run code and are never loaded; take the model in safetensors"
    return "a file; a model is a folder"


def _checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint to read for ``folder``: its own, or the default one of the run it is."""
    if (folder / "checkpoints").is_dir():
        return default_checkpoint(folder)
    if folder.name == "checkpoints" and any(folder.glob("step-*")):
        return default_checkpoint(folder.parent)
    if not (folder / "model.json").is_file():
        return None
    # A name such as `.` says nothing about the step.
    checkpoint = Checkpoint.at(folder.resolve())
    if checkpoint is None:
        raise CirillaError(
            f"{folder}: this checkpoint is not complete, or was renamed (step-NNNNNN with a MANIFEST.json that fits)",
            hint="name the run: its newest complete checkpoint is taken",
        )
    return Checkpoint(checkpoint.step, folder)


def _not_a_model(folder: Path) -> CirillaError:
    looked = "checkpoints/ (a run), model.json (a checkpoint), config.json (a Hugging Face model)"
    others = [p.name for suffix in (".gguf", ".bin", ".pt", ".pth", ".ckpt") for p in sorted(folder.glob(f"*{suffix}"))]
    also = f"; {others[0]}: {_of_file(Path(others[0]))}" if others else ""
    return CirillaError(f"{folder}: no model here: looked for {looked}{also}")
