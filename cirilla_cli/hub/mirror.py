"""A repository on the Hub as a second place for a run's checkpoints."""

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from cirilla_cli.errors import ServiceError
from cirilla_cli.hub.download import HUB_FAILURES, hub_error
from cirilla_cli.hub.upload import create, quiet_bars

T = TypeVar("T")


class HubStore:
    """A private repository; the token is the one huggingface_hub is logged in with, or HF_TOKEN.

    A change is one commit, so that the repository never shows half of one. What is taken away stays in its history.
    """

    def __init__(self, name: str, *, endpoint: str | None = None) -> None:
        self.where, self._api = name, HfApi(endpoint=endpoint)

    def prepare(self) -> None:
        """Create the repository where it is not there yet.

        Raises:
            ServiceError: the Hub does not answer, or this token may not write; the token is not in the message.
        """
        denied = self._call(lambda: create(self._api, self.where, private=True))
        try:
            self.names()
        except ServiceError:
            if denied is not None:
                raise hub_error(self.where, denied) from None
            raise

    def names(self) -> set[str]:
        """Every file in the repository."""
        return self._call(lambda: set(self._api.list_repo_files(self.where)))

    def read(self, name: str, into: Path) -> Path:
        """A downloaded file."""
        into.mkdir(parents=True, exist_ok=True)
        path = Path(self._call(lambda: self._api.hf_hub_download(self.where, name, local_dir=into)))
        # The library's own records of the download.
        shutil.rmtree(into / ".cache", ignore_errors=True)
        return path

    def change(self, add: Mapping[str, Path], remove: Collection[str], message: str) -> None:
        """One commit."""
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in add.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in remove]
        self._call(lambda: self._api.create_commit(self.where, operations=operations, commit_message=message))

    def tidy(self) -> None:
        """Nothing: a commit is whole, or not there."""

    def _call(self, action: Callable[[], T]) -> T:
        try:
            with quiet_bars():
                return action()
        except HUB_FAILURES as error:
            raise hub_error(self.where, error) from None
