"""One training run as its recipe says, and what can be said of it before anything is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cirilla_cli.compat import compile_problem, device_problem, pick_device, processes_problem
from cirilla_cli.data.config import (
    ConversationsConfig,
    DataSection,
    FormatName,
    LabelledTextConfig,
    MaskedTextConfig,
    PackedTextConfig,
    PreferencesConfig,
    TextSourceConfig,
    TokenizerSection,
)
from cirilla_cli.data.jsonl import STDIO
from cirilla_cli.data.shards import Kind
from cirilla_cli.engine.config import (
    CheckpointingConfig,
    DDPConfig,
    EvaluationConfig,
    FSDPConfig,
    LogConfig,
    MemoryConfig,
    ObjectiveSection,
    OptimSection,
    ParallelSection,
    Place,
    PrecisionConfig,
    ScheduleSection,
    TrainConfig,
    WSDConfig,
)
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.savers import clip_misfits, saver_misfits
from cirilla_cli.errors import CirillaError, missing_extra
from cirilla_cli.mirror import folder_of
from cirilla_cli.model.config import CheckpointConfig, ResolvedModel, StackConfig


@dataclass(frozen=True)
class Job:
    """One training run, as its recipe says."""

    verb: str
    out: Path
    model: ResolvedModel
    tokenizer: TokenizerSection | None
    data: DataSection
    objective: ObjectiveSection
    train: TrainConfig
    optim: OptimSection
    schedule: ScheduleSection
    precision: PrecisionConfig
    memory: MemoryConfig
    checkpoint: CheckpointingConfig
    eval: EvaluationConfig | None
    log: LogConfig
    seed: int
    device: str
    resolved: Mapping[str, Any]
    """The whole recipe as plain data: what must be the same for a run to be continued."""
    texts: Mapping[str, str]
    """Files that travel with every checkpoint: recipe.yaml, resolved.yaml."""
    parallel: ParallelSection = DDPConfig()
    place: Place = Place()
    """Which of the run's processes this is; no part of the recipe."""
    deterministic: bool = False
    compile: bool = False
    settled: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe leaves to the run, by key; goes into its lock."""

    @property
    def paths(self) -> dict[str, Path]:
        """Where the data lie, by the name of their source."""
        match self.data:
            case PackedTextConfig(sources=sources) | MaskedTextConfig(sources=sources):
                return {name: source.path for name, source in sources.items()}
            case ConversationsConfig(path=several) | PreferencesConfig(path=several) | LabelledTextConfig(path=several):
                return {f"part{i}": path for i, path in enumerate(several)}

    @property
    def formats(self) -> dict[str, FormatName | None]:
        """What the recipe says the rows of each source are."""
        match self.data:
            case PackedTextConfig(sources=sources) | MaskedTextConfig(sources=sources):
                return {name: source.format for name, source in sources.items()}
            case ConversationsConfig(format=format) | PreferencesConfig(format=format):
                return dict.fromkeys(self.paths, format)
            case LabelledTextConfig():
                return {}

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of rows that can be learned from, the best first."""
        match self.data:
            case PackedTextConfig() | MaskedTextConfig():
                return "text", "chat"
            case ConversationsConfig():
                return ("chat",)
            case PreferencesConfig():
                return ("preference",)
            case LabelledTextConfig():
                return ("labelled",)


def check_job(job: Job) -> None:
    """Raises: CirillaError: the recipe cannot be run here, whatever its data hold."""
    if problem := device_problem(job.device):
        raise CirillaError(f"`device` is {job.device!r}: {problem}", hint="device=cpu, or leave it out")
    if job.place.size > 1:
        _check_processes(job)
    _check_savers(job)
    if job.compile and (problem := compile_problem(pick_device(job.device))):
        raise CirillaError(f"`compile` is true, but {problem}", hint="compile=false trains without it")
    if isinstance(job.parallel, FSDPConfig) and job.train.ema is not None:
        raise CirillaError(
            "`train.ema` is given, but under `parallel.kind` 'fsdp' no process has the whole weights to average",
            hint="train.ema=null, or parallel.kind=ddp",
        )
    if not job.paths:
        raise CirillaError("`data` names no source", hint="data.sources.NAME.path=..., or data.path=...")
    if isinstance(job.model, CheckpointConfig):
        _keep_base(job.out.resolve(), Path(job.model.path).resolve(), job)
        if job.tokenizer is not None:
            raise CirillaError(
                "`tokenizer` is given, but the model is a checkpoint that has its own",
                hint="write `tokenizer: null`, or train a fresh model; for more pieces tokenize the data with "
                "tokenizer.kind=extended tokenizer.base=... first, and train on what that wrote",
            )
    if job.checkpoint.mirror is not None:
        _keep_apart(job.out.resolve(), job.checkpoint.mirror)
    if isinstance(job.data, PackedTextConfig | MaskedTextConfig):
        _check_weights(job, job.data.sources)
    if job.train.early_stopping is not None and job.eval is None:
        raise no_validation()
    if job.log.tensorboard and find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard")
    if job.log.wandb is not None and find_spec("wandb") is None:
        raise missing_extra("wandb", "wandb")


