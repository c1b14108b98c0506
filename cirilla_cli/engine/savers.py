"""What savers of memory cannot be combined with; torch-free."""

from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    FSDPConfig,
    MemoryConfig,
    OptimSection,
    ParallelSection,
    PrecisionConfig,
    TrainConfig,
)


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
