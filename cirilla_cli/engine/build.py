"""Builds what a job says: the model, its data, and the trainer with everything that looks on.

Job --tokenizer, shards--> BatchSource --+
Job --fresh, loaded or resumed--> Decoder, optimizer, state --+--> Trainer
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cirilla_cli.checkpoint import AVERAGE, Checkpoint, Config, Found, on_its_device, read_tensors
from cirilla_cli.compat import pick_device
from cirilla_cli.data.batches import BatchSource, Cut, Preferences
from cirilla_cli.data.config import LabelledTextConfig
from cirilla_cli.data.rows import content_hash
from cirilla_cli.engine.average import MovingAverage
from cirilla_cli.engine.compiled import SayCompiled, compile_blocks, rehearse
from cirilla_cli.engine.config import FSDPConfig, MultiTokenConfig, MuonConfig, ahead_misfits
from cirilla_cli.engine.divergence import Watch
from cirilla_cli.engine.hooks import (
    Evaluate,
    Log,
    ShowProgress,
    ShowSamples,
    StopEarly,
    TensorBoard,
    order,
)
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.labelled import learner, prepare_labelled
from cirilla_cli.engine.lock import (
    Began,
    check_base,
    check_data,
    check_same_run,
    machine,
    say_machine_changes,
    weights_hash,
    write_lock,
)
from cirilla_cli.engine.metrics import matmul_rate
from cirilla_cli.engine.objectives.dpo import DPO
from cirilla_cli.engine.optim.qk_clip import QKClip
from cirilla_cli.engine.parallel import ALONE, Ranks, shard, sharded_as
from cirilla_cli.engine.precision import compute_dtype, forward_of
from cirilla_cli.engine.recompute import checkpoint_activations
from cirilla_cli.engine.reference import attach_reference, check_first_loss
from cirilla_cli.engine.rounding import RoundedOneByOne, store
from cirilla_cli.engine.saving import SaveCheckpoints, Sitting
from cirilla_cli.engine.scaling import Scaling
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.shards import Prepared, fingerprints, finished, prepare
from cirilla_cli.engine.sources import cut_of, source_of
from cirilla_cli.engine.trainer import Trainer, TrainState
from cirilla_cli.engine.vocabulary import grown
from cirilla_cli.engine.weights_and_biases import WeightsAndBiases
from cirilla_cli.engine.within import OneByOne, WithinBackward
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import write_text
from cirilla_cli.loading import load_any
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import CheckpointConfig, ClassifierConfig, DecoderConfig
from cirilla_cli.model.count import parameters, train_flops_per_token
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_count

Base = Found[Model, Config]
"""A model that a run starts from."""


@dataclass(frozen=True)
class Inputs:
    """What a run reads."""

    base: Base | None
    """The model it starts from; None for fresh weights, and where a checkpoint of the run itself goes on."""
    prepared: Prepared

    def began(self, where: dict[str, Any]) -> Began:
        """What the run's lock remembers of them, on the machine ``where``."""
        base = None if self.base is None else weights_hash(self.base.path)
        return Began(self.prepared.fingerprints(), self.prepared.stamps(), base, where)


def lock_of(job: Job) -> dict[str, Any] | None:
    """The lock of the run in the job's `out`, None if there is none yet.

    Raises:
        CirillaError: it is damaged, another recipe began the run, or its shards are others by now.
    """
    lock = check_same_run(job.out, job.resolved)
    if lock is not None:
        # Before they are compared with the tokenizer, which says nothing of a run that was begun with others.
        found = {name: path for name, path in finished(job.paths, job.kinds).items() if name in lock["data"]}
        check_data(job.out, lock, fingerprints(found), ())
    return lock


