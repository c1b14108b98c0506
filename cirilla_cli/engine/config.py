"""Sections of a training run; torch-free."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, Section, Texts
from cirilla_cli.model.config import DecoderConfig, Pooling
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.units import Bytes, Fraction, PartialShare, PositiveCount, Seconds, Span

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from cirilla_cli.engine.objectives.classification import Classification
    from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy
    from cirilla_cli.engine.objectives.dpo import DPO
    from cirilla_cli.engine.objectives.multi_token import MultiTokenPrediction


LOGITS_BYTES = 268_435_456
"""Most memory for logits at once where nothing else is said."""


class CrossEntropyConfig(Section):
    """Cross-entropy of the next token: pretraining, and fine-tuning where the data says which tokens count."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: PartialShare = 0.0
    """Share of the target's probability spread evenly over the vocabulary; validation never has it."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-partition, 1e-4 keeps logits from drifting (arXiv:2204.02311, section 5)."""

    def build(self, *, logits_bytes: int = LOGITS_BYTES) -> "CrossEntropy":
        """The objective, with these settings: cross-entropy of the next token."""

        from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy

        return CrossEntropy(self, logits_bytes=logits_bytes)


class DPOConfig(Section):
    """Direct preference optimisation against the model the run starts from (arXiv:2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    beta: PositiveFloat = 0.1
    """How hard the policy is held to the reference; smaller lets it move further."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a preference is the wrong way round (conservative DPO)."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' cross-entropy per token, which keeps them from becoming less likely too."""

    def build(self, *, logits_bytes: int = LOGITS_BYTES) -> "DPO":
        """The objective, with these settings: direct preference optimization."""

        from cirilla_cli.engine.objectives.dpo import DPO

        return DPO(self, logits_bytes=logits_bytes)


class MultiTokenConfig(Section):
    """Cross-entropy of the next token and of those after it, for a model with `mtp` (arXiv:2412.19437, section 2.2)."""

    kind: Literal["multi_token"] = "multi_token"
    depth: PositiveInt = 1
    """Tokens beyond the next; the same as the model's mtp.depth."""
    weight: PositiveFloat = 0.3
    """Weight of the mean of their losses; DeepSeek-V3 took 0.3, and 0.1 towards the end."""

    def build(self, *, logits_bytes: int = LOGITS_BYTES) -> "MultiTokenPrediction":
        """The objective, with these settings: cross-entropy at several distances."""

        from cirilla_cli.engine.objectives.multi_token import MultiTokenPrediction

        return MultiTokenPrediction(self, logits_bytes=logits_bytes)


class ClassificationConfig(Section):
    """Cross-entropy of each document's label: the model becomes a classifier of the labels in the data."""

    kind: Literal["classification"] = "classification"
    pooling: Pooling | None = None
    """Hidden states that are judged: mean, first or last; null for the mean of an encoder, the last of a decoder."""
    label_smoothing: PartialShare = 0.0
    """Share of the label's probability spread evenly over the classes; validation never has it."""

    def build(self, *, logits_bytes: int = LOGITS_BYTES) -> "Classification":
        """The objective, with these settings: cross-entropy of labels."""

        from cirilla_cli.engine.objectives.classification import Classification

        return Classification(self)


ObjectiveSection = Annotated[CrossEntropyConfig | DPOConfig | MultiTokenConfig | ClassificationConfig, ByKind()]


def pairing_problem(model: str, data: str, objective: str) -> str | None:
    """Why a model, data and an objective of these kinds teach nothing together; None if they do."""
    if (data == "labelled_text") != (objective == "classification"):
        return f"data.kind {data} with objective.kind {objective}: labelled_text and classification go together"
    if data == "masked_text" and objective != "cross_entropy":
        return f"data.kind masked_text with objective.kind {objective}: tokens are restored by cross_entropy"
    if model == "encoder" and data not in ("masked_text", "labelled_text"):
        return f"model.kind encoder with data.kind {data}: an encoder sees what follows, so it cannot learn to continue"
    if model == "decoder" and data == "masked_text":
        return "model.kind decoder with data.kind masked_text: a decoder cannot see what follows; take packed_text"
    if model == "classifier" and data != "labelled_text":
        return f"the model is a classifier, which learns from labelled_text, not from {data}"
    return None


