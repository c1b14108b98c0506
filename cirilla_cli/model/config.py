"""Sections that describe a model; torch-free, so that recipes are checked in milliseconds."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import Section
from cirilla_cli.units import Fraction, PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.model.decoder import Decoder
    from cirilla_cli.model.mixers.attention import Attention
    from cirilla_cli.model.mlp import SwiGLU
    from cirilla_cli.model.norms import RMSNorm


class RMSNormConfig(Section):
    """Root-mean-square normalisation with a learned scale (arXiv:1910.07467)."""

    kind: Literal["rms"] = "rms"
    eps: PositiveFloat = 1e-6
    """Added to the mean square before its root."""

    def build(self, width: int) -> "RMSNorm":
        """A norm over vectors of ``width``."""

        from cirilla_cli.model.norms import RMSNorm

        return RMSNorm(self, width)


class SwiGLUConfig(Section):
    """Gated feed-forward: down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    kind: Literal["swiglu"] = "swiglu"
    d_ff: PositiveCount
    """Inner width; about 8/3 of d_model gives the parameters of a plain 4x feed-forward."""

    def build(self, d_model: int) -> "SwiGLU":
        """A feed-forward from and to ``d_model``."""

        from cirilla_cli.model.mlp import SwiGLU

        return SwiGLU(self, d_model)


class AttentionConfig(Section):
    """Grouped-query attention with rotary positions: one key/value head each is multi-head, one for all multi-query."""

    kind: Literal["attention"] = "attention"
    n_heads: PositiveInt
    """Query heads."""
    n_kv_heads: PositiveInt | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null for as many as query heads."""
    head_dim: PositiveInt | None = None
    """Width of one head; null for d_model / n_heads. n_heads * head_dim need not equal d_model."""
    window: PositiveInt | None = None
    """Positions a query sees, itself included; null for all of them."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies; raise it for longer contexts."""
    qk_norm: bool = False
    """Normalise queries and keys per head before rotation, as Qwen3 does; steadies training at high learning rates."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.kv_heads})")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, rotary positions turn pairs")
        return self

    @property
    def kv_heads(self) -> int:
        """Key/value heads, the default resolved."""
        return self.n_kv_heads or self.n_heads

    def width(self, d_model: int) -> int:
        """Width of one head, the default resolved."""
        return self.head_dim or d_model // self.n_heads

    def build(self, d_model: int, norm: RMSNormConfig) -> "Attention":
        """An attention layer from and to ``d_model``; ``norm`` is that of queries and keys."""

        from cirilla_cli.model.mixers.attention import Attention

        return Attention(self, d_model=d_model, norm=norm)


Mixer = AttentionConfig


class DecoderConfig(Section):
    """A causal language model: embeddings, a pattern of blocks, a norm and a head."""

    kind: Literal["decoder"] = "decoder"
    vocab_size: PositiveCount | None = None
    """Rows of the embedding; null takes the tokenizer's."""
    d_model: PositiveInt
    """Width of the residual stream."""
    n_layers: PositiveInt
    """Blocks."""
    context_length: PositiveCount
    """Longest sequence trained on, and the length of a packed row."""
    mixers: dict[str, Mixer]
    """Sequence mixers by a letter each, such as {A: {kind: attention, n_heads: 8}}."""
    pattern: str = "A"
    """The mixer of each layer, repeated to n_layers: "A" is all the same, "LLLA" three local ones to a global one."""
    mlp: SwiGLUConfig
    """Feed-forward of every block."""
    norm: RMSNormConfig = RMSNormConfig()
    """Normalisation before each mixer, each feed-forward and the head."""
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
            if mixer.head_dim is None and (self.d_model % mixer.n_heads or mixer.width(self.d_model) % 2):
                raise ValueError(
                    f"mixers.{letter}: d_model ({self.d_model}) over n_heads ({mixer.n_heads}) must be a whole, even "
                    "number; set head_dim"
                )
        return self

    def layer_mixers(self) -> list[Mixer]:
        """The mixer of each layer, first to last."""
        return [self.mixers[self.pattern[i % len(self.pattern)]] for i in range(self.n_layers)]

    def build(self) -> "Decoder":
        """The decoder, freshly initialised."""

        from cirilla_cli.model.decoder import Decoder

        return Decoder(self)


class CheckpointConfig(Section):
    """Start from weights that exist: a run, a checkpoint, a Hugging Face folder or a Hub name."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """Run directory, checkpoint, pushed or downloaded Hugging Face folder, or OWNER/NAME on the Hub."""
    context_length: PositiveCount | None = None
    """Row length to train with; null keeps the checkpoint's."""
    dropout: Fraction = 0.0
    """Dropout while training; checkpoints are stored without."""


ModelSection = Annotated[DecoderConfig | CheckpointConfig, Field(discriminator="kind")]