def open_inputs(
    job: Job, newest: Checkpoint | None, made: Path, progress: Progress, *, paths: Mapping[str, Path] | None = None
) -> Inputs:
    """The base model and the shards of a run that goes on from ``newest``; rows are tokenized into ``made``.

    Args:
        paths: where the sources lie, if not where the recipe says.

    Raises:
        CirillaError: the base or data are missing, damaged, of the wrong kind, or do not fit each other.
    """
    base = load_base(job, newest, progress)
    folder = tokenizer_source(job, base, newest)
    if isinstance(job.data, LabelledTextConfig):
        return Inputs(base, prepare_labelled(job.data, job.tokenizer, folder, made, progress))
    prepared = prepare(
        paths or job.paths,
        job.kinds,
        formats=job.formats,
        val=job.data.val,
        section=job.tokenizer,
        model_folder=folder,
        made=made,
        progress=progress,
    )
    return Inputs(base and grown(base, prepared.tokenizer, progress), prepared)


def load_base(job: Job, newest: Checkpoint | None, progress: Progress) -> Base | None:
    """The model the run starts from, on the CPU or device of the job; DPO needs it as reference to the end."""
    if not isinstance(job.model, CheckpointConfig) or (newest is not None and job.verb != "dpo"):
        return None
    base = load_any(job.model.path, device=str(home_of(job)), dtype=torch.float32, progress=progress)
    if base.tokenizer is None:
        raise CirillaError(f"{base.path}: the model has no tokenizer, so no text can be prepared for it")
    return base


def home_of(job: Job) -> torch.device:
    """Where weights lie until they are trained: a GPU need not hold all of those that will be spread over several."""
    return torch.device("cpu") if isinstance(job.parallel, FSDPConfig) else pick_device(job.device)


def tokenizer_source(job: Job, base: Base | None, newest: Checkpoint | None) -> Path | None:
    """The folder with the tokenizer of a model that was not born in this run; None for one that was."""
    if base is not None:
        return base.path
    return newest.path if newest is not None and isinstance(job.model, CheckpointConfig) else None


def build(
    job: Job,
    lock: dict[str, Any] | None,
    newest: Checkpoint | None,
    inputs: Inputs,
    sitting: Sitting,
    ranks: Ranks,
    progress: Progress,
) -> Trainer:
    """The trainer of a run, as it begins or as ``newest`` left it; a run that begins gets its lock.

    Raises:
        CirillaError: recipe, data and model do not fit each other, or are not those that the run began with.
    """
    device = pick_device(job.device)
    dtype = compute_dtype(job.precision, device)
    began = inputs.began(machine(device, dtype, ranks.size))
    if lock is not None:
        check_lock(job, lock, inputs, began, progress)
    model = model_of(job, inputs, home_of(job), newest)
    if ranks.sharded:
        shard(model, dtype, device)
    cut = cut_of(job, model.config.context_length, inputs.prepared.tokenizer.pad_id)
    steps, source = source_of(job, inputs.prepared, cut, progress)
    trainer = trainer_of(job, model, source, steps, device, dtype, ranks)
    if newest is not None:
        _resume(trainer, newest)
    if isinstance(trainer.objective, DPO) and isinstance(source, Preferences):
        _reference(job, trainer, trainer.objective, source, inputs, began, progress)
    trainer.hooks = _hooks(job, trainer, inputs.prepared, cut, sitting, progress)
    if job.compile:
        compile_blocks(model)
        rehearse(trainer, progress)
    if lock is None and ranks.leads:
        # Only now: a recipe that was refused above may be mended without starting over.
        write_lock(job.out, job.resolved, began, job.settled)
        for name, text in job.texts.items():
            write_text(job.out / name, text)
    if newest is None:
        progress.say(_summary(job, trainer, source, cut))
        if untrained := _untrained(job, model.config):
            progress.say(untrained)
    return trainer


