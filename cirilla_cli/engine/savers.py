"""What savers of memory, and QK-clip, cannot be combined with; torch-free."""

from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    FSDPConfig,
    MemoryConfig,
    MuonConfig,
    OptimSection,
    ParallelSection,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.model.config import StackConfig
from cirilla_cli.model.mixers.config import AttentionConfig, LatentAttentionConfig, MixerSection


def saver_misfits(
    train: TrainConfig,
    optim: OptimSection,
    precision: PrecisionConfig,
    memory: MemoryConfig,
    parallel: ParallelSection,
) -> dict[str, str]:
    """Settings, by key, with which a saver of memory cannot do its work."""
    wrong = _fused_misfits(train, precision, parallel) if memory.fused_backward else {}
    if precision.weights == "bfloat16" and precision.compute == "float16":
        wrong["precision.weights"] = (
            "is 'bfloat16', must be float32 with precision.compute float16, in which larger ones have no place"
        )
    elif precision.weights == "bfloat16" and isinstance(parallel, FSDPConfig):
        wrong["precision.weights"] = (
            "is 'bfloat16', must be float32 with parallel.kind fsdp: what is drawn would depend on the parts"
        )
    if isinstance(parallel, FSDPConfig) and train.micro_batch_tokens == "auto":
        wrong["train.micro_batch_tokens"] = (
            "is 'auto', must be a number with parallel.kind fsdp: what each process holds depends on how many there are"
        )
    if isinstance(parallel, FSDPConfig) and isinstance(optim, AdamW8bitConfig):
        wrong["optim.kind"] = (
            "is 'adamw_8bit', must be adamw or muon with parallel.kind fsdp: its blocks of numbers are not cut as "
            "sharded weights are"
        )
    return wrong


def clip_misfits(optim: OptimSection, shape: StackConfig | None, precision: PrecisionConfig) -> dict[str, str]:
    """Settings, by key, with which QK-clip cannot do its work; ``shape`` is the model's where the recipe says it."""
    if not isinstance(optim, MuonConfig) or optim.qk_clip is None:
        return {}
    said = f"is {optim.qk_clip:g}, must be null"
    wrong = ""
    if precision.weights == "bfloat16":
        wrong = "with precision.weights bfloat16: a factor near 1 would be lost in rounding"
    elif shape is not None and not any(_clips(mixer) for mixer in shape.layer_mixers()):
        wrong = "in a model whose attention layers, if any, all normalise queries and keys (qk_norm) or are dilated"
    return {"optim.qk_clip": f"{said} {wrong}"} if wrong else {}


def _clips(mixer: MixerSection) -> bool:
    return isinstance(mixer, LatentAttentionConfig) or (isinstance(mixer, AttentionConfig) and not mixer.qk_norm)


def _fused_misfits(train: TrainConfig, precision: PrecisionConfig, parallel: ParallelSection) -> dict[str, str]:
    wrong: dict[str, str] = {}
    fused = "with memory.fused_backward"
    if train.max_grad_norm is not None:
        wrong["train.max_grad_norm"] = (
            f"is {train.max_grad_norm:g}, must be null {fused}: gradients are gone before their common length is known"
        )
    micro = train.micro_batch_tokens
    if micro is not None and (micro == "auto" or micro < train.batch_tokens):
        wrong["train.micro_batch_tokens"] = (
            f"is {micro!r}, must be null or train.batch_tokens ({train.batch_tokens}) {fused}: "
            "gradients of several micro-batches would have to be kept until they are added up"
        )
    if precision.compute == "float16":
        wrong["precision.compute"] = (
            f"is 'float16', must be bfloat16 or float32 {fused}: "
            "a step whose scaled gradients overflow could not be left out"
        )
    if isinstance(parallel, FSDPConfig):
        wrong["parallel.kind"] = (
            f"is 'fsdp', must be ddp, with one process, {fused}: gradients of several would have to be added first"
        )
    return wrong
