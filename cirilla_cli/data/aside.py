"""Shards of an earlier run, kept until the new run has taken those whose records it meets again, under any name.

shards/text/train-00003.*  --at the start--> shards/text/.aside/FINGERPRINT/train-00003.*
                           --same records--> shards/text/train-00002.*     --at the end--> the rest is removed

Files are renamed, never copied, and a shard's marker moves last: where a run was killed between, the next one goes on,
or makes that shard anew.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from os import replace as rename
from pathlib import Path

from cirilla_cli.data.shards import ShardInfo
from cirilla_cli.fs import read_object, write_json

_ASIDE = ".aside"


def set_aside(shards: Path) -> None:
    """Put every finished shard of every kind below ``shards`` where `taken_back` finds it."""
    for marker in sorted(shards.glob("*/*-*.json")):
        made_from = str(read_object(marker).get("made_from"))
        if re.fullmatch("[0-9a-f]{64}", made_from) is None:  # what a file says becomes no path
            continue
        kept = marker.parent / _ASIDE / made_from
        kept.mkdir(parents=True, exist_ok=True)
        for file in _last(marker, marker.parent.glob(f"{marker.stem}.*")):
            rename(file, kept / file.name)


def taken_back(folder: Path, name: str, made_from: str) -> ShardInfo | None:
    """The shard that was made from the same, from now on ``name`` in ``folder``; None where there is no whole one."""
    kept = folder / _ASIDE / made_from
    marker = next(iter(sorted(kept.glob("*-*.json"))), None)
    if marker is None:
        return None
    info = ShardInfo(**read_object(marker)["info"])
    needed = [info.file, info.rows, info.ends, *([info.mask] if info.mask_sha256 else [])]
    if not all((kept / file).is_file() for file in needed):
        return None
    for file in kept.glob(f"{marker.stem}.*"):
        if file != marker:
            rename(file, folder / file.name.replace(marker.stem, name, 1))
    info = replace(info, file=f"{name}.bin")
    write_json(folder / f"{name}.json", {"made_from": made_from, "info": asdict(info)})
    shutil.rmtree(kept)
    return info


def forget_aside(shards: Path) -> None:
    """Remove what no record of the new run was in."""
    for aside in shards.glob(f"*/{_ASIDE}"):
        shutil.rmtree(aside)


def _last(marker: Path, files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file == marker)
