"""Recipes of the training verbs: the same sections at every stage."""

from typing import Annotated, Self

from pydantic import model_validator

from cirilla_cli.config import ByKind, Misfits
from cirilla_cli.data.config import (
    ConversationsConfig,
    DataSection,
    LabelledTextConfig,
    MaskedTextConfig,
    PackedTextConfig,
    PreferencesConfig,
    TokenizerSection,
)
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    ClassificationConfig,
    CosineConfig,
    CrossEntropyConfig,
    DDPConfig,
    DPOConfig,
    EvaluationConfig,
    LogConfig,
    MemoryConfig,
    MultiTokenConfig,
    ObjectiveSection,
    OptimSection,
    ParallelSection,
    PrecisionConfig,
    ScheduleSection,
    TrainConfig,
    ahead_misfits,
    blind_misfits,
    pairing_problem,
)
from cirilla_cli.engine.savers import clip_misfits, saver_misfits
from cirilla_cli.model.config import BudgetConfig, DecoderConfig, ModelSection, StackConfig
from cirilla_cli.recipe.verbs.base import DeviceRecipe
from cirilla_cli.units import span_steps


class TrainRecipe(DeviceRecipe):
    """A training run: what is trained, on what, towards what, and how."""

    model: ModelSection
    """The model: a shape with fresh weights, or a checkpoint to go on from."""
    tokenizer: TokenizerSection | None = None
    """The tokenizer; null takes the one that the checkpoint or the token shards came with."""
    data: DataSection
    """What is read; its kind follows the verb."""
    objective: ObjectiveSection
    """What is minimised."""
    train: TrainConfig
    """How long, in what portions."""
    optim: OptimSection = AdamWConfig()
    """The optimizer."""
    schedule: ScheduleSection = CosineConfig()
    """The learning rate over the run."""
    precision: PrecisionConfig = PrecisionConfig()
    """Number formats."""
    memory: MemoryConfig = MemoryConfig()
    """What is traded for memory."""
    parallel: ParallelSection = DDPConfig()
    """How several processes share the work; how many there are is said by --nproc, or by torchrun."""
    checkpoint: CheckpointingConfig = CheckpointingConfig()
    """When state is saved."""
    eval: EvaluationConfig | None = EvaluationConfig()
    """What is measured while training; null measures nothing."""
    log: LogConfig = LogConfig()
    """What is written down."""
    deterministic: bool = False
    """Take only algorithms that give the same bits every time, which costs speed on a GPU; a CPU does anyway."""
    compile: bool = False
    """Compile the training passes of each block by itself (torch.compile): seconds to minutes before the first step for
    faster ones; attention, scans and experts keep their own kernels. Needs a C++ compiler on a CPU, Triton on CUDA."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if problem := pairing_problem(self.model.kind, self.data.kind, self.objective.kind):
            raise ValueError(problem)
        wrong = saver_misfits(self.train, self.optim, self.precision, self.memory, self.parallel)
        shape = self.model if isinstance(self.model, StackConfig) else None
        wrong |= clip_misfits(self.optim, shape, self.precision)
        if isinstance(self.model, DecoderConfig):
            blind = {} if self.objective.kind == "classification" else blind_misfits(self.model)
            wrong = ahead_misfits(self.model, self.objective, fresh=True) | blind | wrong
        Misfits.refuse(wrong | _rollback_misfits(self.train, self.checkpoint))
        return self


def _rollback_misfits(train: TrainConfig, checkpoint: CheckpointingConfig) -> dict[str, str]:
    """A way back that no checkpoint on schedule will ever open."""
    if train.divergence is None or train.divergence.action != "rollback":
        return {}
    every, with_it = checkpoint.every, "with train.divergence.action rollback"
    if not every:
        return {
            "checkpoint.every": f"is {every}, must be more than 0 {with_it}: after each step one is written, and the "
            "two that are kept lie too near to the trouble to go back twice"
        }
    if train.steps is None:
        late = isinstance(every, float) and every >= 1
    else:
        late = span_steps(every, train.steps) >= train.steps
    said = f"is {every}, must be shorter than the run {with_it}, which goes back to checkpoints on schedule alone"
    return {"checkpoint.every": said} if late else {}


class PretrainRecipe(TrainRecipe):
    """Next-token training on running text."""

    budget: BudgetConfig | None = None
    """What there is to train with; depth, length, batch and learning rate follow and take its place as it is read."""

    data: Annotated[PackedTextConfig | MaskedTextConfig, ByKind()]
    """Running text."""
    objective: Annotated[CrossEntropyConfig | MultiTokenConfig, ByKind()]
    """Cross-entropy of every token."""


class SftRecipe(TrainRecipe):
    """Fine-tuning on conversations: the assistant's turns are learned."""

    data: Annotated[ConversationsConfig | LabelledTextConfig, ByKind()]
    """Chats and tasks, or texts and their labels."""
    objective: Annotated[CrossEntropyConfig | ClassificationConfig, ByKind()]
    """Cross-entropy of the assistant's tokens, or of the labels."""


class DpoRecipe(TrainRecipe):
    """Alignment on pairs of a better and a worse answer."""

    data: PreferencesConfig
    """Pairs of answers."""
    objective: DPOConfig
    """Direct preference optimisation."""
