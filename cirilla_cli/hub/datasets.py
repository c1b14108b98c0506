"""Files of data sets on the Hub by their address, `hf://datasets/OWNER/NAME[@REVISION][/FILES]`."""

import fnmatch
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download

from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_written
from cirilla_cli.hub.download import HUB_FAILURES, bar, hub_error
from cirilla_cli.hub.names import is_hub_name
from cirilla_cli.progress import Progress

DATA = frozenset({".parquet", ".jsonl", ".json", ".ndjson", ".arrow", ".txt", ".md"})
"""Endings of the files that an address without FILES, or with a folder, stands for."""


_NUMBER = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
"""What numbers the files of one split."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address in its parts; ``files`` is a file, a folder, a pattern (`data/train-*.parquet`), or empty for all."""

    name: str
    revision: str | None
    files: str

    @classmethod
    def read(cls, path: Path) -> "Address":
        """Raises: CirillaError: there is no OWNER/NAME in it."""
        named = "/".join(path.parts[2:4])
        name, _, revision = named.partition("@")
        if not is_hub_name(name):
            raise CirillaError(
                f"{as_written(path)}: no name of a data set", hint="hf://datasets/OWNER/NAME[@REVISION][/FILES]"
            )
        return cls(name, revision or None, "/".join(path.parts[4:]))

    def chosen(self, there: Iterable[str]) -> list[str]:
        """Those of the files in a data set that are meant; `*` stops at folders, as in a shell.

        Raises:
            CirillaError: none is, or a folder holds several splits or configurations, which are not for one purpose.
        """
        there = sorted(file for file in there if PurePosixPath(file).name != "README.md")
        files = [file for file in there if self._means(PurePosixPath(file))]
        kinds = sorted({_NUMBER.sub("-*", file) for file in files or there if PurePosixPath(file).suffix in DATA})
        named = ", ".join(f"hf://datasets/{self.name}/{kind}" for kind in kinds[:6]) or "nothing that can be read"
        if not files:
            raise CirillaError(
                f"{self.name}: no file there is {self.files or 'one of rows or text'}", hint=f"there is: {named}"
            )
        if len(kinds) > 1 and not glob.has_magic(self.files):
            raise CirillaError(
                f"{self.name}: holds {len(kinds)} sets of files, not all for one purpose", hint=f"name one: {named}"
            )
        return files

    def _means(self, file: PurePosixPath) -> bool:
        wanted = PurePosixPath(self.files).parts
        if glob.has_magic(self.files):
            return len(wanted) == len(file.parts) and all(map(fnmatch.fnmatchcase, file.parts, wanted))
        below = file.parts[: len(wanted)] == wanted and file.suffix in DATA
        return str(file) == self.files or below


def fetched(path: Path, progress: Progress) -> tuple[str, list[Path]]:
    """(the address with the commit, its files), downloaded where they are not in huggingface_hub's cache already.

    Raises:
        ServiceError: the Hub does not answer, or does not have the data set for this user.
        CirillaError: nothing there is meant.
    """
    address = Address.read(path)
    try:
        about = HfApi().dataset_info(address.name, revision=address.revision)
        files = address.chosen(file.rfilename for file in about.siblings or ())
        progress.say(f"fetching {len(files)} files of {address.name}@{about.sha} from the Hub")
        folder = snapshot_download(
            address.name, repo_type="dataset", revision=about.sha, allow_patterns=list(map(glob.escape, files)),
            tqdm_class=bar(progress),
        )  # fmt: skip
    except HUB_FAILURES as error:
        raise hub_error(address.name, error) from None
    exact = "/".join(part for part in (f"hf://datasets/{address.name}@{about.sha}", address.files) if part)
    return exact, [Path(folder) / file for file in files]
