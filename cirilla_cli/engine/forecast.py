"""What training a recipe wants of memory, compute, time and disk, found out before it runs (`cirilla plan`)."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import torch

from cirilla_cli.compat import pick_device
from cirilla_cli.data.batches import BatchSource, Cut, TokenBatch
from cirilla_cli.data.config import LabelledTextConfig, SentencePieceConfig
from cirilla_cli.engine import auto
from cirilla_cli.engine.build import retuned
from cirilla_cli.engine.config import ClassificationConfig, FullCheckpointingConfig, SelectiveCheckpointingConfig
from cirilla_cli.engine.footprint import DeviceClass, Footprint, Shape, fits, footprint, is_drawn_on, made_up, rough
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.labelled import classifier_config
from cirilla_cli.engine.lighter import is_legal, lighter
from cirilla_cli.engine.metrics import matmul_rate, read_metrics
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.room import checkpoints_at_once
from cirilla_cli.engine.shards import Prepared, finished, opened, tokenizer_folder
from cirilla_cli.engine.sources import cut_of, source_of, steps_of
from cirilla_cli.engine.vocabulary import widened
from cirilla_cli.errors import CirillaError
from cirilla_cli.loading import read_shape
from cirilla_cli.model.config import CheckpointConfig, ClassifierConfig, DecoderConfig
from cirilla_cli.model.count import cache_bytes, count, forward_flops_per_token, train_flops_per_token
from cirilla_cli.progress import SILENT

_SHARE = 0.5
"""Of the rate of large products, what whole steps reach, where no run has shown it (docs/plan.md)."""

_LOOKED_AT = 4
"""Steps whose batches are looked at for the one that wants most memory."""

_LEAST_LOGITS = 16 << 20

_PASS_TOKENS = 128

_OF_CHUNKS = {"logits", "temporary", "allocator", "kernels"}
"""Parts of a footprint that may become less with smaller chunks of logits."""

_MOST_TOKENS = 1 << 28
"""Of a forward pass, and rows of a step, that are looked at."""


@dataclass(frozen=True)
class Target:
    """The device that a plan is for."""

    kind: DeviceClass
    memory: int | None = None
    """Bytes it has; None where nobody said."""


@dataclass(frozen=True)
class Seen:
    """What is known of a job's model and data."""

    shape: Shape
    cut: Cut
    steps: int | None
    source: BatchSource[Any] | None
    """None where no shards are at hand."""
    unknown: tuple[str, ...]
    """What could not be found out, and what is taken for it."""

    def batches(self, job: Job) -> list[TokenBatch]:
        """Micro-batches of one step, those first that want most memory: long documents do."""
        if self.source is None:
            return made_up(job, self.cut)
        steps = range(min(self.steps or 1, _LOOKED_AT))
        every: list[TokenBatch] = [batch for step in steps for batch in self.source.step(step)]
        most = self.cut.rows_per_step > self.cut.rows_per_micro_batch
        return sorted(every, key=_scores, reverse=True)[: 1 + most]


def _scores(batch: TokenBatch) -> float:
    """Scores of attention within documents."""
    documents_BT = batch.documents_BT
    changes = documents_BT[:, 1:] != documents_BT[:, :-1]
    lengths = [torch.diff(row.nonzero()[:, 0], prepend=row.new_tensor([-1]).long()) for row in changes]
    last = [documents_BT.shape[1] - int(part.sum()) for part in lengths]
    return float(sum(int((part**2).sum()) for part in lengths) + sum(n * n for n in last))


@dataclass(frozen=True)
class Change:
    """A setting that makes a step fit, and what it costs."""

    settings: dict[str, int | str]
    """Overrides, by key."""
    slower: float
    """Time over that of the recipe as it is."""
    peak_bytes: int


def look(job: Job, vocab: int | None) -> Seen:
    """What can be known of a job's model and data without making anything.

    Raises:
        CirillaError: nothing says how many ids there are, or the checkpoint to start from cannot be read.
    """
    prepared, why = _prepared(job)
    shape = shape_of(job, prepared, vocab)
    cut = cut_of(job, shape.context_length, 0 if prepared is None else prepared.tokenizer.pad_id)
    _check_cut(job, cut)
    if prepared is not None:
        steps, source = source_of(job, prepared, cut, SILENT)
        return Seen(shape, cut, steps, source, ())
    unknown = [f"{why}: every row is taken for one document, all of whose tokens count"]
    known = job.train.epochs is None and job.train.max_epochs is None
    if not known:
        unknown.append("how many rows there are: neither steps nor time are known")
    return Seen(shape, cut, steps_of(job, 0, cut, SILENT) if known else None, None, tuple(unknown))


