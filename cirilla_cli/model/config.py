"""Sections that describe a model: mixers, whole models; torch-free, so that recipes are checked in milliseconds."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, Misfits, Section
from cirilla_cli.model.mixers.config import AttentionConfig, MixerSection
from cirilla_cli.model.sections import (
    Count,
    MLPSection,
    MoEConfig,
    NormSection,
    RMSNormConfig,
)
from cirilla_cli.units import Bytes, PartialShare, PositiveCount, Seconds

if TYPE_CHECKING:
    from cirilla_cli.model.classifier import Classifier
    from cirilla_cli.model.decoder import Decoder
    from cirilla_cli.model.encoder import Encoder
    from cirilla_cli.model.mtp import ChainedMTP, ParallelMTP


class LearnedPositionsConfig(Section):
    """A learned vector for each position, added to the embedding, as in GPT-2 and BERT (arXiv:1810.04805)."""

    kind: Literal["learned"] = "learned"


Pooling = Literal["mean", "first", "last"]
"""How a document's hidden states become one: their mean, the first token's, or the last token's."""


class StackConfig(Section):
    """Blocks and what is around them: what decoders and encoders share."""

    vocab_size: PositiveCount | None = None
    """Rows of the embedding; null takes the tokenizer's."""
    d_model: PositiveInt
    """Width of the residual stream."""
    n_layers: PositiveInt
    """Blocks."""
    context_length: PositiveCount
    """Longest sequence trained on, and the length of a packed row."""
    mixers: dict[str, MixerSection]
    """Sequence mixers by a letter each, such as {A: {kind: attention, n_heads: 8}}."""
    pattern: str = "A"
    """The mixer of each layer, repeated to n_layers: "A" is all the same, "LLLA" three local ones to a global one."""
    mlp: MLPSection
    """Feed-forward of every block."""
    norm: NormSection = RMSNormConfig()
    """Normalisation of each mixer's and feed-forward's input or output, and of the head's input."""
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    """Where blocks normalise: before each branch, after each addition, or around each branch."""
    positions: LearnedPositionsConfig | None = None
    """Positions added to the embedding; null where mixers see the order themselves."""
    embedding_norm: bool = False
    """Normalise the embedding, in place of the first block's norm before its mixer, as ModernBERT does."""
    embedding_scale: PositiveFloat = 1.0
    """What embeddings are multiplied with."""
    residual_scale: PositiveFloat = 1.0
    """What each branch is multiplied with before it is added."""
    tie_embeddings: bool = True
    """Use the embedding as the head: saves vocab_size * d_model parameters, right for small models."""
    dropout: PartialShare = 0.0
    """Share of the residual branches' outputs dropped in training; helps where a small corpus is seen many times."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of fresh weights; those that write to the residual stream get 1/sqrt(2 n_layers) of it."""

    @model_validator(mode="after")
    def _pattern_known(self) -> Self:
        for letter in self.pattern:
            if letter not in self.mixers:
                raise ValueError(f"pattern names {letter!r}, but mixers has {', '.join(self.mixers) or 'none'}")
        if not self.pattern:
            raise ValueError("pattern is empty; name a mixer for at least one layer")
        for letter, mixer in self.mixers.items():
            if problem := mixer.misfit(self.d_model):
                raise ValueError(f"mixers.{letter}: {problem}")
        Misfits.refuse(self._without_effect())
        return self

    def _without_effect(self) -> dict[str, str]:
        """What is given and no layer has, by key."""
        found = {
            f"mixers.{name}": f"stands in no layer: pattern is {self.pattern!r}"
            for name in self.mixers
            if name not in set(self.pattern)
        }
        if isinstance(self.mlp, MoEConfig) and self.mlp.dense_layers >= self.n_layers:
            found["mlp.dense_layers"] = (
                f"is {self.mlp.dense_layers}, must be less than n_layers ({self.n_layers}), or no layer has experts"
            )
        return found

    def layer_mixers(self) -> list[MixerSection]:
        """The mixer of each layer, first to last."""
        return [self.mixers[self.pattern[i % len(self.pattern)]] for i in range(self.n_layers)]

    def layer_mlps(self) -> list[MLPSection]:
        """The feed-forward of each layer, first to last."""
        if not (isinstance(self.mlp, MoEConfig) and self.mlp.dense):
            return [self.mlp] * self.n_layers
        dense: MLPSection = self.mlp.dense
        return [dense if i < self.mlp.dense_layers else self.mlp for i in range(self.n_layers)]

    def head_count(self) -> Count:
        """What is held beside blocks, embedding, final norm and the head's own matrix."""
        return Count.dense(0)

    def mean_context(self, length: int) -> float:
        """Keys that a token sees on average in a row of ``length``, where nothing but its mixer's window bounds it."""
        return length / 2

    def changed(self, **changes: Any) -> Self:
        """The same with other values of some fields."""
        return self.model_copy(update=changes)


