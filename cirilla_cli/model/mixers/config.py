"""Sections of the sequence mixers, and what can stand in a layer; torch-free, as all sections are."""

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, Section
from cirilla_cli.model.sections import (
    Count,
    NormSection,
    RopeConfig,
    RopeSection,
    YarnRopeConfig,
)

if TYPE_CHECKING:
    from cirilla_cli.model.mixers.attention import Attention
    from cirilla_cli.model.mixers.dilated import DilatedAttention
    from cirilla_cli.model.mixers.gated_deltanet import GatedDeltaNet
    from cirilla_cli.model.mixers.latent import LatentAttention
    from cirilla_cli.model.mixers.mamba2 import Mamba2


class _HeadsConfig(Section):
    n_heads: PositiveInt
    """Query heads."""
    n_kv_heads: PositiveInt | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null for as many as query heads."""
    head_dim: PositiveInt | None = None
    """Width of one head; null for d_model / n_heads. n_heads * head_dim need not equal d_model."""
    rope: RopeSection | None = RopeConfig()
    """Rotary positions; null for none, as in layers that see the order by other means."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.kv_heads})")
        if self.head_dim is not None and self.head_dim % 2 and self.rope is not None:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, rotary positions turn pairs")
        if self.head_dim is not None and (problem := self._unturned(self.head_dim)):
            raise ValueError(problem)
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
        return self._unturned(self.width(d_model))

    def _unturned(self, width: int) -> str | None:
        """Why a rotation turns nothing of a head of ``width``; None if it turns some, or none is wanted."""
        if self.rope is None or self.rope.turned(width):
            return None
        return f"rope.fraction ({self.rope.fraction:g}) turns no pair of a head {width} wide; rope: null turns none"


class AttentionConfig(_HeadsConfig):
    """Grouped-query attention (arXiv:2305.13245): a key/value head for each query head, for some of them, or all."""

    kind: Literal["attention"] = "attention"
    window: PositiveInt | None = None
    """Positions a query sees, itself included; null for all of them."""
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

    def count(self, d_model: int, norm: NormSection) -> Count:
        """Four matrices, their biases, and the norms of queries and keys."""
        H, N, K = self.width(d_model), self.n_heads, self.kv_heads
        vectors = H * (N + 2 * K) * self.bias + d_model * self.out_bias + 2 * norm.parameters(H) * self.qk_norm
        return Count.dense(2 * d_model * H * (N + K), vectors)

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token over the keys it sees: two products of 2 per number of a head and key."""
        sides = 1 if self.causal else 2
        seen = context if self.window is None else min(context, sides * (self.window - 1) + 1)
        return 4 * self.n_heads * self.width(d_model) * seen

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers there is room for, for one row of ``length`` tokens: of a window twice what it reaches back."""
        slots = length if self.window is None else min(length, 2 * (self.window - 1))
        return 2 * self.kv_heads * self.width(d_model) * slots

    def build(self, d_model: int, norm: NormSection) -> "Attention":
        """An attention layer from and to ``d_model``; ``norm`` is that of queries and keys."""

        from cirilla_cli.model.mixers.attention import Attention

        return Attention(self, d_model=d_model, norm=norm)