def _check_cut(job: Job, cut: Cut) -> None:
    """Raises: CirillaError: a step is larger than any memory."""
    tokens = cut.rows_per_micro_batch * cut.context_length
    if cut.rows_per_step > _MOST_TOKENS or tokens > _MOST_TOKENS:
        raise CirillaError(
            f"`train.batch_tokens` is {job.train.batch_tokens}: forward passes of {tokens} tokens fit into no memory",
            hint="train.batch_tokens=32768, or a smaller train.micro_batch_tokens",
        )


def _prepared(job: Job) -> tuple[Prepared | None, str]:
    """The shards of a job, where those of all sources are finished; else why there are none."""
    if isinstance(job.data, LabelledTextConfig):
        return None, "how long the labelled texts are"
    try:
        found = finished(job.paths, job.kinds)
        missing = [str(path) for name, path in job.paths.items() if name not in found]
        if missing:
            return None, f"{', '.join(missing)} is not tokenized"
        model = job.model.path if isinstance(job.model, CheckpointConfig) else None
        beside = tokenizer_folder(job.tokenizer, None, found, SILENT)
        if beside is None:
            return None, f"{next(iter(found.values()))} has no tokenizer beside it" + (f" ({model})" if model else "")
        return opened(found, beside), ""
    except CirillaError as error:
        return None, str(error)


def shape_of(job: Job, prepared: Prepared | None, vocab: int | None) -> Shape:
    """The model that is trained, its vocabulary known."""
    shape: Shape
    if isinstance(job.model, CheckpointConfig):
        shape = retuned(read_shape(job.model.path), job.model)
        if prepared is not None and prepared.tokenizer.extension is not None:
            shape = widened(shape, prepared.tokenizer)
    else:
        trained = job.tokenizer.vocab_size if isinstance(job.tokenizer, SentencePieceConfig) else None
        ids = job.model.vocab_size or vocab or (trained if prepared is None else prepared.tokenizer.vocab_size)
        if ids is None:
            raise CirillaError("the vocabulary is the data's, and nothing says how large it is", hint="--vocab 32768")
        shape = job.model.changed(vocab_size=ids)
    if isinstance(job.objective, ClassificationConfig) and not isinstance(shape, ClassifierConfig):
        return classifier_config(shape, ("one", "other"), job.objective)
    return shape


def forecast(
    job: Job, *, vocab: int | None = None, target: Target | None = None, rate: float | None = None
) -> dict[str, Any]:
    """Everything that can be known of a run beforehand, by name.

    Args:
        vocab: ids of the tokenizer, where the recipe leaves it open and no shards are at hand.
        target: the device it is for; None for the recipe's, as far as it is here.
        rate: floating-point operations a second that training reaches there.

    Raises:
        CirillaError: the recipe's model cannot be known.
    """
    target = target or Target("cuda" if pick_device(job.device).type == "cuda" else "cpu")
    seen = look(job, vocab)
    settled = None
    if auto.is_open(job):
        settled = _settled(job, seen.shape, target)
        job = auto.with_tokens(job, settled.tokens)
        seen = look(job, vocab)
    found = footprint(job, seen.shape, seen.batches(job), seen.cut, target.kind)
    short = target.memory is not None and not fits(found, target.memory)
    changes = _fitting(job, seen, found, vocab, target) if short else None
    return {
        **_counts(seen), "device": target.kind, "memory": found.parts, "peak_bytes": found.peak,
        "micro_batch_tokens": seen.cut.rows_per_micro_batch * seen.cut.context_length,
        "micro_batch_why": None if settled is None else settled.why,
        "device_bytes": target.memory, "fits": None if target.memory is None else not short,
        "change": None if not changes else vars(changes), **_disk(job, found), **_time(job, seen, target, rate),
        "unknown": list(seen.unknown),
    }  # fmt: skip


def _settled(job: Job, shape: Shape, target: Target) -> auto.Choice:
    """What `auto` takes on the device that the plan is for.

    Raises:
        CirillaError: not one row fits, or nobody knows how much memory the device has.
    """
    memory = target.memory
    if memory is None and target.kind == "cuda" and not torch.cuda.is_available():
        raise CirillaError(f"`{auto.KEY}` is 'auto', and there is no such card here", hint="--device 16GiB")
    return auto.reckoned(job, shape, memory, target.kind)


def _counts(seen: Seen) -> dict[str, Any]:
    shape, length = seen.shape, seen.cut.context_length
    context, counted = shape.mean_context(length), count(shape)
    forward, train = forward_flops_per_token(shape, context), train_flops_per_token(shape, context)
    per_step = seen.cut.rows_per_step * length
    tokens = None if seen.steps is None else seen.steps * per_step
    return {
        "kind": shape.kind, "vocab_size": shape.vocab_size, "context_length": length,
        "parameters": counted.parameters, "active_parameters": counted.active,
        "weights_bytes": {"float32": 4 * counted.parameters, "bfloat16": 2 * counted.parameters},
        "forward_flops_per_token": forward, "backward_flops_per_token": train - train / 3,
        "train_flops_per_token": train, "train_flops": None if tokens is None else train * tokens,
        "tokens": tokens, "tokens_per_step": per_step, "steps": seen.steps,
        "micro_batches": math.ceil(seen.cut.rows_per_step / seen.cut.rows_per_micro_batch),
        "cache_bytes": cache_bytes(shape, length) if isinstance(shape, DecoderConfig) else None,
    }  # fmt: skip