def trainer_of(
    job: Job,
    model: Model,
    source: BatchSource[Any],
    steps: int,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks = ALONE,
) -> Trainer:
    """The loop that a job describes over a model and batches, at its first step, with nobody looking on."""
    if job.memory.checkpointing is not None:
        checkpoint_activations(model, job.memory.checkpointing)
    store(model, job.precision)
    optimizer = job.optim.build(model)
    rounding = RoundedOneByOne(model, optimizer, job.seed) if job.precision.weights == "bfloat16" else None
    return Trainer(
        model=model, objective=job.objective.build(logits_bytes=job.memory.logits_bytes), source=source,
        optimizer=optimizer, schedule=Schedule(job.schedule, steps), steps=steps, seed=job.seed,
        device=device, dtype=dtype, max_grad_norm=job.train.max_grad_norm, ranks=ranks,
        watch=Watch(job.train.divergence),
        average=None if job.train.ema is None else MovingAverage(job.train.ema, model),
        within=WithinBackward(model, rounding or OneByOne(optimizer)) if job.memory.fused_backward else None,
        rounding=rounding,
        qk_clip=QKClip(model, job.optim.qk_clip) if isinstance(job.optim, MuonConfig) and job.optim.qk_clip else None,
        state=TrainState(scaling=Scaling() if dtype == torch.float16 else None),
    )  # fmt: skip


def check_lock(job: Job, lock: dict[str, Any], inputs: Inputs, began: Began, progress: Progress) -> None:
    """Say what differs from the machine a run began on.

    Raises:
        CirillaError: its data or the model it starts from are not what they were then.
    """
    check_data(job.out, lock, began.data, inputs.prepared.altered(lock["files"]))
    if inputs.base is not None:
        check_base(job.out, lock, began.base, inputs.base.path)
    say_machine_changes(lock, began.machine, progress)


def model_of(job: Job, inputs: Inputs, device: torch.device, newest: Checkpoint | None) -> Model:
    """The model that is trained: of the run's newest checkpoint, of the base, or with fresh weights.

    Raises:
        CirillaError: it embeds fewer ids than the tokenizer has.
    """
    if newest is not None:
        model: Model = newest.load_model(device, torch.float32)
    elif inputs.base is not None:
        model = inputs.base.model
    else:
        model = _fresh(job, inputs.prepared, device)
    if isinstance(job.model, CheckpointConfig):
        model.config = retuned(model.config, job.model)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = job.model.dropout
    check_vocabulary(model.config, inputs.prepared.tokenizer.vocab_size)
    check_ahead(job, model.config)
    return learner(model, job.data, job.objective, inputs.prepared, seed=job.seed, device=device)


def _fresh(job: Job, prepared: Prepared, device: torch.device) -> Model:
    assert not isinstance(job.model, CheckpointConfig)
    vocab = job.model.vocab_size or prepared.tokenizer.vocab_size
    return fresh(job.model.changed(vocab_size=vocab), seed=job.seed, device=device)


def retuned(config: Config, wanted: CheckpointConfig) -> Config:
    """A loaded model's shape with the dropout and row length of this run.

    Raises:
        CirillaError: the model has a vector for each position, and not as many as the row length.
    """
    changes: dict[str, Any] = {"dropout": wanted.dropout}
    if wanted.context_length not in (None, config.context_length):
        stack = config.base if isinstance(config, ClassifierConfig) else config
        if stack.positions is not None:
            raise CirillaError(
                f"`model.context_length` is {wanted.context_length}, but the model has learned {config.context_length} "
                "positions",
                hint="leave model.context_length out",
            )
        changes["context_length"] = wanted.context_length
    return config.changed(**changes)


def check_vocabulary(config: Config, ids: int) -> None:
    """Raises: CirillaError: the model embeds fewer than ``ids`` ids."""
    if (config.vocab_size or 0) < ids:
        raise CirillaError(
            f"`model.vocab_size` is {config.vocab_size}, must be at least the tokenizer's {ids}",
            hint="leave vocab_size out to take the tokenizer's",
        )


def check_ahead(job: Job, config: Config) -> None:
    """Raises: CirillaError: the objective looks further ahead than the model predicts, or leaves steps untrained."""
    if not isinstance(config, DecoderConfig):
        return
    wrong = ahead_misfits(config, job.objective, fresh=isinstance(job.model, DecoderConfig))
    if wrong:
        raise CirillaError("\n".join(f"`{key}` {said}" for key, said in wrong.items()))


