"""Sections of the pieces of a block: norms, rotary positions, feed-forwards; torch-free, as all sections are."""

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, Misfits, Section
from cirilla_cli.model.routing import BalanceSection, RouterSection, SequenceBalanceConfig, SigmoidRouterConfig
from cirilla_cli.units import PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.model.kan import KAN
    from cirilla_cli.model.mlp import Gated, Plain
    from cirilla_cli.model.moe import MoE
    from cirilla_cli.model.norms import Derf, DynamicTanh, LayerNorm, RMSNorm


class Count(NamedTuple):
    """What a piece holds and multiplies, in closed form."""

    parameters: int
    """Numbers stored."""
    active: int
    """Numbers of those that one token is computed with."""
    products: int
    """Weights one token is multiplied with: two FLOPs each."""

    @staticmethod
    def dense(matrices: int, vectors: int = 0) -> "Count":
        """A piece that uses all of its weights for every token; vectors are added or scaled by, not multiplied."""
        return Count(matrices + vectors, matrices + vectors, matrices)

    def plus(self, other: "Count") -> "Count":
        """Both pieces together."""
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


# Norms


class RMSNormConfig(Section):
    """Root-mean-square normalisation with a learned scale (arXiv:1910.07467)."""

    kind: Literal["rms"] = "rms"
    eps: PositiveFloat = 1e-6
    """Added to the mean square before its root."""

    def parameters(self, width: int) -> int:
        """Numbers stored for vectors of ``width``."""
        return width

    def build(self, width: int) -> "RMSNorm":
        """A norm over vectors of ``width``."""

        from cirilla_cli.model.norms import RMSNorm

        return RMSNorm(self, width)


class LayerNormConfig(Section):
    """Normalisation to mean zero and variance one, with a learned scale and shift (arXiv:1607.06450)."""

    kind: Literal["layer"] = "layer"
    eps: PositiveFloat = 1e-5
    """Added to the variance before its root."""
    bias: bool = True
    """Whether there is a learned shift; ModernBERT has none."""

    def parameters(self, width: int) -> int:
        """Numbers stored for vectors of ``width``."""
        return width * (2 if self.bias else 1)

    def build(self, width: int) -> "LayerNorm":
        """A norm over vectors of ``width``."""

        from cirilla_cli.model.norms import LayerNorm

        return LayerNorm(self, width)


class DynamicTanhConfig(Section):
    """tanh(alpha x) with a learned scale and shift: a squashing in place of statistics (arXiv:2503.10622)."""

    kind: Literal["dyt"] = "dyt"
    alpha: PositiveFloat = 0.5
    """Steepness to begin with; learned."""

    def parameters(self, width: int) -> int:
        """Numbers stored for vectors of ``width``."""
        return 2 * width + 1

    def build(self, width: int) -> "DynamicTanh":
        """A norm over vectors of ``width``."""

        from cirilla_cli.model.norms import DynamicTanh

        return DynamicTanh(self, width)


class DerfConfig(Section):
    """erf(alpha x + s) with a learned scale and shift (arXiv:2512.10938)."""

    kind: Literal["derf"] = "derf"
    alpha: PositiveFloat = 0.5
    """Steepness to begin with; learned, as is the shift s inside, which begins at zero."""

    def parameters(self, width: int) -> int:
        """Numbers stored for vectors of ``width``."""
        return 2 * width + 2

    def build(self, width: int) -> "Derf":
        """A norm over vectors of ``width``."""

        from cirilla_cli.model.norms import Derf

        return Derf(self, width)


NormSection = Annotated[RMSNormConfig | LayerNormConfig | DynamicTanhConfig | DerfConfig, ByKind()]


# Rotary positions


class _Rope(Section):
    theta: PositiveFloat = 10_000.0
    """Base of the frequencies; raise it for longer contexts."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each head that turns, from its front; the rest carries no position."""

    def turned(self, head_dim: int) -> int:
        """How many numbers of a head are rotated, an even number."""
        return int(head_dim * self.fraction) // 2 * 2


