"""Models by name from the Hub: only the files a model is read from, never code, never pickles."""

import io
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.progress import Progress

_TAKEN = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "spm.model", "merges.txt", "LICENSE*", "README.md"]
# What lies in folders is another format of the same model; consolidated files hold all weights a second time.
_LEFT = ["*/*", "consolidated*"]

# Which HTTP client huggingface_hub uses changes with its version; its own errors are of that client's kind.
HUB_FAILURES: tuple[type[Exception], ...] = (HfHubHTTPError, ClientError, LocalEntryNotFoundError, ConnectionError)
"""What huggingface_hub raises when the Hub does not answer, or not as wished."""


def download(name: str, progress: Progress, *, endpoint: str | None = None) -> Path:
    """The folder that holds ``OWNER/NAME``, downloaded where it is not in the cache of huggingface_hub already.

    Raises:
        ServiceError: the Hub does not answer, or does not have the repository for this user.
        CirillaError: the repository holds no model that can be read.
    """
    progress.say(f"fetching {name} from the Hub")
    try:
        folder = Path(
            snapshot_download(
                name, allow_patterns=_TAKEN, ignore_patterns=_LEFT, endpoint=endpoint, tqdm_class=bar(progress)
            )
        )
    except HUB_FAILURES as error:
        raise hub_error(name, error) from None
    if not (folder / "config.json").is_file():
        raise CirillaError(f"{name}: this repository has no config.json, so no model that can be read")
    return folder


def bar(progress: Progress) -> type[tqdm]:
    """The library's progress bar, drawn by ``progress`` and nowhere else."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            silent: Any = {**kwargs, "file": io.StringIO(), "disable": False}
            super().__init__(*args, **silent)  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.n:  # the library draws bars before it knows of what
                progress.step(f"download ({str(self.unit).strip()})", self.n, self.total)
            return True

    return Bar


def hub_error(name: str, error: Exception) -> ServiceError:
    """What went wrong between us and the Hub, in one line; nothing of the request (and so no token) is repeated."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    known = {
        401: ("the Hub does not accept the token, or wants one (401)", "log in with `hf auth login`, or set HF_TOKEN"),
        403: ("the token has no right to this (403)", "make a token with write permission for this repository"),
        404: ("no such repository, or it is private (404)", "check the name; is it private: `hf auth login`"),
    }
    if status in known:
        message, hint = known[status]
        return ServiceError(f"{name}: {message}", hint=hint)
    if status is not None:
        return ServiceError(f"{name}: the Hub answered with HTTP {status}", hint="try again later")
    return ServiceError(
        f"{name}: the Hub cannot be reached ({type(error).__name__})", hint="check the network, or give a local folder"
    )
