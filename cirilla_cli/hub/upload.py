"""Putting a folder into a repository on the Hub; torch-free."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from pydantic import SecretStr

from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.hub.download import HUB_FAILURES, hub_error
from cirilla_cli.progress import Progress

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Place:
    """A repository, and how it is written to."""

    name: str
    """OWNER/NAME."""
    private: bool
    """Where it is created."""
    message: str
    """Of the commit."""
    token: SecretStr | None = None
    """None for the one huggingface_hub is logged in with."""
    endpoint: str | None = None
    """Address of the Hub; None for huggingface_hub's own."""
    kind: Kind = "model"


def upload(place: Place, folder: Path, progress: Progress, unfit: str) -> str:
    """Create the repository where it is not there yet, and upload every file in one commit; returns its address.

    Args:
        unfit: the hint where the Hub refuses what the card's metadata says.

    Raises:
        ServiceError: the Hub failed; the token is not in the message.
        CirillaError: the Hub refuses the card.
    """
    name, denied = place.name, None
    api = HfApi(endpoint=place.endpoint, token=None if place.token is None else place.token.get_secret_value())
    progress.say(f"uploading to {name}{' (private)' if place.private else ''}")
    try:
        with quiet_bars(), warnings.catch_warnings(record=True) as remarks:
            denied = create(api, name, place.private, place.kind)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=place.message, repo_type=place.kind)
    except HUB_FAILURES as error:
        raise hub_error(name, denied or error) from None
    except json.JSONDecodeError:
        raise ServiceError(f"{name}: the Hub's answer is not JSON", hint="is the address that of a Hub?") from None
    except ValueError as error:
        # The card's metadata is judged by the Hub before anything is sent.
        raise CirillaError(f"{name}: the Hub refuses this: {error}", hint=unfit) from None
    for remark in remarks:
        progress.say(str(remark.message))
    return "/".join([api.endpoint, *(["datasets"] if place.kind == "dataset" else []), name])


def create(api: HfApi, name: str, private: bool, kind: Kind = "model") -> HfHubHTTPError | None:
    """Create a repository; None if it stands, the refusal if this token may not create one (it may still write)."""
    try:
        api.create_repo(name, private=private, repo_type=kind)
    except HfHubHTTPError as error:
        if error.response.status_code == 409:
            return None
        if error.response.status_code in (401, 402, 403):
            return error
        raise
    return None


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Without the library's own progress bars on the terminal."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
