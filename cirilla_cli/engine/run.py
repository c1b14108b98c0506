"""Builds what a training recipe says, then fits: pretrain, sft and dpo alike.

Job --tokenizer, shards--> BatchSource --+
Job --fresh, loaded or resumed--> Decoder, optimizer, state --+--> Trainer.fit --> run directory
"""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cirilla_cli.checkpoint import Checkpoint, Config, Found, newest_sound, no_room
from cirilla_cli.compat import device_problem, pick_device
from cirilla_cli.data.batches import BatchSource, Conversations, Cut, Mix, PackedText, Preferences
from cirilla_cli.data.config import (
    ConversationsConfig,
    DataSection,
    LabelledTextConfig,
    MaskedTextConfig,
    PackedTextConfig,
    PreferencesConfig,
    TextSourceConfig,
    TokenizerSection,
)
from cirilla_cli.data.labelled_batches import LabelledText
from cirilla_cli.data.masked import MaskedText, Masking
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.engine.config import (
    CheckpointingConfig,
    ClassificationConfig,
    CrossEntropyConfig,
    DPOConfig,
    EvaluationConfig,
    LogConfig,
    MemoryConfig,
    MultiTokenConfig,
    ObjectiveSection,
    OptimSection,
    PrecisionConfig,
    ScheduleSection,
    TrainConfig,
    WSDConfig,
)
from cirilla_cli.engine.hooks import (
    Evaluate,
    Log,
    SaveCheckpoints,
    ShowProgress,
    ShowSamples,
    StopEarly,
    TensorBoard,
    order,
)
from cirilla_cli.engine.interrupt import Interrupts
from cirilla_cli.engine.labelled import learner, prepare_labelled
from cirilla_cli.engine.lock import check_same_run, write_lock
from cirilla_cli.engine.metrics import matmul_rate
from cirilla_cli.engine.objectives.classification import Classification
from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy
from cirilla_cli.engine.objectives.dpo import DPO
from cirilla_cli.engine.objectives.multi_token import MultiTokenPrediction
from cirilla_cli.engine.precision import compute_dtype, forward_of
from cirilla_cli.engine.reference import attach_reference, check_first_loss
from cirilla_cli.engine.report import TrainReport, report_of
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.shards import Prepared, prepare
from cirilla_cli.engine.trainer import Trainer, TrainState
from cirilla_cli.errors import CirillaError, missing_extra
from cirilla_cli.fs import NO_ROOM, write_json, write_text
from cirilla_cli.loading import load_any
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import CheckpointConfig, DecoderConfig, EncoderConfig, ResolvedModel
from cirilla_cli.model.count import parameters, train_flops_per_token
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_count

Base = Found[Model, Config]

_OWN = (
    "checkpoints",
    "metrics.jsonl",
    "samples.jsonl",
    "lock.json",
    "curves.png",
    "shards",
    "tensorboard",
    "report.json",
)


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


def train(job: Job, progress: Progress, *, restart: bool = False, insist: bool = False) -> TrainReport:
    """Run ``job``, or continue it where an earlier sitting ended.

    Args:
        restart: forget what the run directory holds (`--fresh`).
        insist: refuse to begin anew (`--resume`).

    Raises:
        CirillaError: the recipe does not fit its data or the run that stands there, or the disk is full.
        InterruptedRun: stopped by a signal, state saved.
    """
    try:
        return _train(job, progress, restart=restart, insist=insist)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room(job.out, Path(error.filename or job.out)) from None


def _train(job: Job, progress: Progress, *, restart: bool, insist: bool) -> TrainReport:
    if problem := device_problem(job.device):
        raise CirillaError(f"`device` is {job.device!r}: {problem}", hint="device=cpu, or leave it out")
    _keep_base(job)
    if restart:
        forget(job.out)
    lock = check_same_run(job.out, job.resolved)
    newest = newest_sound(job.out, progress)
    if insist and newest is None:
        raise CirillaError(f"{job.out}: no checkpoint to resume from", hint="leave --resume out to begin")
    started = time.perf_counter()
    interrupts = Interrupts()
    trainer, prepared = _build(job, lock, newest, interrupts, progress)
    begun = trainer.state.step
    done = trainer.state.stopped_early or begun >= trainer.steps
    if done:
        trainer.stop = "it is done already"
    elif begun:
        progress.say(f"continuing {job.out} after step {begun} of {trainer.steps}")
    # Only while there is something to save: before, Ctrl-C simply ends the program.
    with interrupts:
        metrics = trainer.fit()
    if trainer.stop and not done:
        progress.say(f"stopped at step {trainer.state.step}: {trainer.stop}")
    report = report_of(job.out, trainer, metrics, time.perf_counter() - started, begun, done=done)
    # A run that was killed after its last checkpoint has none yet.
    if not (done and (job.out / "report.json").is_file()):
        write_json(job.out / "report.json", {key: value for key, value in report.__dict__.items() if key != "out"})
    return report