class LatentAttentionConfig(Section):
    """Multi-head latent attention: all keys and values come out of one small vector a position (arXiv:2405.04434)."""

    kind: Literal["mla"] = "mla"
    n_heads: PositiveInt
    """Heads."""
    q_lora_rank: PositiveInt | None = None
    """Width of the vector that queries come out of; null makes them from the residual stream directly."""
    kv_lora_rank: PositiveInt
    """Width of the vector that keys and values come out of, the one that is remembered."""
    qk_nope_head_dim: PositiveInt
    """Width of the part of a query or key that carries no position."""
    qk_rope_head_dim: PositiveInt
    """Width of the part that turns with its position; all heads share it in the key."""
    v_head_dim: PositiveInt
    """Width of a value."""
    rope: RopeSection | None = RopeConfig()
    """Rotary positions of the part that turns; null turns nothing, as in layers that see the order by other means."""
    latent_eps: PositiveFloat = 1e-6
    """eps of the RMS norms of the two small vectors; DeepSeek's is this, whatever the norm of its blocks has."""
    bias: bool = False
    """Whether the matrices into the small vectors, and the output matrix, have biases."""
    scale: PositiveFloat | None = None
    """What scores are multiplied with; null for 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim)."""
    mscale_all_dim: PositiveFloat | None = None
    """With a yarn rope: scores are also multiplied with (0.1 mscale_all_dim ln(factor) + 1)^2, as in DeepSeek-V3."""

    @model_validator(mode="after")
    def _turns_whole_pairs(self) -> Self:
        if self.rope is not None and self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim ({self.qk_rope_head_dim}) must be even, rotary positions turn pairs")
        if self.rope is not None and self.rope.fraction != 1.0:
            raise ValueError("rope.fraction must be 1 here; qk_rope_head_dim says how much of a head turns")
        if self.mscale_all_dim is not None and (self.scale is not None or not isinstance(self.rope, YarnRopeConfig)):
            raise ValueError("mscale_all_dim goes with a rope of kind yarn and without scale")
        return self

    @property
    def module_name(self) -> str:
        """What the mixer is called in its block."""
        return "self_attn"

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def score_scale(self) -> float:
        """What scores are multiplied with, the defaults resolved."""
        plain = self.scale or 1 / math.sqrt(self.qk_head_dim)
        if self.mscale_all_dim is None or not isinstance(self.rope, YarnRopeConfig):
            return plain
        return plain * (0.1 * self.mscale_all_dim * math.log(self.rope.factor) + 1) ** 2

    def misfit(self, d_model: int) -> str | None:
        """Why this mixer cannot stand in a model ``d_model`` wide: it always can."""
        return None

    def count(self, d_model: int, norm: NormSection) -> Count:
        """Matrices into the small vectors, out of them and back to the stream; their biases and norms."""
        D, N, R, Q, wide = d_model, self.n_heads, self.kv_lora_rank, self.q_lora_rank, self.qk_head_dim
        queries = D * N * wide if Q is None else Q * (D + N * wide)
        into = D * (R + self.qk_rope_head_dim)
        outward = N * (R * (self.qk_nope_head_dim + self.v_head_dim) + self.v_head_dim * D)
        norms = R + (Q or 0)
        return Count.dense(queries + into + outward, norms + self.bias * (norms + self.qk_rope_head_dim + D))

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token over the keys it sees: products of 2 per number of a head's key and value."""
        return 2 * self.n_heads * (self.qk_head_dim + self.v_head_dim) * context

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers remembered for one row of ``length`` tokens, however many heads."""
        return (self.kv_lora_rank + self.qk_rope_head_dim) * length

    def build(self, d_model: int, norm: NormSection) -> "LatentAttention":
        """A latent attention layer from and to ``d_model``; ``norm``, that of the blocks, has no part in it."""

        from cirilla_cli.model.mixers.latent import LatentAttention

        return LatentAttention(self, d_model=d_model)


class Mamba2Config(Section):
    """Mamba-2: a state-space layer; memory and cost per token do not grow with the sequence (arXiv:2405.21060)."""

    kind: Literal["mamba2"] = "mamba2"
    n_heads: PositiveInt
    """Heads, each with a state of head_dim x d_state."""
    head_dim: PositiveInt | None = None
    """Width of one head; null for expand * d_model / n_heads."""
    expand: PositiveFloat = 2.0
    """Inner width as a multiple of d_model, where head_dim is null."""
    d_state: PositiveInt = 128
    """Width of the state: how much a head can remember."""
    n_groups: PositiveInt = 1
    """Groups of heads that share what goes into the state and what comes out of it, and a norm."""
    d_conv: PositiveInt = 4
    """Positions that the convolution before the scan sees, its own included."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    proj_bias: bool = False
    """Whether the matrices into and out of the layer have biases."""
    dt_min: NonNegativeFloat = 0.0
    """Least step size; small steps remember long and take in little."""
    dt_max: PositiveFloat | None = None
    """Greatest step size; null for no bound."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square before its root in the norm of the gated output."""
    chunk_size: PositiveInt = 64
    """Most positions scanned at once; changes the time it takes, not the result."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.n_groups:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_groups ({self.n_groups})")
        # A checkpoint names every field, those left at their defaults too.
        if self.head_dim is not None and self.expand != type(self).model_fields["expand"].default:
            raise ValueError("head_dim and expand both say how wide the layer is; set one of them")
        if self.dt_max is not None and self.dt_max < self.dt_min:
            raise ValueError(f"dt_max ({self.dt_max}) must not be less than dt_min ({self.dt_min})")
        return self

    @property
    def module_name(self) -> str:
        """What the mixer is called in its block."""
        return "mamba"

    def width(self, d_model: int) -> int:
        """Width of one head, the default resolved."""
        return self.head_dim or int(self.expand * d_model) // self.n_heads

    def channels(self, d_model: int) -> int:
        """Channels that the convolution runs over: the heads' inputs, and what the groups share."""
        return self.n_heads * self.width(d_model) + 2 * self.n_groups * self.d_state

    def misfit(self, d_model: int) -> str | None:
        """Why this mixer cannot stand in a model ``d_model`` wide; None if it can."""
        inner = self.expand * d_model
        if self.head_dim is None and (inner % self.n_heads or not inner):
            return f"expand * d_model ({inner:g}) over n_heads ({self.n_heads}) must be a whole number; set head_dim"
        return None

    def count(self, d_model: int, norm: NormSection) -> Count:
        """The matrices in and out, the taps, three numbers a head, the norm, and biases."""
        inner, channels = self.n_heads * self.width(d_model), self.channels(d_model)
        inward = inner + channels + self.n_heads
        vectors = channels * (self.d_conv + self.conv_bias) + 3 * self.n_heads + inner
        return Count.dense(d_model * (inward + inner), vectors + (inward + d_model) * self.proj_bias)

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token in the scan by whole chunks: with its chunk's tokens, and with the state."""
        P, N, H, Q = self.width(d_model), self.d_state, self.n_heads, min(self.chunk_size, context)
        return 2 * (Q * (self.n_groups * N + H * P) + 2 * H * P * N)

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers remembered for one row, however many its tokens: the states, and what the convolution looks at."""
        return self.n_heads * self.width(d_model) * self.d_state + (self.d_conv - 1) * self.channels(d_model)

    def build(self, d_model: int, norm: NormSection) -> "Mamba2":
        """A Mamba-2 layer from and to ``d_model``; its own norm is always a root-mean-square one."""

        from cirilla_cli.model.mixers.mamba2 import Mamba2

        return Mamba2(self, d_model=d_model)


class GatedDeltaNetConfig(Section):
    """Gated DeltaNet: linear attention whose memory each token corrects; it does not grow (arXiv:2412.06464)."""

    kind: Literal["gated_deltanet"] = "gated_deltanet"
    n_heads: PositiveInt
    """Heads of values, each with a state of head_dim x v_head_dim."""
    n_qk_heads: PositiveInt | None = None
    """Heads of queries and keys, each shared by n_heads / n_qk_heads heads; null for as many as heads of values."""
    head_dim: PositiveInt | None = None
    """Width of a query or key; null for d_model / n_heads."""
    v_head_dim: PositiveInt | None = None
    """Width of a value; null for that of a key."""
    d_conv: PositiveInt = 4
    """Positions that the convolution of queries, keys and values sees, its own included."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the mean square before its root in the norm of each head's output."""
    chunk_size: PositiveInt = 64
    """Most positions computed at once; changes the time it takes, not the result."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.qk_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_qk_heads ({self.n_qk_heads})")
        return self

    @property
    def module_name(self) -> str:
        """What the mixer is called in its block."""
        return "linear_attn"

    @property
    def qk_heads(self) -> int:
        """Heads of queries and keys, the default resolved."""
        return self.n_qk_heads or self.n_heads

    def width(self, d_model: int) -> int:
        """Width of a query or key, the default resolved."""
        return self.head_dim or d_model // self.n_heads

    def v_width(self, d_model: int) -> int:
        """Width of a value, the default resolved."""
        return self.v_head_dim or self.width(d_model)

    def channels(self, d_model: int) -> int:
        """Channels that the convolution runs over: queries, keys and values."""
        return 2 * self.qk_heads * self.width(d_model) + self.n_heads * self.v_width(d_model)

    def misfit(self, d_model: int) -> str | None:
        """Why this mixer cannot stand in a model ``d_model`` wide; None if it can."""
        if self.head_dim is None and d_model % self.n_heads:
            return f"d_model ({d_model}) over n_heads ({self.n_heads}) must be a whole number; set head_dim"
        return None

    def count(self, d_model: int, norm: NormSection) -> Count:
        """The matrices in and out, the taps, two numbers a head, and the norm that all heads share."""
        inner, channels = self.n_heads * self.v_width(d_model), self.channels(d_model)
        matrices = d_model * (channels + 2 * inner + 2 * self.n_heads)
        return Count.dense(matrices, channels * self.d_conv + 2 * self.n_heads + self.v_width(d_model))

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token by whole chunks: with its chunk's tokens, the system they form included, and the state.

        The system counts as the product with its inverse, triangles like the squares they are computed in.
        """
        K, V, Q = self.width(d_model), self.v_width(d_model), min(self.chunk_size, context)
        return 2 * (2 * self.qk_heads * Q * K + self.n_heads * (Q * (K + 2 * V) + 3 * K * V))

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers remembered for one row, however many its tokens: the states, and what the convolution looks at."""
        state = self.n_heads * self.width(d_model) * self.v_width(d_model)
        return state + (self.d_conv - 1) * self.channels(d_model)

    def build(self, d_model: int, norm: NormSection) -> "GatedDeltaNet":
        """A gated DeltaNet layer from and to ``d_model``; its own norm is always a root-mean-square one."""

        from cirilla_cli.model.mixers.gated_deltanet import GatedDeltaNet

        return GatedDeltaNet(self, d_model=d_model)


class DilatedAttentionConfig(_HeadsConfig):
    """LongNet's attention: near keys all, far ones thinned out, so that cost grows slowly (arXiv:2307.02486)."""

    kind: Literal["dilated"] = "dilated"
    segments: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (512, 2048, 8192)
    """Lengths of the segments within which positions see each other, one for each pattern."""
    dilations: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (1, 4, 16)
    """Of each pattern, every how many positions see each other; the first is 1, so that each position sees itself."""

    @model_validator(mode="after")
    def _patterns_fit(self) -> Self:
        if len(self.segments) != len(self.dilations):
            sizes = f"{len(self.segments)} and {len(self.dilations)}"
            raise ValueError(f"segments and dilations have {sizes} entries: one dilation for each segment")
        if self.dilations[0] != 1:
            raise ValueError(f"dilations begins with {self.dilations[0]}, must begin with 1")
        for length, dilation in self.patterns:
            if length % dilation:
                raise ValueError(f"segments: {length} must be a multiple of its dilation {dilation}")
        return self

    @property
    def patterns(self) -> tuple[tuple[int, int], ...]:
        """Segment length and dilation of each pattern."""
        return tuple(zip(self.segments, self.dilations, strict=True))

    def count(self, d_model: int, norm: NormSection) -> Count:
        """Four matrices."""
        return Count.dense(2 * d_model * self.width(d_model) * (self.n_heads + self.kv_heads))

    def mixing_flops(self, d_model: int, context: float) -> float:
        """FLOPs of one token: of every R positions one takes part, and sees every R-th key of its segment."""
        keys = sum(min(context, length) / dilation**2 for length, dilation in self.patterns)
        return 4 * self.n_heads * self.width(d_model) * keys

    def cache_elements(self, d_model: int, length: int) -> int:
        """Numbers there is room for, for one row of ``length`` tokens: of the longest segment twice, as of a window."""
        return 2 * self.kv_heads * self.width(d_model) * min(length, 2 * (max(self.segments) - 1))

    def build(self, d_model: int, norm: NormSection) -> "DilatedAttention":
        """A dilated attention layer from and to ``d_model``."""

        from cirilla_cli.model.mixers.dilated import DilatedAttention

        return DilatedAttention(self, d_model=d_model)


MixerSection = Annotated[
    AttentionConfig | DilatedAttentionConfig | GatedDeltaNetConfig | LatentAttentionConfig | Mamba2Config,
    ByKind(),
]