def _check_savers(job: Job) -> None:
    """Raises: CirillaError: a saver of memory cannot work with other settings, this device or several processes."""
    found = saver_misfits(job.train, job.optim, job.precision, job.memory, job.parallel)
    found |= clip_misfits(job.optim, job.model if isinstance(job.model, StackConfig) else None, job.precision)
    wrong = [f"`{key}` {said}" for key, said in found.items()]
    if job.memory.fused_backward and job.place.size > 1:
        wrong.append(
            f"`memory.fused_backward` is true, but there are {job.place.size} processes, whose gradients must be added "
            "up first: --nproc 1"
        )
    half = compute_dtype(job.precision, pick_device(job.device)) == torch.float16
    if half and job.memory.fused_backward and job.precision.compute == "auto":
        wrong.append(
            "`precision.compute` is 'auto', which is float16 on this device, must be float32 here with "
            "memory.fused_backward: a step whose scaled gradients overflow could not be left out"
        )
    if half and job.precision.weights == "bfloat16" and job.precision.compute == "auto":
        wrong.append(
            "`precision.weights` is 'bfloat16', must be float32 on this device, where precision.compute auto is float16"
        )
    if wrong:
        fused = "memory.fused_backward=false keeps gradients to the end of the step"
        raise CirillaError("\n".join(wrong), hint=fused if job.memory.fused_backward else None)


def _check_processes(job: Job) -> None:
    """Raises: CirillaError: several processes cannot run here, or cannot read what one could."""
    if problem := processes_problem(job.device, job.place.local_size):
        raise CirillaError(f"{job.place.local_size} processes on `device` {job.device!r}: {problem}", hint="--nproc 1")
    if STDIO in job.paths.values():
        raise CirillaError(
            "`data` is standard input, which several processes cannot share", hint="write the rows to a file first"
        )


def no_validation() -> CirillaError:
    """The error for early stopping that has nothing to go by."""
    return CirillaError(
        "`train.early_stopping` needs validation, and there is none",
        hint="set `data.val` above 0 and keep the eval section, or set train.early_stopping=null",
    )


def _keep_base(out: Path, base: Path, job: Job) -> None:
    """Raises: CirillaError: the run would write over the model it starts from."""
    if base == out or base.is_relative_to(out / "checkpoints"):
        raise CirillaError(
            f"`out` is {str(job.out)!r}, where the model to start from lies: {base}",
            hint="--out names another folder",
        )


def _keep_apart(out: Path, mirror: str) -> None:
    """Raises: CirillaError: the second place for checkpoints is the first, or a file."""
    folder = folder_of(mirror)
    if folder is not None and folder.is_file():
        raise CirillaError(
            f"`checkpoint.mirror` is {mirror!r}, which is a file, must be a folder", hint="checkpoint.mirror=dir:PATH"
        )
    if folder is not None and (folder.resolve().is_relative_to(out) or out.is_relative_to(folder.resolve())):
        raise CirillaError(
            f"`checkpoint.mirror` is {mirror!r}, which is not apart from the run in {out}",
            hint="checkpoint.mirror=dir:PATH with a folder on another disk",
        )


def _check_weights(job: Job, sources: Mapping[str, TextSourceConfig]) -> None:
    """Raises: CirillaError: weights that can have no effect, or that leave nothing to read."""
    late = [name for name, source in sources.items() if source.decay_weight is not None]
    if late and not isinstance(job.schedule, WSDConfig):
        raise CirillaError(
            f"`data.sources.{late[0]}.decay_weight` is given, but only schedule kind wsd has a decay phase",
            hint="schedule.kind=wsd, or leave decay_weight out",
        )
    if not any(source.weight for source in sources.values()):
        raise CirillaError(
            "every `weight` in `data.sources` is 0: there is nothing to read", hint="give one source a weight"
        )
    if not any(_late_weight(source) for source in sources.values()):
        raise CirillaError(
            "every weight in `data.sources` is 0 while the learning rate decays: there is nothing to read",
            hint="give one source a `decay_weight`",
        )


def _late_weight(source: TextSourceConfig) -> float:
    return source.weight if source.decay_weight is None else source.decay_weight
