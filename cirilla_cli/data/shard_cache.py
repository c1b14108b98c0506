"""Finished token shards that runs share: a folder for each, named by the hash of all that it follows from.

shards/text/train-00003.*  --when made--> CACHE/v1/ab/abcd.../shard.*  --same records and tokenizer--> OTHER/shards/...

Files are linked, or copied where the system cannot. Hashes are compared before a shard is taken.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from cirilla_cli.data.shards import VERSION, ShardInfo
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_file, make_writable, read_object, write_json

_NAME = "shard"


@dataclass(frozen=True, slots=True)
class ShardCache:
    """Any number of processes may take and add at once: what one adds is what every other would."""

    folder: Path

    @classmethod
    def opened(cls, folder: Path) -> Self:
        """The one in ``folder``, which is made if need be.

        Raises:
            CirillaError: there cannot be such a folder.
        """
        make_writable(folder, "tokenize.cache", "shards")
        return cls(folder)

    def take(self, made_from: str, folder: Path, name: str) -> ShardInfo | None:
        """Put the shard that was made from the same into ``folder``; None where there is no undamaged one."""
        at = self._at(made_from)
        try:
            info = ShardInfo(**read_object(at / f"{_NAME}.json")["info"])
            if any(hash_file(at / file) != digest for file, digest in _files(info)):
                return None
        except (CirillaError, FileNotFoundError, TypeError, KeyError):
            return None
        return _put(at, info, folder, name, made_from)

    def add(self, made_from: str, folder: Path, info: ShardInfo) -> None:
        """Keep a finished shard of ``folder`` for others; a damaged one is replaced."""
        _put(folder, info, self._at(made_from), _NAME, made_from)

    def _at(self, made_from: str) -> Path:
        return self.folder / f"v{VERSION}" / made_from[:2] / made_from


def _files(info: ShardInfo) -> Iterator[tuple[str, str | None]]:
    """Each file of a shard with its SHA-256; None, which no file has, where it is not known."""
    yield from ((info.file, info.sha256), (info.ends, info.ends_sha256), (info.rows, info.rows_sha256))
    if info.mask_sha256 is not None:
        yield info.mask, info.mask_sha256


def _put(source: Path, info: ShardInfo, folder: Path, name: str, made_from: str) -> ShardInfo:
    """Put a shard's files into ``folder`` as ``name``, its marker last."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, _ in _files(info):
        link(source / file, folder / f"{name}{file.removeprefix(Path(info.file).stem)}")
    info = replace(info, file=f"{name}.bin")
    write_json(folder / f"{name}.json", {"made_from": made_from, "info": asdict(info)})
    return info


def link(source: Path, target: Path) -> None:
    """Let a file stand at ``target`` too, whole at once; without a copy, where the system can."""
    spare = target.with_name(f".{target.name}.{os.getpid()}")
    spare.unlink(missing_ok=True)
    try:
        os.link(source, spare)
    except OSError:
        shutil.copyfile(source, spare)
    os.replace(spare, target)
    spare.unlink(missing_ok=True)  # which stays where both names were of one file before
