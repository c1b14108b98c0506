"""Recipes of the training verbs: the same sections at every stage."""

from cirilla_cli.data.config import (
    ConversationsConfig,
    DataSection,
    PackedTextConfig,
    PreferencesConfig,
    TokenizerSection,
)
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    CosineConfig,
    CrossEntropyConfig,
    DPOConfig,
    EvaluationConfig,
    LogConfig,
    MemoryConfig,
    ObjectiveSection,
    OptimSection,
    PrecisionConfig,
    ScheduleSection,
    TrainConfig,
)
from cirilla_cli.model.config import ModelSection
from cirilla_cli.recipe.verbs.base import DeviceRecipe


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
    checkpoint: CheckpointingConfig = CheckpointingConfig()
    """When state is saved."""
    eval: EvaluationConfig | None = EvaluationConfig()
    """What is measured while training; null measures nothing."""
    log: LogConfig = LogConfig()
    """What is written down."""


class PretrainRecipe(TrainRecipe):
    """Next-token training on running text."""

    data: PackedTextConfig
    """Running text."""
    objective: CrossEntropyConfig
    """Cross-entropy of every token."""


class SftRecipe(TrainRecipe):
    """Fine-tuning on conversations: the assistant's turns are learned."""

    data: ConversationsConfig
    """Chats and tasks."""
    objective: CrossEntropyConfig
    """Cross-entropy of the assistant's tokens."""


class DpoRecipe(TrainRecipe):
    """Alignment on pairs of a better and a worse answer."""

    data: PreferencesConfig
    """Pairs of answers."""
    objective: DPOConfig
    """Direct preference optimisation."""
