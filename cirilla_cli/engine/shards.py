"""The token shards a run reads: found where they are finished, made where the recipe names rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cirilla_cli.data.config import (
    FormatName,
    LoadTokenizerConfig,
    TokenizeConfig,
    TokenizerSection,
)
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shards import Kind, ShardIndex, TokenShards
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.engine.vocabulary import extends
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress


@dataclass(frozen=True)
class Prepared:
    """Shard folders by source name, and the tokenizer all of them were made with."""

    tokenizer: Tokenizer
    folders: dict[str, Path]

    def split(self, name: str, split: str) -> TokenShards:
        """One source's train or val split."""
        return TokenShards.open(self.folders[name], split)

    def splits(self, split: str) -> list[TokenShards]:
        """Every source's train or val split."""
        return [self.split(name, split) for name in self.folders]

    def fingerprints(self) -> dict[str, str]:
        """What each source holds, for the run's lock."""
        return fingerprints(self.folders)

    def stamps(self) -> dict[str, dict[str, list[int]]]:
        """Size and time of change of each source's files, for the run's lock."""
        return {name: ShardIndex.read(folder).stamps(folder) for name, folder in self.folders.items()}

    def altered(self, stamps: Mapping[str, Any]) -> list[Path]:
        """Files that are not what their index recorded, looked for where their stamps are not the given ones."""
        return [
            path
            for name, folder in self.folders.items()
            for path in ShardIndex.read(folder).altered(folder, _object(stamps.get(name)))
        ]

    def moved(self, before: Path, now: Path) -> Self:
        """The same after the folder ``before`` was renamed to ``now``."""
        places = {
            name: now / folder.relative_to(before) if folder.is_relative_to(before) else folder
            for name, folder in self.folders.items()
        }
        return replace(self, folders=places)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def fingerprints(folders: Mapping[str, Path]) -> dict[str, str]:
    """What each folder of shards holds."""
    return {name: ShardIndex.read(folder).fingerprint() for name, folder in folders.items()}


def find_shards(path: Path, kinds: tuple[Kind, ...]) -> Path | None:
    """The folder of finished shards at or below ``path``, of the first of ``kinds`` that is there."""
    for kind in kinds:
        for folder in (path, path / kind, path / "shards" / kind):
            if (folder / "index.json").is_file() and ShardIndex.read(folder).kind == kind:
                return folder
    return None


def prepare(
    paths: Mapping[str, Path],
    kinds: tuple[Kind, ...],
    *,
    formats: Mapping[str, FormatName | None],
    val: float,
    section: TokenizerSection | None,
    model_folder: Path | None,
    made: Path,
    progress: Progress,
) -> Prepared:
    """Shards of every path; rows are tokenized into folders of their source's name below ``made`` first.

    Args:
        formats: what the recipe says their rows are, by source.
        section: the recipe's tokenizer.
        model_folder: where the starting checkpoint keeps its tokenizer, None for fresh models.

    Raises:
        CirillaError: a path is missing or holds nothing of these kinds, or tokenizers disagree.
    """
    found = finished(paths, kinds)
    chosen = tokenizer_folder(section, model_folder, found, progress)
    folders: dict[str, Path] = {}
    for name, path in paths.items():
        folder = found.get(name)
        if folder is None:
            tokenize(_how(path, formats.get(name), chosen, section, val), made / name, progress)
            folder, chosen = find_shards(made / name, kinds), chosen or made / name / "tokenizer"
            if folder is None:
                raise nothing_of(kinds, path)
        folders[name] = folder
    if chosen is None:
        raise no_tokenizer(next(iter(found.values())))
    return opened(folders, chosen)


def finished(paths: Mapping[str, Path], kinds: tuple[Kind, ...]) -> dict[str, Path]:
    """The folders of finished shards among the sources, by name."""
    found = {name: find_shards(path, kinds) for name, path in paths.items() if path.is_dir()}
    return {name: folder for name, folder in found.items() if folder is not None}


def tokenizer_folder(
    section: TokenizerSection | None, model_folder: Path | None, found: Mapping[str, Path], progress: Progress
) -> Path | None:
    """Where the tokenizer lies: the model's, the one the recipe names, that of finished shards; None: none yet.

    Shards that were made with an extension of the model's give theirs: the model grows to it.
    """
    besides = [place for place in map(_beside, found.values()) if place is not None]
    if model_folder is not None:
        own = load_tokenizer(model_folder)
        return next((place for place in besides if extends(load_tokenizer(place), own)), model_folder)
    if isinstance(section, LoadTokenizerConfig):
        return section.path
    beside = next(iter(besides), None)
    if beside is not None and section is not None:
        progress.say(
            f"tokenizer: {beside}, which the token shards were made with; `tokenizer` of the recipe is not used"
        )
    return beside


def opened(folders: dict[str, Path], chosen: Path) -> Prepared:
    """Finished shards with their tokenizer.

    Raises:
        CirillaError: they were made with another one.
    """
    prepared = Prepared(load_tokenizer(chosen), folders)
    _agree(prepared, chosen)
    return prepared


def nothing_of(kinds: tuple[Kind, ...], path: Path) -> CirillaError:
    """The error for a path whose rows are of other kinds."""
    return CirillaError(f"{path}: holds nothing that can be read as {' or '.join(kinds)}", hint=_HINTS[kinds[0]])


def no_tokenizer(folder: Path) -> CirillaError:
    """The error for shards whose tokenizer is nowhere to be found."""
    return CirillaError(
        f"{folder}: there is no tokenizer beside these shards",
        hint="tokenizer.kind=load tokenizer.path=... names the one they were made with",
    )


_HINTS = {
    "text": "pretraining wants documents: `cirilla scrape`, or a folder of .txt files",
    "chat": "fine-tuning wants conversations: `cirilla synth`, or rows with `messages`",
    "preference": "alignment wants pairs: rows of kind preference, or with prompt, chosen and rejected",
}


def _how(
    path: Path, format: FormatName | None, chosen: Path | None, section: TokenizerSection | None, val: float
) -> TokenizeConfig:
    if chosen is not None:
        return TokenizeConfig(inputs=(path,), format=format, tokenizer=LoadTokenizerConfig(path=chosen), val=val)
    if section is not None:
        return TokenizeConfig(inputs=(path,), format=format, tokenizer=section, val=val)
    raise untokenized(path)


def untokenized(path: Path) -> CirillaError:
    """The error for rows, or a path that is not there, where nothing says how to tokenize them."""
    if not path.exists():
        return CirillaError(f"{path}: no such file or folder")
    return CirillaError(
        f"{path}: rows must be tokenized, and the recipe names no tokenizer",
        hint="set `tokenizer: {kind: sentencepiece, vocab_size: 8192}`, or name the output of `cirilla tokenize`",
    )


def _beside(folder: Path) -> Path | None:
    """The tokenizer that `cirilla tokenize` left next to a folder of shards."""
    places = (folder, folder.parent / "tokenizer", folder.parent.parent / "tokenizer")
    return next((p for p in places if (p / "tokenizer.model").is_file() or (p / "tokenizer.json").is_file()), None)


def _agree(prepared: Prepared, chosen: Path) -> None:
    for folder in prepared.folders.values():
        if ShardIndex.read(folder).tokenizer_hash != prepared.tokenizer.hash:
            raise CirillaError(
                f"{folder}: these shards were made with another tokenizer than {chosen}",
                hint="tokenize the data again with the model's tokenizer: tokenizer.kind=load tokenizer.path=...; "
                "for another vocabulary extend it: tokenizer.kind=extended tokenizer.base=...",
            )