def _resume(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put back all that a checkpoint holds besides the weights."""
    scaling = trainer.state.scaling
    trainer.state = TrainState.from_json(checkpoint.state())
    # The format may be another on this machine, which is said.
    trainer.state.scaling = scaling and (trainer.state.scaling or scaling)
    place = sharded_as if trainer.ranks.sharded else on_its_device
    checkpoint.load_optimizer(trainer.optimizer, trainer.model, place)
    if trainer.average is not None:
        trainer.average.load(read_tensors([checkpoint.path / AVERAGE]))


def _reference(
    job: Job, trainer: Trainer, objective: DPO, source: Preferences, inputs: Inputs, began: Began, progress: Progress
) -> None:
    """Reference values by the starting model, in the training forward; the first loss shows that they fit."""
    starting: Model = _fresh(job, inputs.prepared, trainer.device) if inputs.base is None else inputs.base.model
    store(starting, job.precision)
    starting.eval()
    own = starting is trainer.model
    forward = trainer.forward() if own else forward_of(starting.to(trainer.device), trainer.dtype)
    key = content_hash(
        began.base, inputs.prepared.tokenizer.hash, began.data, source.cut.context_length,
        source.cut.rows_per_micro_batch, began.machine,
    )  # fmt: skip
    path = job.out / "shards" / "reference.safetensors"
    attach_reference(source, objective, forward, path, key, trainer.device, trainer.ranks, progress)
    check_first_loss(source, objective, forward, trainer.device, trainer.ranks)
    trainer.ranks.apart(trainer.model)


def _hooks(job: Job, trainer: Trainer, prepared: Prepared, cut: Cut, sitting: Sitting, progress: Progress) -> list[Any]:
    evaluation, early = job.eval, job.train.early_stopping
    leads = trainer.ranks.leads
    flops = train_flops_per_token(trainer.model.config, trainer.model.config.mean_context(cut.context_length))
    rate = matmul_rate(trainer.device, trainer.dtype) * trainer.ranks.size
    return order([
        Evaluate(evaluation) if evaluation else None,
        ShowSamples(evaluation, prepared.tokenizer, job.out, job.verb != "pretrain", progress)
        if evaluation and evaluation.prompts and isinstance(trainer.model, Decoder) else None,
        StopEarly(early) if early else None,
        SayCompiled(progress) if job.compile else None,
        Log(job.log, job.out, flops * cut.rows_per_step * cut.context_length, rate) if leads else None,
        TensorBoard(job.out, job.log.every) if leads and job.log.tensorboard else None,
        WeightsAndBiases(job.log.wandb, job.out, job.log.every, dict(job.resolved))
        if leads and job.log.wandb else None,
        ShowProgress(progress, job.verb),
        SaveCheckpoints(
            job.checkpoint, job.out, prepared.tokenizer, job.texts, sitting, job.verb, prefer_best=early is not None
        ),
    ])  # fmt: skip


def _untrained(job: Job, config: Config) -> str | None:
    """What to say of steps ahead that a loaded model has and this objective leaves as they are."""
    if not isinstance(config, DecoderConfig) or config.mtp is None or isinstance(job.objective, MultiTokenConfig):
        return None
    depth = config.mtp.depth
    remedy = f"; objective={{kind: multi_token, depth: {depth}}} trains them" if job.verb == "pretrain" else ""
    return f"the model's {depth} steps ahead (`mtp`) stay as they are, and drafts grow worse as the rest learns{remedy}"


def _summary(job: Job, trainer: Trainer, source: BatchSource[Any], cut: Cut) -> str:
    rows = trainer.steps * cut.rows_per_step
    shared = f", {trainer.ranks.size} processes ({job.parallel.kind})" if trainer.ranks.size > 1 else ""
    return (
        f"{job.verb}: {show_count(parameters(trainer.model.config))} parameters, {trainer.steps} steps of "
        f"{show_count(cut.rows_per_step * cut.context_length)} tokens, {rows / source.rows_per_epoch:.1f} passes over "
        f"the data, {str(trainer.dtype).removeprefix('torch.')} on {trainer.device.type}{shared}"
    )