class _MTPConfig(Section):
    depth: PositiveInt = 1
    """How many tokens beyond the next are predicted, each by a block of its own."""


class ChainedMTPConfig(_MTPConfig):
    """Multi-token prediction step by step, each given the token before (DeepSeek-V3, arXiv:2412.19437, section 2.2)."""

    kind: Literal["chained"] = "chained"

    def parameters(self, config: "DecoderConfig", block: Count) -> int:
        """Numbers stored: blocks, their joining matrices, three norms each."""
        own = 2 * config.d_model**2 + 3 * config.norm.parameters(config.d_model)
        return self.depth * (block.parameters + own)

    def products(self, config: "DecoderConfig", block: Count) -> int:
        """Weights one token is multiplied with in training, the head's for each step included."""
        return self.depth * (block.products + 2 * config.d_model**2 + (config.vocab_size or 0) * config.d_model)

    def build(self, config: "DecoderConfig") -> "ChainedMTP":
        """The steps of a decoder."""

        from cirilla_cli.model.mtp import ChainedMTP

        return ChainedMTP(self, config)


class ParallelMTPConfig(_MTPConfig):
    """Multi-token prediction by independent blocks on the trunk (arXiv:2404.19737, section 2)."""

    kind: Literal["parallel"] = "parallel"

    def parameters(self, config: "DecoderConfig", block: Count) -> int:
        """Numbers stored: blocks and a norm each."""
        return self.depth * (block.parameters + config.norm.parameters(config.d_model))

    def products(self, config: "DecoderConfig", block: Count) -> int:
        """Weights one token is multiplied with in training, the head's for each step included."""
        return self.depth * (block.products + (config.vocab_size or 0) * config.d_model)

    def build(self, config: "DecoderConfig") -> "ParallelMTP":
        """The steps of a decoder."""

        from cirilla_cli.model.mtp import ParallelMTP

        return ParallelMTP(self, config)


MTPSection = Annotated[ChainedMTPConfig | ParallelMTPConfig, ByKind()]


class DecoderConfig(StackConfig):
    """A causal language model: embeddings, a pattern of blocks, a norm and a head."""

    kind: Literal["decoder"] = "decoder"
    logit_scale: PositiveFloat = 1.0
    """What logits are multiplied with."""
    mtp: MTPSection | None = None
    """Blocks that predict further tokens: a denser lesson in training, drafts in generation; null for none."""

    @model_validator(mode="after")
    def _steps_within_rows(self) -> Self:
        if self.mtp is not None and self.mtp.depth >= self.context_length:
            said = f"is {self.mtp.depth}, must be less than context_length ({self.context_length})"
            raise Misfits({"mtp.depth": said})
        return self

    def build(self) -> "Decoder":
        """The decoder; its weights are drawn by `init.fresh` or loaded, until then they may be anything."""

        from cirilla_cli.model.decoder import Decoder

        return Decoder(self)


class EncoderConfig(StackConfig):
    """A bidirectional encoder with a masked-language-model head, such as BERT and ModernBERT."""

    kind: Literal["encoder"] = "encoder"
    registers: NonNegativeInt = 0
    """Learned vectors put before each document and dropped from the output: room for what belongs to no token."""
    head_bias: bool = False
    """Whether the matrix of the prediction head has a bias; BERT's has, ModernBERT's has not."""
    decoder_bias: bool = True
    """Whether each piece of the vocabulary has a bias of its own."""

    @model_validator(mode="after")
    def _looks_both_ways(self) -> Self:
        for letter in dict.fromkeys(self.pattern):
            mixer = self.mixers[letter]
            if not isinstance(mixer, AttentionConfig) or mixer.causal:
                raise ValueError(f"mixers.{letter} sees earlier positions only; an encoder wants causal: false")
        return self

    def head_count(self) -> Count:
        """The prediction head and the registers; the vocabulary's bias is added, not multiplied."""
        D, V = self.d_model, self.vocab_size or 0
        vectors = self.norm.parameters(D) + D * self.head_bias + V * self.decoder_bias + D * self.registers
        return Count.dense(D * D, vectors)

    def mean_context(self, length: int) -> float:
        """Keys that a token sees on average in a row of ``length``: all of them."""
        return length

    def build(self) -> "Encoder":
        """The encoder; its weights are drawn by `init.fresh` or loaded, until then they may be anything."""

        from cirilla_cli.model.encoder import Encoder

        return Encoder(self)