def _keep_base(job: Job) -> None:
    """Raises: CirillaError: the run would write over the model it starts from."""
    if isinstance(job.model, CheckpointConfig):
        base, out = Path(job.model.path).resolve(), job.out.resolve()
        if base == out or out / "checkpoints" in base.parents:
            raise CirillaError(
                f"`out` is {str(job.out)!r}, where the model to start from lies: {job.model.path}",
                hint="--out names another folder",
            )


def forget(out: Path) -> None:
    """Remove what a run wrote into ``out``, and nothing else."""
    for name in _OWN:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _build(
    job: Job, lock: dict[str, Any] | None, newest: Checkpoint | None, interrupts: Interrupts, progress: Progress
) -> tuple[Trainer, Prepared]:
    device = pick_device(job.device)
    base = _base(job, device, newest, progress)
    prepared = _data(job, base, newest, progress)
    model = _model(job, base, prepared, device, newest)
    dtype = compute_dtype(job.precision, device)
    if lock is not None:
        _check_lock(job, lock, prepared, device, dtype, progress)
    cut = _cut(job, model.config, prepared.tokenizer)
    steps, source = _source(job, prepared, cut, progress)
    trainer = Trainer(
        model=model, objective=_objective(job), source=source, optimizer=job.optim.build(model),
        schedule=Schedule(job.schedule, steps), steps=steps, seed=job.seed, device=device, dtype=dtype,
        max_grad_norm=job.train.max_grad_norm,
    )  # fmt: skip
    if newest is not None:
        trainer.state = _state(newest)
        newest.load_optimizer(trainer.optimizer, model)
    if isinstance(source, Preferences):
        _reference(job, trainer, source, base, prepared, progress)
    trainer.hooks = _hooks(job, trainer, prepared, cut, interrupts, progress)
    if lock is None:
        # Only now: a recipe that was refused above may be mended without starting over.
        write_lock(job.out, job.resolved, prepared.fingerprints(), _where(device, dtype), {})
        for name, text in job.texts.items():
            write_text(job.out / name, text)
    if newest is None:
        progress.say(_summary(job, trainer, source, cut))
    return trainer, prepared


