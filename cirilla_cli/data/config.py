"""Sections for tokenizers, tokenizing and the data of a training run; torch-free."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, FilePath, Misfits, Paths, Section, Texts
from cirilla_cli.units import Count, Fraction, InnerShare, PositiveCount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cirilla_cli.data.tokenizer import Tokenizer


class SentencePieceConfig(Section):
    """Train a sentencepiece byte-pair tokenizer that loses nothing: byte fallback, no normalisation."""

    kind: Literal["sentencepiece"] = "sentencepiece"
    vocab_size: PositiveCount = 8192
    """Pieces wanted; a tiny corpus may not hold that many, the number reached is reported."""
    sample_bytes: PositiveCount = 100_000_000
    """Most characters used for training, from the first inputs on."""

    def build(self, texts: "Iterable[str]") -> "Tokenizer":
        """The tokenizer, trained on ``texts``."""

        from cirilla_cli.data.sentencepiece import train

        return train(self, texts)


class LoadTokenizerConfig(Section):
    """Use a tokenizer that exists."""

    kind: Literal["load"] = "load"
    path: FilePath
    """Folder of a tokenizer, a checkpoint, or an imported model with its tokenizer.json; or a sentencepiece model."""

    def build(self, texts: "Iterable[str]") -> "Tokenizer":
        """The tokenizer in the folder; ``texts`` are not read."""

        from cirilla_cli.data.tokenizer import load_tokenizer

        return load_tokenizer(self.path)


class ExtendedTokenizerConfig(Section):
    """A tokenizer that exists, with pieces for the words of these texts; its own ids stay (continued byte pairs)."""

    kind: Literal["extended"] = "extended"
    base: FilePath
    """Folder of the tokenizer that is extended: of ours, a checkpoint, or an imported model with its tokenizer.json."""
    pieces: Annotated[Count, Field(ge=0)] = 1024
    """Pieces to be found: those that save most tokens, a tenth of the texts aside, on which that is measured."""
    tokens: Texts = ()
    """Words without digits that shall be one token each, also behind a space; what they are joined from takes further
    pieces."""

    @model_validator(mode="after")
    def _adds(self) -> Self:
        if not self.pieces and not self.tokens:
            raise Misfits({"pieces": "is 0 and tokens is empty: nothing would be added"})
        if odd := [token for token in self.tokens if not token or token != token.strip()]:
            raise Misfits({"tokens": f"holds {odd[0]!r}, must be words without a space before or behind them"})
        if joined := [token for token in self.tokens if re.search(r"\d", token)]:
            # Its digits would be joined in every number that holds them.
            raise Misfits({"tokens": f"holds {joined[0]!r}, must be words without digits, which stay single pieces"})
        return self

    def build(self, texts: "Iterable[str]") -> "Tokenizer":
        """The tokenizer in the folder, extended."""

        from cirilla_cli.data.extension import extend
        from cirilla_cli.data.tokenizer import load_tokenizer

        return extend(self, load_tokenizer(self.base), texts)


FormatName = Literal[
    "data-type", "messages", "preference", "completions", "alpaca", "dolly", "prompt-completion", "question-answer",
    "text", "rows", "conversation", "lines", "summaries",
]  # fmt: skip
"""What rows may be said to be, where it cannot be seen in them; docs/formats.md says what each is."""

TokenizerSection = Annotated[SentencePieceConfig | LoadTokenizerConfig | ExtendedTokenizerConfig, ByKind()]


def folders_of(section: TokenizerSection) -> list[Path]:
    """What a tokenizer is made from besides texts."""
    return [value for value in dict(section).values() if isinstance(value, Path)]


class TokenizeConfig(Section):
    """What `cirilla tokenize` does: a tokenizer, trained or loaded, and token shards of the inputs."""

    inputs: Paths = ()
    """Files of documents or samples (.jsonl), text files, or folders of them; on the command line as positionals."""
    format: FormatName | None = None
    """What the rows are, where that cannot be seen in them (docs/formats.md); null: it is found out."""
    tokenizer_inputs: Paths = ()
    """Further text that only the tokenizer is trained on, such as the samples a model will be tuned on later."""
    tokenizer: TokenizerSection = SentencePieceConfig()
    """Train one, load one, or extend one."""
    val: Fraction = 0.0
    """Share of split keys (pages, generators) held out as `val`, by hash; what names such a page is not trained on."""
    shard_tokens: PositiveCount = 16_777_216
    """Most tokens in one shard file."""
    workers: PositiveInt = 1
    """Processes that encode in parallel."""
    cache: FilePath | None = None
    """A folder of finished shards that runs share, so that none is encoded twice; null: a run has its own alone."""


class TextSourceConfig(Section):
    """One source of running text in a mixture."""

    path: FilePath
    """Output of `cirilla tokenize`, or documents to be tokenized first (.jsonl, .txt or a folder)."""
    format: FormatName | None = None
    """What the rows are, where that cannot be seen in them (docs/formats.md); null: it is found out."""
    weight: NonNegativeFloat = 1.0
    """Share of the rows this source gives, relative to the others."""
    decay_weight: NonNegativeFloat | None = None
    """Its share while the learning rate decays (schedule kind wsd); null keeps `weight`."""


class _TextConfig(Section):
    sources: dict[str, TextSourceConfig]
    """Where the text comes from; one or several by name."""
    val: Fraction = 0.02
    """Share of documents held out for validation where this run tokenizes rows; finished shards keep their split."""


class PackedTextConfig(_TextConfig):
    """Running text in rows of the context length, documents isolated from one another."""

    kind: Literal["packed_text"] = "packed_text"


class MaskedTextConfig(_TextConfig):
    """Running text in which an encoder has to restore tokens that were changed (arXiv:1810.04805, section 3.1)."""

    kind: Literal["masked_text"] = "masked_text"
    share: InnerShare = 0.3
    """Tokens to be restored; BERT's 15% or ModernBERT's 30%."""
    as_mask: Fraction = 1.0
    """Of those, the share that is replaced by the mask token; BERT's 80%."""
    as_random: Fraction = 0.0
    """Of those, the share that is replaced by a random token, BERT's 10%; what is left of them stays as it was."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if not self.as_mask + self.as_random:
            raise ValueError("as_mask and as_random are 0: nothing is hidden or changed, and so to be restored")
        if self.as_mask + self.as_random > 1:
            raise ValueError(f"as_mask ({self.as_mask}) and as_random ({self.as_random}) are more than all together")
        return self


class ConversationsConfig(Section):
    """Chats and tasks; the assistant's turns are trained on, all of them."""

    kind: Literal["conversations"] = "conversations"
    path: Paths
    """Samples (.jsonl) or shards made from them; several are mixed by their size."""
    format: FormatName | None = None
    """What the rows are, where that cannot be seen in them (docs/formats.md); null: it is found out."""
    val: Fraction = 0.02
    """Share of split keys held out for validation where this run tokenizes rows; finished shards keep their split."""


class PreferencesConfig(Section):
    """Pairs of a better and a worse answer to one prompt."""

    kind: Literal["preferences"] = "preferences"
    path: Paths
    """Samples (.jsonl) that hold preferences, or shards made from them."""
    format: FormatName | None = None
    """What the rows are, where that cannot be seen in them (docs/formats.md); null: it is found out."""
    val: Fraction = 0.1
    """Share of split keys held out, on which the margin before and after is reported."""


class LabelledTextConfig(Section):
    """Texts and their labels, for a classifier."""

    kind: Literal["labelled_text"] = "labelled_text"
    path: Paths
    """Rows (.jsonl) of `text` and `label`; several files are read as one."""
    val: Fraction = 0.1
    """Share of texts held out, on which accuracy is reported."""

    @model_validator(mode="after")
    def _read_twice(self) -> Self:
        if any(str(path) == "-" for path in self.path):
            raise Misfits({"path": "is -, must be a file: rows with labels are read more than once"})
        return self


DataSection = Annotated[
    PackedTextConfig | MaskedTextConfig | ConversationsConfig | LabelledTextConfig | PreferencesConfig,
    ByKind(),
]
