"""Sections that describe a model: mixers, whole models; torch-free, so that recipes are checked in milliseconds."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import Section
from cirilla_cli.model.sections import (
    Count,
    MLPSection,
    NormSection,
    RMSNormConfig,
    RopeConfig,
    RopeSection,
)
from cirilla_cli.units import Fraction, PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.model.decoder import Decoder
    from cirilla_cli.model.mixers.attention import Attention


class AttentionConfig(Section):
    """Grouped-query attention: one key/value head for each query head is multi-head, one for all multi-query."""

    kind: Literal["attention"] = "attention"
    n_heads: PositiveInt
    """Query heads."""
    n_kv_heads: PositiveInt | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null for as many as query heads."""
    head_dim: PositiveInt | None = None
    """Width of one head; null for d_model / n_heads. n_heads * head_dim need not equal d_model."""
    window: PositiveInt | None = None
    """Positions a query sees, itself included; null for all of them."""
    rope: RopeSection | None = RopeConfig()
    """Rotary positions; null for none, as in layers that see the order by other means."""
    qk_norm: bool = False
    """Normalise queries and keys per head before rotation, as Qwen3 does; steadies training at high learning rates."""
    bias: bool = False
    """Whether the query, key and value matrices have biases."""
    out_bias: bool = False
    """Whether the output matrix has a bias."""
    scale: PositiveFloat | None = None
    """What scores are multiplied with; null for 1 / sqrt(head_dim)."""
    softcap: PositiveFloat | None = None
    """Scores are bounded by softcap * tanh(score / softcap), as in Gemma 2; null leaves them."""
    causal: bool = True
    """Whether a query sees only earlier positions; false in encoders, where a window reaches to both sides."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.kv_heads})")
        if self.head_dim is not None and self.head_dim % 2 and self.rope is not None:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, rotary positions turn pairs")
        return self

    @property
    def module_name(self) -> str:
        """What the mixer is called in its block."""
        return "self_attn"

    @property
    def kv_heads(self) -> int:
        """Key/value heads, the default resolved."""
        return self.n_kv_heads or self.n_heads

    def width(self, d_model: int) -> int:
        """Width of one head, the default resolved."""
        return self.head_dim or d_model // self.n_heads

    def misfit(self, d_model: int) -> str | None:
        """Why this mixer cannot stand in a model ``d_model`` wide; None if it can."""
        if self.head_dim is None and (d_model % self.n_heads or (self.rope and self.width(d_model) % 2)):
            return f"d_model ({d_model}) over n_heads ({self.n_heads}) must be a whole, even number; set head_dim"
        return None

    def count(self, d_model: int, norm: NormSection) -> Count:
        """Four matrices, their biases, and the norms of queries and keys."""
        H, N, K = self.width(d_model), self.n_heads, self.kv_heads
        vectors = H * (N + 2 * K) * self.bias + d_model * self.out_bias + 2 * norm.parameters(H) * self.qk_norm
        return Count.dense(2 * d_model * H * (N + K), vectors)

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token over the keys it sees: two products of 2 per number of a head and key."""
        return 4 * self.n_heads * self.width(d_model) * min(context, self.window or context)

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers remembered for one row of ``length`` tokens."""
        return 2 * self.kv_heads * self.width(d_model) * min(length, self.window or length)

    def build(self, d_model: int, norm: NormSection) -> "Attention":
        """An attention layer from and to ``d_model``; ``norm`` is that of queries and keys."""

        from cirilla_cli.model.mixers.attention import Attention

        return Attention(self, d_model=d_model, norm=norm)


MixerSection = AttentionConfig


class LearnedPositionsConfig(Section):
    """A learned vector for each position, added to the embedding, as in GPT-2 and BERT."""

    kind: Literal["learned"] = "learned"


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
    dropout: Fraction = 0.0
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
        return self

    def layer_mixers(self) -> list[MixerSection]:
        """The mixer of each layer, first to last."""
        return [self.mixers[self.pattern[i % len(self.pattern)]] for i in range(self.n_layers)]

    def layer_mlps(self) -> list[MLPSection]:
        """The feed-forward of each layer, first to last."""
        return [self.mlp] * self.n_layers


class DecoderConfig(StackConfig):
    """A causal language model: embeddings, a pattern of blocks, a norm and a head."""

    kind: Literal["decoder"] = "decoder"
    logit_scale: PositiveFloat = 1.0
    """What logits are multiplied with."""

    def build(self) -> "Decoder":
        """The decoder, freshly initialised."""

        from cirilla_cli.model.decoder import Decoder

        return Decoder(self)


class DialConfig(Section):
    """A decoder from one number: width, heads, batch and learning rate follow from its depth, each with its source."""

    kind: Literal["dial"] = "dial"
    depth: PositiveInt
    """Blocks; the model is 64 times as wide. 4 is a toy of 3M weights, 12 the shape of the smallest GPT-2."""
    context_length: PositiveCount = 2048
    """Longest sequence trained on, and the length of a packed row."""
    vocab_size: PositiveCount | None = None
    """Rows of the embedding; null takes the tokenizer's."""
    dropout: Fraction = 0.0
    """Share of the residual branches' outputs dropped in training."""

    def build(self) -> "Decoder":
        """The decoder at this setting."""

        from cirilla_cli.model.dial import decoder_of

        return decoder_of(self).build()


class CheckpointConfig(Section):
    """Start from weights that exist: a run, a checkpoint, a Hugging Face folder or a Hub name."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """Run directory, checkpoint, pushed or downloaded Hugging Face folder, or OWNER/NAME on the Hub."""
    context_length: PositiveCount | None = None
    """Row length to train with; null keeps the checkpoint's."""
    dropout: Fraction = 0.0
    """Dropout while training; checkpoints are stored without."""


ModelSection = Annotated[DecoderConfig | DialConfig | CheckpointConfig, Field(discriminator="kind")]

ResolvedModel = DecoderConfig | CheckpointConfig
"""What can stand there once a dial has been resolved, as reading a recipe does."""