def blind_misfits(model: DecoderConfig) -> dict[str, str]:
    """Mixers, by key, with which a decoder would see what it is to predict."""
    return {
        f"model.mixers.{letter}.causal": "is false, must be true in a decoder, or it sees the tokens it is to predict"
        for letter, mixer in model.mixers.items()
        if isinstance(mixer, AttentionConfig) and not mixer.causal
    }


def ahead_misfits(model: DecoderConfig, objective: ObjectiveSection, *, fresh: bool) -> dict[str, str]:
    """What is wrong, by key, with an objective for a model and its steps ahead.

    Args:
        fresh: the model is born in this run, so that nothing else has trained its steps.
    """
    has = model.mtp.depth if model.mtp else 0
    if not isinstance(objective, MultiTokenConfig):
        remedy = f"objective={{kind: multi_token, depth: {has}}}, or model.mtp=null"
        return {"model.mtp": f"predicts further tokens, and nothing trains them: {remedy}"} if fresh and has else {}
    if not has:
        remedy = f"model.mtp={{kind: chained, depth: {objective.depth}}}" if fresh else "objective.kind=cross_entropy"
        return {"objective.depth": f"is {objective.depth}, but the model predicts no token beyond the next: {remedy}"}
    if objective.depth != has:
        return {"objective.depth": f"is {objective.depth}, must be {has}, the depth of the model's `mtp`"}
    if has >= model.context_length:
        said = f"is {model.context_length}, must be more than {has}, the depth of the model's `mtp`"
        return {"model.context_length": said}
    return {}


class _AdamW(Section):
    # Here too, so that it stays the first of the keys.
    kind: Literal["adamw", "adamw_8bit"]
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    beta1: Fraction = 0.9
    """Decay of the gradient average."""
    beta2: Fraction = 0.95
    """Decay of the squared gradient average."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the squared average."""
    weight_decay: NonNegativeFloat = 0.1
    """Pull of matrices towards zero, times the learning rate; norms and other vectors are left alone."""


class AdamWConfig(_AdamW):
    """AdamW with decay on matrices only (arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"

    def build(self, model: "nn.Module") -> "Optimizer":
        """AdamW over all of the model's parameters."""

        from cirilla_cli.engine.optim.adamw import adamw

        return adamw(self, model)


class MuonConfig(Section):
    """Muon for the hidden matrices, each expert's too; AdamW for embeddings, head, routers and vectors."""

    kind: Literal["muon"] = "muon"
    lr: PositiveFloat = 0.02
    """Peak learning rate of the hidden matrices, scaled by sqrt(max(1, rows / columns))."""
    momentum: Fraction = 0.95
    """Decay of the gradient average that is orthogonalised."""
    ns_steps: PositiveInt = 5
    """Newton-Schulz iterations."""
    weight_decay: NonNegativeFloat = 0.0
    """Pull of the hidden matrices towards zero, times the learning rate."""
    adamw: AdamWConfig = AdamWConfig(lr=3e-3, weight_decay=0.0)
    """Everything that is not a hidden matrix."""
    qk_clip: PositiveFloat | None = None
    """Largest attention logit: heads that exceed it in a step get smaller queries and keys after it (MuonClip,
    arXiv:2507.20534; 100 there); null leaves them. For attention without qk_norm."""

    def build(self, model: "nn.Module") -> "Optimizer":
        """Muon over the hidden matrices, AdamW over the model's other parameters."""

        from cirilla_cli.engine.optim.muon import muon

        return muon(self, model)


class AdamW8bitConfig(_AdamW):
    """AdamW whose two averages take one byte a number each, in blocks of 256 with a scale (arXiv:2110.02861)."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"

    def build(self, model: "nn.Module") -> "Optimizer":
        """AdamW with averages in 8 bits over all of the model's parameters."""

        from cirilla_cli.engine.optim.adamw_8bit import adamw_8bit

        return adamw_8bit(self, model)


OptimSection = Annotated[AdamWConfig | MuonConfig | AdamW8bitConfig, ByKind()]