class ClassifierConfig(Section):
    """A decoder or encoder whose documents are told apart: what fine-tuning on labelled text makes of a model."""

    kind: Literal["classifier"] = "classifier"
    base: Annotated[DecoderConfig | EncoderConfig, ByKind()]
    """The model that reads."""
    labels: Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
    """Names of the classes, in the order of the logits."""
    pooling: Pooling
    """Which hidden states of a document are judged."""

    @property
    def context_length(self) -> int:
        """Longest sequence trained on."""
        return self.base.context_length

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding."""
        return self.base.vocab_size

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return self.base.n_layers

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh weights."""
        return self.base.init_std

    def mean_context(self, length: int) -> float:
        """Keys that a token sees on average in a row of ``length``."""
        return self.base.mean_context(length)

    def changed(self, **changes: Any) -> Self:
        """The same with other values of some fields of what it reads with."""
        return self.model_copy(update={"base": self.base.changed(**changes)})

    def build(self) -> "Classifier":
        """The classifier; its weights are drawn by `init.fresh` or loaded, until then they may be anything."""

        from cirilla_cli.model.classifier import Classifier

        return Classifier(self)


class DialConfig(Section):
    """A decoder from one number: width, heads, batch and learning rate follow from its depth, each with its source."""

    kind: Literal["dial"] = "dial"
    depth: PositiveInt
    """Blocks; the model is 64 times as wide. 4 is a toy of 3M weights, 12 the shape of the smallest GPT-2."""
    context_length: PositiveCount = 2048
    """Longest sequence trained on, and the length of a packed row."""
    vocab_size: PositiveCount | None = None
    """Rows of the embedding; null takes the tokenizer's."""
    dropout: PartialShare = 0.0
    """Share of the residual branches' outputs dropped in training."""

    def build(self) -> "Decoder":
        """The decoder at this setting, its weights not yet drawn."""

        from cirilla_cli.model.dial import decoder_of

        return decoder_of(self).build()


class BudgetConfig(Section):
    """A run from what there is: the deepest setting of the dial that fits, its length, batch and learning rate."""

    memory: Bytes | None = None
    """Of the device; half of it is for weights, gradients and optimizer. `cirilla plan --device` says if all fits."""
    time: Seconds | None = None
    """For training; wants `rate`."""
    rate: PositiveFloat | None = None
    """Floating-point operations a second that training reaches on the device; `cirilla plan` measures it."""
    tokens: PositiveCount | None = None
    """Of the corpus; they are read four times at most (arXiv:2305.16264)."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.memory is None and self.time is None and self.tokens is None:
            raise ValueError("give at least one of memory, time and tokens")
        if (self.time is None) != (self.rate is None):
            raise ValueError("time and rate go together: how long, and how fast the device is; `cirilla plan` measures")
        if self.time is not None and self.rate is not None and self.time * self.rate > 1e30:
            raise ValueError(f"time by rate is {self.time * self.rate:.3g} FLOPs, must be at most 1e30")
        return self


class CheckpointConfig(Section):
    """Start from weights that exist: a run, a checkpoint, a Hugging Face folder or a Hub name."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """Run directory, checkpoint, pushed or downloaded Hugging Face folder, or OWNER/NAME on the Hub."""
    context_length: PositiveCount | None = None
    """Row length to train with; null keeps the checkpoint's."""
    dropout: PartialShare = 0.0
    """Dropout while training; checkpoints are stored without."""


ModelSection = Annotated[DecoderConfig | EncoderConfig | DialConfig | CheckpointConfig, ByKind()]

ShapeSection = Annotated[DecoderConfig | EncoderConfig | ClassifierConfig, ByKind()]
"""What a checkpoint holds: a model with every choice made."""

ResolvedModel = DecoderConfig | EncoderConfig | CheckpointConfig
"""What can stand there once a dial has been resolved, as reading a recipe does."""
