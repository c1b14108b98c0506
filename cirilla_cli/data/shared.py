"""Tokenizing on many machines: a part encodes its share of the token shards with a tokenizer that exists."""

from pathlib import Path
from typing import Any

from cirilla_cli.data.config import LoadTokenizerConfig, TokenizeConfig
from cirilla_cli.data.merging import Parts, merging
from cirilla_cli.data.parts import ALONE, MadeFrom, Part, PartReport, Share, make_part
from cirilla_cli.data.run import TokenizeReport, encode_inputs, finished, opened
from cirilla_cli.data.shard_cache import link
from cirilla_cli.data.shards import ShardInfo
from cirilla_cli.data.splits import LEFT_OUT
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_object, write_json
from cirilla_cli.progress import Progress

_ALL = "shards.json"
"""Says of all shards, of this part and of the others, what the merge would have to read all rows for."""


def tokenize_share(
    config: TokenizeConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False
) -> PartReport:
    """Encode one share of the token shards; ``fresh`` does it anew.

    Raises:
        CirillaError: no inputs, rows that are not understood, or a tokenizer that is still to be trained.
    """

    def work(part: Part) -> None:
        shards = encode_inputs(config, config.inputs, part.folder, progress, part)
        said = {"rows": shards.rows, "left_out": shards.left_out.rows, "licenses": shards.licenses}
        write_json(part.folder / _ALL, {**said, "shards": shards.keys})

    return make_part(out, share, _made_from(config), progress, work, fresh=fresh)


def tokenize_merge(config: TokenizeConfig, out: Path, progress: Progress) -> TokenizeReport:
    """Put the token shards of all parts together, as `tokenize` makes them; the rows are not read again.

    Raises:
        CirillaError: parts are missing, or are not of this.
    """
    with merging(out, _made_from(config), progress) as parts:
        told = _all_shards(parts)
        shards = opened(config, config.inputs, out, progress, ALONE)
        shards.rows, shards.licenses, shards.left_out.rows = told["rows"], told["licenses"], told["left_out"]
        if shards.left_out.rows:
            shards.left_out.path.parent.mkdir(parents=True, exist_ok=True)
            link(parts.folders()[0] / "shards" / LEFT_OUT, shards.left_out.path)
        for key in told["shards"]:
            kind, name = key.split("/")
            info = bring_shard(parts.done_in(key) / "shards" / kind, out / "shards" / kind, name)
            shards.done.setdefault(kind, {}).setdefault(name.split("-")[0], []).append(info)
        return finished(config, config.inputs, shards, out)


def _all_shards(parts: Parts) -> dict[str, Any]:
    """What every part says of all shards, having read all rows.

    Raises:
        CirillaError: they do not say the same, or the part that a shard belongs to does not hold it.
    """
    told = [read_object(folder / _ALL) for folder in parts.folders()]
    first = told[0]
    keys = [str(key) for key in first["shards"]]
    wrong = [str(folder) for folder, other in zip(parts.folders(), told, strict=True) if other != first]
    missing = [f"{parts.done_in(key)} without {key}" for key in keys if not _marker(parts.done_in(key), key).is_file()]
    if wrong or missing:
        said = "; ".join([*(f"{folder} names other shards than the first part" for folder in wrong), *missing])
        raise CirillaError(f"these parts are not of one array: {said}", hint="remove the parts, and make them again")
    return first


def _marker(part: Path, key: str) -> Path:
    return part / "shards" / f"{key}.json"


def bring_shard(source: Path, folder: Path, name: str) -> ShardInfo:
    """Put a finished shard's files into ``folder`` too, its marker last; without copies, where the system can."""
    marker = source / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob(f"{name}.*"), key=lambda path: path == marker):
        link(file, folder / file.name)
    return ShardInfo(**read_object(marker)["info"])


def _made_from(config: TokenizeConfig) -> MadeFrom:
    if not config.inputs:
        raise CirillaError("nothing to tokenize", hint="name files or folders: cirilla tokenize documents.jsonl")
    if not isinstance(config.tokenizer, LoadTokenizerConfig):
        raise CirillaError(
            f"`tokenize.tokenizer.kind` is {config.tokenizer.kind!r}: training a tokenizer cannot be shared out, as "
            "every piece follows from counts over all texts it learns from",
            hint="train it once on one machine (cirilla tokenize SAMPLE --out tok), then in all parts "
            "tokenize.tokenizer.kind=load tokenize.tokenizer.path=tok/tokenizer",
        )
    # More processes on one machine than on another, or shards of others, make no difference to what is made.
    recipe = config.model_dump(mode="json", exclude={"workers", "cache"})
    return MadeFrom.of("tokenize", recipe, [*config.inputs, *config.tokenizer_inputs, config.tokenizer.path])