def _disk(job: Job, found: Footprint) -> dict[str, Any]:
    """Room for checkpoints; shards that are still to be made take two or four bytes a token besides."""
    above = next(path for path in (job.out.absolute(), *job.out.absolute().parents) if path.exists())
    kept = checkpoints_at_once(job)
    return {
        "checkpoint_bytes": found.checkpoint_bytes, "checkpoints": kept, "disk_bytes": kept * found.checkpoint_bytes,
        "free_bytes": shutil.disk_usage(above).free,
    }  # fmt: skip


def _time(job: Job, seen: Seen, target: Target, rate: float | None) -> dict[str, Any]:
    """How long the run takes, at a rate that was given, that a sitting of this run has shown, or that is measured."""
    counted = _counts(seen)
    source = "given"
    if rate is None:
        rate, source = _rate(job, counted["train_flops_per_token"], target)
    whole = counted["train_flops"]
    return {
        "rate": rate, "rate_source": source,
        "tokens_per_second": None if rate is None else rate / counted["train_flops_per_token"],
        "seconds": None if rate is None or whole is None else whole / rate,
    }  # fmt: skip


def _rate(job: Job, flops_per_token: float, target: Target) -> tuple[float | None, str]:
    here = pick_device(job.device)
    shown = [line["tokens_per_second"] for line in read_metrics(job.out) if line.get("tokens_per_second")]
    if shown and here.type == target.kind:
        return sorted(shown)[len(shown) // 2] * flops_per_token, f"the median of {job.out}/metrics.jsonl"
    if target.kind == "cuda" and not torch.cuda.is_available():
        return None, "not known: there is no such device here; --rate 60e12 gives one"
    device = torch.device(target.kind)
    measured = matmul_rate(device, compute_dtype(job.precision, device))
    return _SHARE * measured, f"{_SHARE:.0%} of that of large products, measured now"


def _fitting(job: Job, now: Seen, found: Footprint, vocab: int | None, target: Target) -> Change | None:
    """The change that costs least time and makes the step, now ``found``, fit; None where none of them does.

    What leaves the step's numbers as they are comes first.
    """
    change = _fitting_as_is(job, now, found, vocab, target)
    if change is not None:
        return change
    tokens = now.cut.rows_per_step * now.cut.context_length
    for way in lighter(job):
        change = _fitting_as_is(way.job, now, None, vocab, target)
        if change is not None:
            settings = {**way.settings, **change.settings}
            return Change(settings, way.slower(tokens) * change.slower, change.peak_bytes)
    return None


def _fitting_as_is(job: Job, now: Seen, found: Footprint | None, vocab: int | None, target: Target) -> Change | None:
    """The same with this job's savers; ``found`` is what its step takes now, where that is known."""
    every = [lever.legal(job, now) for lever in _LEVERS]
    search = _Search(
        tuple(len(choices) - 1 for choices in every), target, lambda p: _asked(job, every, p, vocab, target)
    )
    if found is not None:
        search.note((0,) * len(every), found)
    for places in sorted(product(*(range(len(choices)) for choices in every)), key=lambda p: _slower(every, p)):
        if search.can_fit(places) and search.fits(places):
            slower = _slower(every, places) / _slower(every, [0] * len(every))
            return Change(_settings(every, places), slower, search.peaks[places])
    return None


@dataclass
class _Search:
    """Settings, each by its place among its choices, that were looked at; nothing is looked at twice."""

    last: tuple[int, ...]
    """What saves most."""
    target: Target
    ask: Callable[[tuple[int, ...]], Footprint]
    peaks: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Of those that fit."""
    short: list[tuple[int, ...]] = field(default_factory=list)
    """Those that do not."""

    def note(self, places: tuple[int, ...], found: Footprint) -> None:
        """Remember what a step takes, and what follows for smaller chunks of logits."""
        assert self.target.memory is not None
        if fits(found, self.target.memory):
            self.peaks[places] = found.peak
            return
        # What is held at that moment besides logits, temporaries and the heap's holes is held with any chunks.
        kept = {part: size for part, size in found.parts.items() if part not in _OF_CHUNKS}
        of_any = not fits(replace(found, parts=kept), self.target.memory)
        self.short.append((places[0], self.last[1], places[2]) if of_any else places)

    def fits(self, places: tuple[int, ...]) -> bool:
        """Whether a step fits; not where these go no further with any lever than what does not."""
        if any(_within(places, tried) for tried in self.short):
            return False
        if places not in self.peaks:
            self.note(places, self.ask(places))
        return places in self.peaks

    def can_fit(self, places: tuple[int, ...]) -> bool:
        """Whether anything fits whose blocks are kept as these are."""
        furthest = (*self.last[:2], places[2])
        if not self.fits(furthest):
            # Where nothing fits at all, this says it of every other way to keep blocks.
            self.fits(self.last)
        return furthest in self.peaks


def _within(places: Sequence[int], others: Sequence[int]) -> bool:
    return all(mine <= other for mine, other in zip(places, others, strict=True))


def _picked(job: Job, every: "Sequence[Sequence[Choice]]", places: Sequence[int]) -> Job:
    for lever, choices, place in zip(_LEVERS, every, places, strict=True):
        job = lever.set(job, choices[place].value)
    return job


def _asked(
    job: Job, every: "Sequence[Sequence[Choice]]", places: Sequence[int], vocab: int | None, target: Target
) -> Footprint:
    """What a step takes with these settings; where it does not fit, as far as shallow models say, which is faster."""
    assert target.memory is not None
    job = _picked(job, every, places)
    seen = look(job, vocab)
    batches = seen.batches(job)
    if target.kind == "cpu" and is_drawn_on(job, seen.shape, target.kind):
        found = rough(job, seen.shape, batches, seen.cut, target.kind)
        if not fits(found, target.memory):
            return found
    return footprint(job, seen.shape, batches, seen.cut, target.kind)


def _settings(every: "Sequence[Sequence[Choice]]", places: Sequence[int]) -> dict[str, int | str]:
    """Overrides, by key; what stays as it is has none."""
    picked = [(lever.name, choices[at].value) for lever, choices, at in zip(_LEVERS, every, places, strict=True) if at]
    return {key: value if isinstance(value, int) else value.model_dump() for key, value in picked}


class Choice(NamedTuple):
    """A value of a setting, and the time of a step with it over that without any saving."""

    value: Any
    slower: float


@dataclass(frozen=True)
class Lever:
    """A setting that trades time for memory."""

    section: str
    key: str
    choices: Callable[[Job, Seen], list[Choice]]
    """What it can be, from what it is to what takes least memory."""

    @property
    def name(self) -> str:
        """The key as recipes have it."""
        return f"{self.section}.{self.key}"

    def legal(self, job: Job, seen: Seen) -> list["Choice"]:
        """What it can be beside the job's savers; as it is at least."""
        now, *others = self.choices(job, seen)
        return [now, *(choice for choice in others if is_legal(self.set(job, choice.value)))]

    def set(self, job: Job, value: Any) -> Job:
        """The job with this value."""
        section = getattr(job, self.section).model_copy(update={self.key: value})
        return replace(job, **{self.section: section})


def _micro_batches(job: Job, seen: Seen) -> list[Choice]:
    """Halves; products of few rows are slower, about as if each pass had so many tokens more."""
    rows, context = min(seen.cut.rows_per_micro_batch, seen.cut.rows_per_step), seen.cut.context_length
    return [Choice(context * (rows >> i), 1 + _PASS_TOKENS / (context * (rows >> i))) for i in range(rows.bit_length())]


def _logits(job: Job, seen: Seen) -> list[Choice]:
    """Smaller chunks of the loss; each reads the head once more."""
    whole = job.memory.logits_bytes
    smaller = [part for part in (whole // 4, whole // 16) if part >= _LEAST_LOGITS]
    return [Choice(part, 1 + 0.01 * math.log2(whole / part)) for part in (whole, *smaller)]


def _recomputed(job: Job, seen: Seen) -> list[Choice]:
    """Blocks computed again cost their forward pass: a third of a step, where it is all of them."""
    match job.memory.checkpointing:
        case None:
            here = [Choice(None, 1.0), Choice(SelectiveCheckpointingConfig(), 7 / 6)]
        case SelectiveCheckpointingConfig() as some:
            here = [Choice(some, 1 + 1 / (3 * some.every))]
        case whole:
            return [Choice(whole, 4 / 3)]
    return [*here, Choice(FullCheckpointingConfig(), 4 / 3)]


_LEVERS = (
    Lever("train", "micro_batch_tokens", _micro_batches),
    Lever("memory", "logits_bytes", _logits),
    Lever("memory", "checkpointing", _recomputed),
)
"""What may be changed for a step to fit; a further saver of memory is one more line."""


def _slower(every: Sequence[Sequence[Choice]], places: Sequence[int]) -> float:
    return math.prod(choices[place].slower for choices, place in zip(every, places, strict=True))
