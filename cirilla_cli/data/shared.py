"""Tokenizing on many machines: a part encodes its share of the token shards with a tokenizer that exists."""

from pathlib import Path

from cirilla_cli.data.config import LoadTokenizerConfig, TokenizeConfig
from cirilla_cli.data.merging import merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, make_part
from cirilla_cli.data.run import TokenizeReport, encode_inputs, tokenize
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress


def tokenize_share(
    config: TokenizeConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False
) -> PartReport:
    """Encode one share of the token shards; ``fresh`` does it anew.

    Raises:
        CirillaError: no inputs, rows that are not understood, or a tokenizer that is still to be trained.
    """
    made_from = _made_from(config)

    def work(part: Part) -> None:
        encode_inputs(config, config.inputs, part.folder, progress, part)

    return make_part(out, share, made_from, progress, work, fresh=fresh)


def tokenize_merge(config: TokenizeConfig, out: Path, progress: Progress) -> TokenizeReport:
    """Put the token shards of all parts together, as `tokenize` makes them.

    Raises:
        CirillaError: parts are missing, or are not of this.
    """
    with merging(out, _made_from(config), progress) as parts:
        return tokenize(config, out, progress, parts)


def _made_from(config: TokenizeConfig) -> MadeFrom:
    if not config.inputs:
        raise CirillaError("nothing to tokenize", hint="name files or folders: cirilla tokenize documents.jsonl")
    if not isinstance(config.tokenizer, LoadTokenizerConfig):
        raise CirillaError(
            f"`tokenize.tokenizer.kind` is {config.tokenizer.kind!r}: training a tokenizer cannot be shared out",
            hint="train it once (cirilla tokenize SAMPLE --out tok), then in all parts "
            "tokenize.tokenizer.kind=load tokenize.tokenizer.path=tok/tokenizer",
        )
    # More processes on one machine than on another make no difference to what is made.
    recipe = config.model_dump(mode="json", exclude={"workers"})
    return MadeFrom.of("tokenize", recipe, [*config.inputs, *config.tokenizer_inputs, config.tokenizer.path])