class _Schedule(Section):
    warmup: Span = 0.01
    """Steps, or share of the run, over which the learning rate rises from zero."""


class CosineConfig(_Schedule):
    """Rise, then half a cosine down towards `min_frac`, which the step after the last would have."""

    kind: Literal["cosine"] = "cosine"
    min_frac: Fraction = 0.1
    """Share of the peak that the curve ends in, so that the last step still learns where it is 0."""


class WSDConfig(_Schedule):
    """Rise, hold, and come down over the last part: the middle can be prolonged later (arXiv:2404.06395)."""

    kind: Literal["wsd"] = "wsd"
    decay: Span = 0.2
    """Steps, or share of the run, over which the learning rate comes down."""
    shape: Literal["linear", "sqrt"] = "linear"
    """Straight down, or 1 - sqrt(t), which falls faster at first."""
    min_frac: Fraction = 0.0
    """Share of the peak that the decay ends in, at the step after the last, so that the last step still learns."""


class ConstantConfig(_Schedule):
    """Rise, then stay."""

    kind: Literal["constant"] = "constant"


ScheduleSection = Annotated[CosineConfig | WSDConfig | ConstantConfig, ByKind()]


class EarlyStoppingConfig(Section):
    """Stop when validation has not improved for a while; the best checkpoint is kept."""

    patience: PositiveInt = 3
    """Evaluations without improvement before stopping."""
    min_improvement: NonNegativeFloat = 0.0
    """Smaller improvements of the validation loss do not count."""


class AverageConfig(Section):
    """A moving average of the weights, which is what validation, `eval`, `generate` and `push` then use."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Weight of what was there before, each step; (1 + t) / (10 + t) while that is less."""


class DivergenceConfig(Section):
    """What counts as divergence besides a loss that is not a number, and what happens then."""

    action: Literal["stop", "rollback"] = "stop"
    """stop ends the run; rollback goes back to the last good checkpoint and leaves out the batches that led there."""
    spike: PositiveFloat | None = 6.0
    """Standard deviations above its running mean that the loss may not stay; null: what is not a number alone."""
    window: PositiveInt = 100
    """Steps that mean and deviation look back over; as many pass before the first loss is judged."""
    patience: PositiveInt = 3
    """Steps in a row above that make a divergence."""
    most: PositiveInt = 3
    """Returns of a run before it stops after all."""


class TrainConfig(Section):
    """How long, in what portions."""

    steps: PositiveCount | None = None
    """Optimizer steps; give exactly one of steps, tokens and epochs."""
    tokens: PositiveCount | None = None
    """Tokens read, rounded up to whole steps."""
    epochs: PositiveFloat | None = None
    """Passes over the training data, rounded up to whole steps."""
    batch_tokens: PositiveCount = 32768
    """Tokens of one optimizer step, rounded down to whole rows of the context length (one at least)."""
    micro_batch_tokens: Literal["auto"] | PositiveCount | None = None
    """Tokens of one forward pass; null for the whole batch, auto for as many whole rows as memory holds, which is found
    out before the first step and then kept for the run. Without dropout the gradient does not depend on it, apart
    from rounding; with dropout each pass draws its own masks."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Longer gradients are scaled down to this; null leaves them."""
    max_epochs: PositiveFloat | None = None
    """Stop after so many passes over the data: beyond about four, text teaches little (arXiv:2305.16264)."""
    early_stopping: EarlyStoppingConfig | None = None
    """Stop on stagnating validation loss; null trains to the end."""
    divergence: DivergenceConfig | None = None
    """Watch for losses that shoot up; null ends the run only where loss or gradient are not numbers any more."""
    ema: AverageConfig | None = None
    """Keep a moving average of the weights, for 4 bytes a parameter; null uses the weights as they are."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, tokens and epochs; given: {', '.join(given) or 'none'}")
        return self


class PrecisionConfig(Section):
    """Number formats."""

    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Format of the forward and backward pass; auto is bfloat16 where the hardware multiplies it, float16 with a scaled
    loss on GPUs that do not, else float32."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Format in which weights are kept; updates of bfloat16 ones are rounded up or down by chance, so that they are
    right on average. Gradients, and what the optimizer remembers, are float32 either way."""


