"""The token shards a run reads: found where they are finished, made where the recipe names rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig, TokenizerSection
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shards import Kind, ShardIndex, TokenShards
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_file
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
        return {name: hash_file(folder / "index.json") for name, folder in self.folders.items()}


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
    val: float,
    section: TokenizerSection | None,
    model_folder: Path | None,
    out: Path,
    progress: Progress,
) -> Prepared:
    """Shards of every path; rows are tokenized into ``out/shards`` first.

    Args:
        section: the recipe's tokenizer.
        model_folder: where the starting checkpoint keeps its tokenizer, None for fresh models.

    Raises:
        CirillaError: a path is missing or holds nothing of these kinds, or tokenizers disagree.
    """
    folders: dict[str, Path] = {}
    chosen = _given_tokenizer(section, model_folder)
    for name, path in paths.items():
        found = find_shards(path, kinds) if path.is_dir() else None
        if found is None:
            made = out / "shards" / name
            tokenize(_how(path, chosen, section, val), made, progress)
            found, chosen = find_shards(made, kinds), chosen or made / "tokenizer"
            if found is None:
                raise CirillaError(
                    f"{path}: holds nothing that can be read as {' or '.join(kinds)}", hint=_HINTS[kinds[0]]
                )
        folders[name], chosen = found, chosen or _beside(found)
    if chosen is None:
        raise CirillaError("the recipe names no data")
    prepared = Prepared(load_tokenizer(chosen), folders)
    _agree(prepared, chosen)
    return prepared


_HINTS = {
    "text": "pretraining wants documents: `cirilla scrape`, or a folder of .txt files",
    "chat": "fine-tuning wants conversations: `cirilla synth`, or rows with `messages`",
    "preference": "alignment wants pairs: rows of kind preference, or with prompt, chosen and rejected",
}


def _given_tokenizer(section: TokenizerSection | None, model_folder: Path | None) -> Path | None:
    if model_folder is not None and section is not None:
        raise CirillaError(
            "`tokenizer` is given, but the model is a checkpoint that has its own",
            hint="write `tokenizer: null`, or train a fresh model",
        )
    if isinstance(section, LoadTokenizerConfig):
        return section.path
    return model_folder


def _how(path: Path, chosen: Path | None, section: TokenizerSection | None, val: float) -> TokenizeConfig:
    if chosen is not None:
        return TokenizeConfig(inputs=(path,), tokenizer=LoadTokenizerConfig(path=chosen), val=val)
    if isinstance(section, SentencePieceConfig):
        return TokenizeConfig(inputs=(path,), tokenizer=section, val=val)
    if not path.exists():
        raise CirillaError(f"{path}: no such file or folder")
    raise CirillaError(
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
                hint="tokenize the data again with the model's tokenizer: tokenizer.kind=load tokenizer.path=...",
            )