def _where(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    from cirilla_cli.engine.lock import machine

    return machine(device, dtype)


def _check_lock(
    job: Job, lock: dict[str, Any], prepared: Prepared, device: torch.device, dtype: torch.dtype, progress: Progress
) -> None:
    from cirilla_cli.engine.lock import check_data, say_machine_changes

    check_data(job.out, lock, prepared.fingerprints())
    say_machine_changes(lock, _where(device, dtype), progress)


def _base(job: Job, device: torch.device, newest: Checkpoint | None, progress: Progress) -> Base | None:
    """The model the run starts from; not loaded again where a checkpoint of the run itself goes on."""
    if not isinstance(job.model, CheckpointConfig):
        return None
    if newest is not None and job.verb != "dpo":
        return None
    return load_any(job.model.path, device=str(device), dtype=torch.float32, progress=progress)


def _data(job: Job, base: Base | None, newest: Checkpoint | None, progress: Progress) -> Prepared:
    folder = base.path if base is not None else None
    if folder is None and newest is not None and isinstance(job.model, CheckpointConfig):
        folder = newest.path
    if folder is not None and base is not None and base.tokenizer is None:
        raise CirillaError(f"{folder}: the model has no tokenizer, so no text can be prepared for it")
    if isinstance(job.data, LabelledTextConfig):
        return prepare_labelled(job.data, section=job.tokenizer, model_folder=folder, out=job.out)
    match job.data:
        case PackedTextConfig(sources=sources) | MaskedTextConfig(sources=sources):
            paths = {name: source.path for name, source in sources.items()}
            kinds: tuple[Any, ...] = ("text", "chat")
        case ConversationsConfig(path=several):
            paths, kinds = {f"part{i}": path for i, path in enumerate(several)}, ("chat",)
        case PreferencesConfig(path=several):
            paths, kinds = {f"part{i}": path for i, path in enumerate(several)}, ("preference",)
    if not paths:
        raise CirillaError("`data` names no source", hint="data.sources.NAME.path=..., or data.path=...")
    return prepare(
        paths, kinds, val=job.data.val, section=job.tokenizer, model_folder=folder, out=job.out, progress=progress
    )


def _model(job: Job, base: Base | None, prepared: Prepared, device: torch.device, newest: Checkpoint | None) -> Model:
    if newest is not None:
        model = newest.load_model(device, torch.float32)
    elif not isinstance(job.model, CheckpointConfig):
        model = _fresh(job, job.model, prepared, device)
    else:
        assert base is not None
        model = base.model
    if isinstance(job.model, CheckpointConfig):
        _retune(model, job.model)
    return learner(_checked(model, prepared), job.data, job.objective, prepared, seed=job.seed, device=device)


def _fresh(job: Job, config: DecoderConfig | EncoderConfig, prepared: Prepared, device: torch.device) -> Model:
    vocab = config.vocab_size or prepared.tokenizer.vocab_size
    return fresh(config.changed(vocab_size=vocab), seed=job.seed, device=device)


def _retune(model: Model, config: CheckpointConfig) -> None:
    """Give a loaded model the dropout and row length of this run."""
    changes: dict[str, Any] = {"dropout": config.dropout}
    if config.context_length is not None:
        changes["context_length"] = config.context_length
    model.config = model.config.changed(**changes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = config.dropout


def _checked(model: Model, prepared: Prepared) -> Model:
    if (model.config.vocab_size or 0) < prepared.tokenizer.vocab_size:
        raise CirillaError(
            f"`model.vocab_size` is {model.config.vocab_size}, "
            f"must be at least the tokenizer's {prepared.tokenizer.vocab_size}",
            hint="leave vocab_size out to take the tokenizer's",
        )
    return model


def _cut(job: Job, config: Config, tokenizer: Tokenizer) -> Cut:
    rows = max(1, job.train.batch_tokens // config.context_length)
    micro = job.train.micro_batch_tokens
    return Cut(
        context_length=config.context_length,
        rows_per_step=rows,
        rows_per_micro_batch=rows if micro is None else min(rows, max(1, micro // config.context_length)),
        seed=job.seed,
        pad_id=tokenizer.pad_id,
    )


def _source(job: Job, prepared: Prepared, cut: Cut, progress: Progress) -> tuple[int, BatchSource[Any]]:
    """How many steps, and the batches of each."""
    match job.data:
        case PackedTextConfig(sources=sources) | MaskedTextConfig(sources=sources):
            mixes = [
                Mix(
                    prepared.split(name, "train"), prepared.split(name, "val"), source.weight,
                    source.weight if source.decay_weight is None else source.decay_weight,
                )
                for name, source in sources.items()
            ]  # fmt: skip
            _check_weights(job, sources)
            _not_empty(min(mix.train.n_tokens for mix in mixes))
            rows = sum(max(1, mix.train.n_tokens // cut.context_length) for mix in mixes)
            steps = _steps(job, rows, cut, progress)
            text = PackedText(mixes, cut, steps=steps, decay_start=Schedule(job.schedule, steps).decay_start)
            if isinstance(job.data, MaskedTextConfig):
                return steps, MaskedText(text, Masking.of(job.data, prepared.tokenizer))
            return steps, text
        case ConversationsConfig():
            chats = Conversations(prepared.splits("train"), prepared.splits("val"), cut)
            if chats.truncated:
                progress.say(
                    f"{chats.truncated} conversations are longer than {cut.context_length} tokens and were cut"
                )
            source: Conversations | Preferences | LabelledText = chats
        case LabelledTextConfig():
            source = LabelledText(prepared.splits("train"), prepared.splits("val"), cut)
            if source.truncated:
                progress.say(f"{source.truncated} texts are longer than {cut.context_length} tokens and were cut")
        case PreferencesConfig():
            source = Preferences(prepared.splits("train"), prepared.splits("val"), cut)
    if source.dropped:
        progress.say(
            f"{source.dropped} rows have nothing to learn within {cut.context_length} tokens and were left out"
        )
    _not_empty(source.rows_per_epoch)
    return _steps(job, source.rows_per_epoch, cut, progress), source


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


def _not_empty(size: int) -> None:
    if size == 0:
        raise CirillaError(
            "the training data, or a source of it, is empty: "
            "nothing is left after the held-out part and what does not fit",
            hint="lower `data.val`, raise `model.context_length`, or bring more data",
        )


def _steps(job: Job, rows_per_epoch: int, cut: Cut, progress: Progress) -> int:
    per_step = cut.rows_per_step
    if job.train.steps is not None:
        steps = job.train.steps
    elif job.train.tokens is not None:
        steps = math.ceil(job.train.tokens / (per_step * cut.context_length))
    else:
        steps = math.ceil((job.train.epochs or 1) * rows_per_epoch / per_step)
    cap = job.train.max_epochs
    if cap is not None and steps * per_step > cap * rows_per_epoch:
        capped = max(1, math.floor(cap * rows_per_epoch / per_step))
        progress.say(
            f"{steps} steps would read the data more than {cap:g} times; {capped} steps instead (train.max_epochs)"
        )
        return capped
    return max(1, steps)


def _objective(job: Job) -> CrossEntropy | DPO | MultiTokenPrediction | Classification:
    match job.objective:
        case CrossEntropyConfig():
            return CrossEntropy(job.objective, logits_bytes=job.memory.logits_bytes)
        case MultiTokenConfig():
            return MultiTokenPrediction(job.objective, logits_bytes=job.memory.logits_bytes)
        case DPOConfig():
            return DPO(job.objective, logits_bytes=job.memory.logits_bytes)
        case ClassificationConfig():
            return job.objective.build()


def _state(checkpoint: Checkpoint) -> TrainState:
    saved = checkpoint.state()
    return TrainState(**{name: saved[name] for name in TrainState.__dataclass_fields__ if name in saved})


def _reference(
    job: Job, trainer: Trainer, source: Preferences, base: Base | None, prepared: Prepared, progress: Progress
) -> None:
    """Reference values by the starting model, in the training forward; the first loss shows that they fit."""
    from cirilla_cli.data.rows import content_hash
    from cirilla_cli.fs import hash_file

    assert isinstance(trainer.objective, DPO)
    if base is not None:
        starting: Model = base.model
    else:
        assert not isinstance(job.model, CheckpointConfig)
        starting = _fresh(job, job.model, prepared, trainer.device)
    starting.eval()
    forward = forward_of(starting, trainer.dtype)
    weights = (
        hash_file(base.path / "model.safetensors")
        if base and (base.path / "model.safetensors").is_file()
        else str(base and base.path)
    )
    key = content_hash(
        weights, prepared.tokenizer.hash, prepared.fingerprints(), source.cut.context_length,
        source.cut.rows_per_micro_batch, _where(trainer.device, trainer.dtype),
    )  # fmt: skip
    path = job.out / "shards" / "reference.safetensors"
    attach_reference(source, trainer.objective, forward, path, key, trainer.device, progress)
    check_first_loss(source, trainer.objective, forward, trainer.device)


def _hooks(
    job: Job, trainer: Trainer, prepared: Prepared, cut: Cut, interrupts: Interrupts, progress: Progress
) -> list[Any]:
    evaluation, early = job.eval, job.train.early_stopping
    main = "dpo" if isinstance(trainer.objective, DPO) else "nll"
    if early is not None and (evaluation is None or not list(trainer.source.validation(1))):
        raise CirillaError(
            "`train.early_stopping` needs validation, and there is none",
            hint="set `data.val` above 0 and keep the eval section, or set train.early_stopping=null",
        )
    flops = train_flops_per_token(trainer.model.config, trainer.model.config.mean_context(cut.context_length))
    rate = matmul_rate(trainer.device, trainer.dtype)
    return order([
        Evaluate(evaluation, main) if evaluation else None,
        ShowSamples(evaluation, prepared.tokenizer, job.out, job.verb != "pretrain", progress)
        if evaluation and evaluation.prompts and isinstance(trainer.model, Decoder) else None,
        StopEarly(early) if early else None,
        Log(job.log, job.out, flops * cut.rows_per_step * cut.context_length, rate),
        _tensorboard(job) if job.log.tensorboard else None,
        ShowProgress(progress, job.verb),
        SaveCheckpoints(
            job.checkpoint, job.out, prepared.tokenizer, job.texts, interrupts, job.verb, prefer_best=early is not None
        ),
    ])  # fmt: skip


def _tensorboard(job: Job) -> TensorBoard:
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard")
    return TensorBoard(job.out, job.log.every)


def _summary(job: Job, trainer: Trainer, source: BatchSource[Any], cut: Cut) -> str:
    rows = trainer.steps * cut.rows_per_step
    return (
        f"{job.verb}: {show_count(parameters(trainer.model.config))} parameters, {trainer.steps} steps of "
        f"{show_count(cut.rows_per_step * cut.context_length)} tokens, {rows / source.rows_per_epoch:.1f} passes over "
        f"the data, {str(trainer.dtype).removeprefix('torch.')} on {trainer.device.type}"
    )