class RopeConfig(_Rope):
    """Rotary positions as first published: pair i of n turns by position / theta^(i/n) (arXiv:2104.09864)."""

    kind: Literal["plain"] = "plain"


class LinearRopeConfig(_Rope):
    """All positions divided by a factor: a longer context squeezed into the trained one (arXiv:2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Field(ge=1)]
    """How many times the trained context."""


class NTKRopeConfig(_Rope):
    """theta raised so that the slowest pair is stretched by the factor, the fastest not at all (arXiv:2309.00071)."""

    kind: Literal["ntk"] = "ntk"
    factor: Annotated[float, Field(ge=1)]
    """How many times the trained context."""


class Llama3RopeConfig(_Rope):
    """Llama 3.1's scaling: slow pairs divided by the factor, fast ones kept, smooth between (arXiv:2407.21783)."""

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Field(ge=1)] = 8.0
    """How many times the trained context."""
    low_freq_factor: PositiveFloat = 1.0
    """Pairs that turn fewer times than this over the trained context are stretched whole."""
    high_freq_factor: PositiveFloat = 4.0
    """Pairs that turn more often than this are left alone."""
    original_context: PositiveCount = 8192
    """The context trained on."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            said = f"is {self.high_freq_factor:g}, must be more than low_freq_factor ({self.low_freq_factor:g})"
            raise Misfits({"high_freq_factor": said})
        return self


class YarnRopeConfig(_Rope):
    """YaRN: slow pairs stretched, fast ones kept, attention sharpened (arXiv:2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Field(ge=1)]
    """How many times the trained context."""
    beta_fast: PositiveFloat = 32.0
    """Pairs that turn more often than this over the trained context are left alone."""
    beta_slow: PositiveFloat = 1.0
    """Pairs that turn fewer times than this are stretched whole."""
    original_context: PositiveCount
    """The context trained on."""
    attention_factor: PositiveFloat | None = None
    """What turned queries and keys are multiplied with; null for 0.1 ln(factor) + 1."""
    truncate: bool = True
    """Whether the bounds of the ramp are rounded to whole pairs."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.beta_fast < self.beta_slow:
            said = f"is {self.beta_fast:g}, must be at least beta_slow ({self.beta_slow:g})"
            raise Misfits({"beta_fast": said})
        if self.theta <= 1:
            raise Misfits({"theta": f"is {self.theta:g}, must be more than 1, so that pairs differ"})
        return self

    def attention_scale(self) -> float:
        """What turned queries and keys are multiplied with, the default resolved (section 3.4)."""
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0


RopeSection = Annotated[RopeConfig | LinearRopeConfig | NTKRopeConfig | Llama3RopeConfig | YarnRopeConfig, ByKind()]


# Feed-forwards


class _Dense(Section):
    d_ff: PositiveCount
    """Inner width."""
    bias: bool = False
    """Whether its matrices have biases."""

    def _counted(self, d_model: int, inward: int) -> Count:
        vectors = (inward * self.d_ff + d_model) if self.bias else 0
        return Count.dense((inward + 1) * d_model * self.d_ff, vectors)


class _GatedConfig(_Dense):
    def count(self, d_model: int) -> Count:
        """Three matrices."""
        return self._counted(d_model, 2)

    def build(self, d_model: int) -> "Gated":
        """A feed-forward from and to ``d_model``."""

        from cirilla_cli.model.mlp import Gated

        return Gated(self, d_model)  # type: ignore[arg-type]


class _PlainConfig(_Dense):
    def count(self, d_model: int) -> Count:
        """Two matrices."""
        return self._counted(d_model, 1)

    def build(self, d_model: int) -> "Plain":
        """A feed-forward from and to ``d_model``."""

        from cirilla_cli.model.mlp import Plain

        return Plain(self, d_model)  # type: ignore[arg-type]


class SwiGLUConfig(_GatedConfig):
    """Gated feed-forward: down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    kind: Literal["swiglu"] = "swiglu"
    d_ff: PositiveCount
    """Inner width; about 8/3 of d_model gives the parameters of a plain 4x feed-forward."""


