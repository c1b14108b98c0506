"""Sections of routers, and of what keeps experts equally busy; torch-free, as all sections are."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from cirilla_cli.config import ByKind, Section

if TYPE_CHECKING:
    from cirilla_cli.model.routers import NoisyRouter, SigmoidRouter, SoftmaxRouter


class _Router(Section):
    def parameters(self, d_model: int, n_experts: int) -> int:
        """Numbers stored; each is multiplied with once a token."""
        return d_model * n_experts

    def misfit(self, n_experts: int, top_k: int) -> str | None:
        """Why this router cannot choose ``top_k`` of ``n_experts``; None if it can."""
        return None


class SoftmaxRouterConfig(_Router):
    """The highest of a softmax over all experts, as in Mixtral, Qwen3 and Granite (arXiv:2401.04088, section 2.1)."""

    kind: Literal["softmax"] = "softmax"
    renormalise: bool = True
    """Whether the chosen experts' weights sum to one; the same as a softmax over the chosen logits alone."""

    def build(self, d_model: int, n_experts: int, top_k: int) -> "SoftmaxRouter":
        """A router of vectors of ``d_model``."""

        from cirilla_cli.model.routers import SoftmaxRouter

        return SoftmaxRouter(self, d_model, n_experts, top_k)


class SigmoidRouterConfig(_Router):
    """A sigmoid for each expert, balanced by a bias that only selects, as in DeepSeek-V3 (arXiv:2412.19437, 2.1.2)."""

    kind: Literal["sigmoid"] = "sigmoid"
    renormalise: bool = True
    """Whether the chosen experts' weights sum to one before ``scale``."""
    scale: PositiveFloat = 1.0
    """What the weights are multiplied with."""
    n_groups: PositiveInt = 1
    """Groups of experts of equal size; a group counts as much as the sum of its best two."""
    top_groups: PositiveInt = 1
    """Groups that a token's experts are chosen from."""
    bias_rate: NonNegativeFloat = 1e-3
    """How far a step moves the bias of an expert that is chosen too often or too seldom; 0 keeps biases."""

    def misfit(self, n_experts: int, top_k: int) -> str | None:
        """Why this router cannot choose ``top_k`` of ``n_experts``; None if it can."""
        if n_experts % self.n_groups:
            return f"n_experts ({n_experts}) must be a multiple of router.n_groups ({self.n_groups})"
        size = n_experts // self.n_groups
        if self.n_groups > 1 and size < 2:
            return f"router.n_groups ({self.n_groups}) leaves {size} expert a group, must leave 2 at least"
        if not self.top_groups <= self.n_groups:
            return f"router.top_groups ({self.top_groups}) must be at most router.n_groups ({self.n_groups})"
        if top_k > size * self.top_groups:
            return f"top_k ({top_k}) must be at most the {size * self.top_groups} experts of router.top_groups groups"
        return None

    def build(self, d_model: int, n_experts: int, top_k: int) -> "SigmoidRouter":
        """A router of vectors of ``d_model``."""

        from cirilla_cli.model.routers import SigmoidRouter

        return SigmoidRouter(self, d_model, n_experts, top_k)


class NoisyRouterConfig(_Router):
    """Softmax over the chosen of logits with learned noise, in training only (arXiv:1701.06538, equations 3 to 5)."""

    kind: Literal["noisy"] = "noisy"

    def parameters(self, d_model: int, n_experts: int) -> int:
        """Numbers stored, those that set the noise included, which is drawn in training only."""
        return 2 * d_model * n_experts

    def build(self, d_model: int, n_experts: int, top_k: int) -> "NoisyRouter":
        """A router of vectors of ``d_model``."""

        from cirilla_cli.model.routers import NoisyRouter

        return NoisyRouter(self, d_model, n_experts, top_k)


RouterSection = Annotated[SoftmaxRouterConfig | SigmoidRouterConfig | NoisyRouterConfig, ByKind()]


class SequenceBalanceConfig(Section):
    """Within each row: share of the choices times mean probability, over experts (arXiv:2412.19437, equation 17)."""

    kind: Literal["sequence"] = "sequence"
    weight: PositiveFloat = 1e-4
    """Weight in the loss, for each layer; 1e-4 beside biases that balance, 1e-2 without."""
    cut_invariant: ClassVar[bool] = True
    """Whether a step's gradient is the same however the step is cut into micro-batches."""


class ImportanceBalanceConfig(Section):
    """Within each row: divergence of the experts' mean probabilities from uniform, log E - H(P) (arXiv:1701.06538)."""

    kind: Literal["importance"] = "importance"
    weight: PositiveFloat = 1e-2
    """Weight in the loss, for each layer."""
    cut_invariant: ClassVar[bool] = True
    """Whether a step's gradient is the same however the step is cut into micro-batches."""


class BatchBalanceConfig(Section):
    """Switch's loss over a whole micro-batch; depends on how a step is cut (arXiv:2101.03961, equations 4 to 6)."""

    kind: Literal["batch"] = "batch"
    weight: PositiveFloat = 1e-2
    """Weight in the loss, for each layer."""
    cut_invariant: ClassVar[bool] = False
    """Whether a step's gradient is the same however the step is cut into micro-batches."""


BalanceSection = Annotated[SequenceBalanceConfig | ImportanceBalanceConfig | BatchBalanceConfig, ByKind()]