class FullCheckpointingConfig(Section):
    """Keep what enters each block, and compute the rest again in the backward pass (arXiv:1604.06174, section 4.1)."""

    kind: Literal["full"] = "full"


class SelectiveCheckpointingConfig(Section):
    """Compute some blocks again, and keep the others' activations: between nothing and full in memory and time."""

    kind: Literal["selective"] = "selective"
    every: Annotated[int, Field(ge=2)] = 2
    """Of so many blocks one is computed again, the first of all among them."""


RecomputeSection = Annotated[FullCheckpointingConfig | SelectiveCheckpointingConfig, ByKind()]


class MemoryConfig(Section):
    """What is traded for memory."""

    checkpointing: RecomputeSection | None = None
    """Activation checkpointing: forget activations and compute them again in the backward pass, for the same gradient;
    null keeps them all."""

    logits_bytes: Bytes = LOGITS_BYTES
    """Most memory for logits at once; the loss is computed in chunks of this size."""

    fused_backward: bool = False
    """Move each parameter as soon as its gradient is there, and free that, so that all gradients are never held at once
    (arXiv:2306.09782); wants one micro-batch a step, one process and train.max_grad_norm null."""


class DDPConfig(Section):
    """Every process holds all weights and takes part of each step (data parallel); one process takes it all."""

    kind: Literal["ddp"] = "ddp"


class FSDPConfig(Section):
    """Every process holds part of all weights, gradients and optimizer states too (FSDP2, arXiv:2304.11277)."""

    kind: Literal["fsdp"] = "fsdp"


ParallelSection = Annotated[DDPConfig | FSDPConfig, ByKind()]


@dataclass(frozen=True)
class Place:
    """Which of the processes of a run this is, as its launcher says."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Its number on its own machine, which is that of its GPU."""
    local_size: int = 1
    """Processes on its own machine."""
    attempt: int = 0
    """How often the launcher has started the processes again."""


def _is_place(value: str) -> str:
    if re.fullmatch(r"dir:.+|[\w.-]+/[\w.-]+", value) is None:
        raise ValueError("must be dir:PATH for a folder, or OWNER/NAME for a repository on the Hub")
    return value


class CheckpointingConfig(Section):
    """When the run's state is written, and how much of it is kept."""

    every: Span = 0.25
    """Steps, or share of the run, between checkpoints; the last step is always saved."""
    every_time: Seconds | None = 600.0
    """Save also after this much time without a checkpoint; null for by steps alone."""
    keep: PositiveInt = 2
    """Newest checkpoints kept, besides the best."""
    mirror: Annotated[str, AfterValidator(_is_place)] | None = None
    """Where checkpoints are copied while training goes on, and where a run whose folder is empty continues from:
    dir:PATH, or OWNER/NAME for a private repository on the Hub."""
    asynchronous: bool = False
    """Write while training goes on, from a copy of weights and optimizer in RAM; false stops training meanwhile."""


class EvaluationConfig(Section):
    """What is measured while training."""

    every: Span = 0.1
    """Steps, or share of the run, between evaluations; the last step is always evaluated."""
    max_tokens: PositiveCount = 200_000
    """Most validation tokens read each time."""
    prompts: Texts = ()
    """Prompts continued at each evaluation, so that progress can be read."""
    sample_tokens: PositiveInt = 48
    """Length of those continuations."""


class WandbConfig(Section):
    """Where Weights & Biases keeps a run; who may write there is said by `wandb login`, never by a recipe."""

    project: str
    """Project that the run belongs to."""
    entity: str | None = None
    """Person or team whose project it is; null for the one that is logged in."""
    name: str | None = None
    """What the run is called there; null for the name of its folder."""


class LogConfig(Section):
    """What a run writes down; metrics.jsonl is always written."""

    every: PositiveInt = 10
    """Steps between lines of metrics.jsonl; the last step is always written."""
    plot: bool = True
    """Draw curves.png at the end."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run."""
    wandb: WandbConfig | None = None
    """Also send the figures to Weights & Biases, or with WANDB_MODE=offline keep them in the run for `wandb sync`."""