class GeGLUConfig(_GatedConfig):
    """Gated feed-forward: down(gelu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    kind: Literal["geglu"] = "geglu"
    tanh: bool = False
    """Approximate GELU by tanh, as Gemma does."""


class GELUConfig(_PlainConfig):
    """Plain feed-forward: down(gelu(up(x))) (arXiv:1606.08415)."""

    kind: Literal["gelu"] = "gelu"
    tanh: bool = False
    """Approximate GELU by tanh, as GPT-2 does."""


class ReLU2Config(_PlainConfig):
    """Plain feed-forward with squared ReLU: down(relu(up(x))^2) (arXiv:2109.08668)."""

    kind: Literal["relu2"] = "relu2"


class KANConfig(Section):
    """Kolmogorov-Arnold feed-forward: a learned curve on every edge (arXiv:2404.19756); many times the weights."""

    kind: Literal["kan"] = "kan"
    d_ff: PositiveCount
    """Inner width; an edge has grid + order + 1 numbers, so take it that much narrower."""
    grid: PositiveInt = 5
    """Intervals each curve is made of."""
    order: PositiveInt = 3
    """Degree of the pieces."""
    reach: PositiveFloat = 3.0
    """Curves span -reach to reach; beyond, only the silu part is left."""

    def count(self, d_model: int) -> Count:
        """Two layers of edges."""
        return Count.dense(2 * d_model * self.d_ff * (self.grid + self.order + 1))

    def build(self, d_model: int) -> "KAN":
        """A feed-forward from and to ``d_model``."""

        from cirilla_cli.model.kan import KAN

        return KAN(self, d_model)


DenseSection = Annotated[SwiGLUConfig | GeGLUConfig | GELUConfig | ReLU2Config, ByKind()]


# Mixture of experts


class MoEConfig(Section):
    """Mixture of experts: a router sends each token through a few of many gated feed-forwards (arXiv:1701.06538)."""

    kind: Literal["moe"] = "moe"
    n_experts: PositiveInt
    """Experts to choose from."""
    top_k: PositiveInt
    """Experts of each token."""
    d_ff: PositiveCount
    """Inner width of one expert."""
    router: RouterSection = SigmoidRouterConfig()
    """How experts are chosen and weighted."""
    shared_d_ff: PositiveCount | None = None
    """Inner width of an expert that every token passes besides; null for none."""
    balance: BalanceSection | None = SequenceBalanceConfig()
    """Loss that keeps the experts equally busy; null for none."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the router's mean squared log-partition, which keeps its logits small; 1e-3 is usual, 0 for none."""
    dense_layers: NonNegativeInt = 0
    """First layers that have the ``dense`` feed-forward in place of experts."""
    dense: DenseSection | None = None
    """Feed-forward of the first ``dense_layers`` layers."""

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k ({self.top_k}) must be at most n_experts ({self.n_experts})")
        if problem := self.router.misfit(self.n_experts, self.top_k):
            raise ValueError(problem)
        if bool(self.dense_layers) != (self.dense is not None):
            raise ValueError(f"dense_layers is {self.dense_layers}; set it and `dense` together, or neither")
        return self

    def count(self, d_model: int) -> Count:
        """Three matrices an expert, the router, the shared expert; active are the chosen experts and the rest."""
        expert, always = 3 * d_model * self.d_ff, self.router.parameters(d_model, self.n_experts)
        always += 3 * d_model * (self.shared_d_ff or 0)
        active = self.top_k * expert + always
        return Count(self.n_experts * expert + always, active, active)

    def build(self, d_model: int) -> "MoE":
        """A feed-forward from and to ``d_model``."""

        from cirilla_cli.model.moe import MoE

        return MoE(self, d_model)


MLPSection = Annotated[SwiGLUConfig | GeGLUConfig | GELUConfig | ReLU2Config | KANConfig | MoEConfig, ByKind()]
