"""Memory of a training step, by what it is for, from a walk through the step's own code (`walk.py`).

On a CPU the peak is that of the process, less its own after imports: what tensors hold at once, and what the C library
and the kernels hold besides. On CUDA it is that of the allocator and of the libraries' context.
"""

# Shape suffixes: B rows, T positions, P pairs or documents.

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.data.batches import Cut, PairBatch, TokenBatch
from cirilla_cli.data.labelled_batches import LabelledBatch
from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.config import FullCheckpointingConfig, SelectiveCheckpointingConfig
from cirilla_cli.engine.heap import height
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.repeats import repeats
from cirilla_cli.engine.room import checkpoint_bytes
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.engine.walk import Ledger, Walked
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.sections import MoEConfig

Shape = DecoderConfig | EncoderConfig | ClassifierConfig

DeviceClass = Literal["cpu", "cuda"]

Checkpointing = FullCheckpointingConfig | SelectiveCheckpointingConfig

_PARTS = ("parameters", "gradients", "optimizer", "average", "casts", "activations", "logits", "temporary")

_SPARE = 0.15
"""Of a predicted peak, what must be free besides for a step to be said to fit (docs/plan.md)."""

_BATCH_BYTES = 3 * 8
"""Of a token: its id, its target and its document."""

_LIBRARIES = {"cpu": 40 << 20, "cuda": 600 << 20}
"""What kernels' libraries hold besides: code, threads and buffers; on CUDA the context too (docs/plan.md)."""

_FRAGMENTED = 0.05
"""Share of a step's tensors that comes on top on CUDA, in pieces that do not fit (docs/plan.md)."""

_SMALL_PIECES = 10_000 * (432 + 6 * 32)
"""Bytes of the spare pieces for small objects on a CPU, and of those between them (`cli/allocator.py`)."""

_PRODUCT = 553_000
"""Bytes that oneDNN keeps of a kind of product in bfloat16 (`python -m benchmarks.plan_reality --products`)."""

_KEPT_PRODUCTS = 1024
"""Kinds that it keeps, those it met last (ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""

_STEADY_PASSES = 100
"""Up to so many, routers have hardly learned, and experts are given about as much as at the beginning."""

_SPREAD, _SPREAD_UNSCALED = 1.1, 9.7
"""Standard deviation of an expert's number of tokens, over that of tokens which choose alone (docs/plan.md).

The second where layers are added to the residual stream in full, which makes tokens alike before anything is learned.
"""

_WINDOWS = 3
"""Parts of each pass, forward or backward, whose highest moments are followed apart."""

_LARGE = 1 << 20
"""Bytes from which on a block is a mapping of its own in the first step on a CPU (`cli/allocator.py`)."""

_STEPS = 3
"""Steps after which a heap on a CPU grows no more to speak of."""


@dataclass(frozen=True)
class Footprint:
    """What a step holds at its peak."""

    parts: dict[str, int]
    """Bytes by what they are for."""
    checkpoint_bytes: int

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Outline:
    """What a step holds, moment by moment."""

    windows: list[dict[str, int]]
    """Bytes by what they are for, at the highest moment of each stretch of the walk."""
    saved: int
    """Bytes of a checkpoint."""
    height: int
    """Bytes that the heap grows to; 0 on CUDA."""
    products: int = 0
    """Kinds of products that oneDNN keeps code for; 0 on CUDA."""
    routed: int = 0
    """Products of a forward and backward pass, any of which may be of a further kind each time."""

    def beyond(self, deeper: "Outline", times: int) -> "Outline":
        """That of a step which grows ``times`` as much as from this one to ``deeper``.

        Each window grows linearly with depth; which of them is the highest may change on the way.
        """

        def at(low: int, high: int) -> int:
            return max(0, low + times * (high - low))

        windows = [
            {part: at(low.get(part, 0), high.get(part, 0)) for part in {**low, **high}}
            for low, high in zip(self.windows, deeper.windows, strict=True)
        ]
        height, products = at(self.height, deeper.height), at(self.products, deeper.products)
        return Outline(windows, at(self.saved, deeper.saved), height, products, at(self.routed, deeper.routed))


class Given:
    """The batches of a walk: one micro-batch in the first step, two in the second, because further ones add nothing."""

    rows_per_epoch = 1

    def __init__(self, batches: Sequence[TokenBatch]) -> None:
        self._batches = batches

    def step(self, index: int) -> list[TokenBatch]:
        """The micro-batches of a step."""
        return list(self._batches[: index + 1])

    def validation(self, most_tokens: int) -> Any:
        """None."""
        return iter(())


class _FusedAttention(TorchFunctionMode):
    """Attention as CUDA's fused kernels keep it for the backward pass: queries, keys, values, output, partitions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward or func is torch.autograd.backward:
            # A mode is off while it handles a call, and blocks that are computed again are to meet it in here.
            roots = (args[0],) if isinstance(args[0], torch.Tensor) else tuple(args[0])
            ones = tuple(map(torch.ones_like, roots))
            with self:
                _engine_run_backward(roots, ones, False, False, (), allow_unreachable=True, accumulate_grad=True)
            return None
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        causal, scale = kwargs.get("is_causal", False), kwargs.get("scale")
        if args[0].shape[-1] != args[2].shape[-1]:
            # Values of another width than keys are for the memory-efficient kernel alone.
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention
            return efficient(*args[:3], None, True, 0.0, causal, scale=scale)[0]
        return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3], 0.0, causal, scale=scale)[0]


def footprint(job: Job, shape: Shape, batches: Sequence[TokenBatch], cut: Cut, kind: DeviceClass) -> Footprint:
    """The step's memory on a device of a class, whether there is one here or not.

    Args:
        shape: the model's, its vocabulary known.
        batches: micro-batches of a step, the largest first.
    """
    # How a heap of the C library grows does not follow from shallow models; what tensors hold does.
    found = outlined(job, _unwindowed(shape), batches, kind) if kind == "cuda" else whole(job, shape, batches, kind)
    return _summed(job, shape, found, cut, kind)


def rough(job: Job, shape: Shape, batches: Sequence[TokenBatch], cut: Cut, kind: DeviceClass) -> Footprint:
    """As `footprint`, from shallow models on CPUs too, where the part called allocator is then an estimate of it."""
    found = outlined(job, shape if kind == "cpu" else _unwindowed(shape), batches, kind)
    return _summed(job, shape, found, cut, kind)


def _summed(job: Job, shape: Shape, found: Outline, cut: Cut, kind: DeviceClass) -> Footprint:
    held = max(found.windows, key=lambda sums: sum(sums.values()))
    parts = {part: held.get(part, 0) for part in _PARTS}
    parts["batch"] = _BATCH_BYTES * cut.rows_per_step * cut.context_length if kind == "cpu" else 0
    # The copy that is written beside the training.
    parts["checkpoint"] = found.saved if job.checkpoint.asynchronous else 0
    most = sum(held.values())
    lost = round(_FRAGMENTED * most) if kind == "cuda" else _SMALL_PIECES + max(0, found.height - most)
    parts["allocator"] = _LIBRARIES[kind] + lost
    parts["kernels"] = _PRODUCT * _most_kinds(job, shape, found, cut)
    return Footprint(parts, found.saved)


def fits(found: Footprint, memory: int) -> bool:
    """Whether a step fits with what a prediction may be wrong by to spare."""
    return found.peak * (1 + _SPARE) <= memory


def outlined(job: Job, shape: Shape, batches: Sequence[TokenBatch], kind: DeviceClass) -> Outline:
    """The outline of a step; of many layers, what two shallow walks and a straight line through them say."""
    depths = shallow(shape, job.memory.checkpointing)
    if depths is None or not is_drawn_on(job, shape, kind):
        return whole(job, shape, batches, kind)
    few, more = depths
    low, high = (whole(job, _of_depth(shape, n), batches, kind) for n in depths)
    if len(low.windows) != len(high.windows):
        return whole(job, shape, batches, kind)
    return low.beyond(high, (shape.n_layers - few) // (more - few))


def is_drawn_on(job: Job, shape: Shape, kind: DeviceClass) -> bool:
    """Whether shallow models say what one of this depth holds."""
    # On several threads of a CPU what experts hold for a moment does not grow evenly with depth.
    return shallow(shape, job.memory.checkpointing) is not None and not (kind == "cpu" and has_experts(shape))


def whole(job: Job, shape: Shape, batches: Sequence[TokenBatch], kind: DeviceClass) -> Outline:
    """The outline of a step that is walked through in full."""
    walked, saved = _walk(job, shape, batches, kind)
    if kind == "cuda":
        return Outline(_windows(walked), saved, 0)
    kinds, routed = (len(walked.products), walked.routed) if has_fast_bfloat16(torch.device("cpu")) else (0, 0)
    return Outline(_windows(walked), saved, _height(walked), kinds, routed)


def _most_kinds(job: Job, shape: Shape, found: Outline, cut: Cut) -> int:
    """Kinds of products whose code is kept at the end; what experts are given is another kind each time, at worst."""
    base = shape.base if isinstance(shape, ClassifierConfig) else shape
    if not found.routed or not isinstance(base.mlp, MoEConfig):
        return min(found.products, _KEPT_PRODUCTS)
    passes = _passes(job, cut)
    if passes is None or passes > _STEADY_PASSES:
        return _KEPT_PRODUCTS if passes is None else min(found.products + found.routed * passes, _KEPT_PRODUCTS)
    experts = base.mlp.n_experts * (base.n_layers - base.mlp.dense_layers)
    tokens = min(cut.rows_per_step, cut.rows_per_micro_batch) * cut.context_length
    spread = _SPREAD if base.residual_scale < 1 else _SPREAD_UNSCALED
    unlike = distinct(experts * passes, tokens * base.mlp.top_k / base.mlp.n_experts, spread)
    return min(found.products + math.ceil(found.routed / experts * unlike), _KEPT_PRODUCTS)


def distinct(draws: int, mean: float, spread: float) -> float:
    """Unlike numbers of tokens that experts are given, to be expected in so many draws; equal ones share their code."""
    normal = NormalDist(mean, spread * math.sqrt(mean))
    reach = math.ceil(6 * normal.stdev)
    # An expert that is given none multiplies nothing.
    numbers = range(max(1, round(mean) - reach), round(mean) + reach + 1)
    return sum(1 - (1 - (normal.cdf(n + 0.5) - normal.cdf(n - 0.5))) ** draws for n in numbers)


def _passes(job: Job, cut: Cut) -> int | None:
    """Most forward passes of a run; None where the recipe does not say it, or others, which evaluate, lie between."""
    steps, tokens = job.train.steps, job.train.tokens
    if steps is None and tokens is not None:
        steps = math.ceil(tokens / (cut.rows_per_step * cut.context_length))
    if steps is None or job.eval is not None:
        return None
    return steps * math.ceil(cut.rows_per_step / cut.rows_per_micro_batch)


def _walk(job: Job, shape: Shape, batches: Sequence[TokenBatch], kind: DeviceClass) -> tuple[Walked, int]:
    device = torch.device("cpu" if kind == "cpu" else "meta")
    ledger, dtype = Ledger(shape.vocab_size or 0, device), _dtype(job, kind)
    with _FusedAttention() if kind == "cuda" else nullcontext(), repeats(ledger), ledger:
        model: Model = shape.build()
        ledger.label([*model.parameters(), *model.buffers()], "parameters")
        ledger.given((getattr(batch, each.name) for batch in batches for each in fields(batch)), "batch")
        trainer = trainer_of(job, model, Given(batches), 2, device, dtype)
        ledger.label_rest({"temporary"}, "average")
        # Where they are kept in another format, they are others now.
        ledger.label(model.parameters(), "parameters")
        _watch_gradients(ledger, trainer)
        if kind == "cuda" and isinstance(trainer.optimizer, torch.optim.AdamW):
            _remember(trainer.optimizer)
        trainer.steps = 1
        trainer.fit()
        # Whatever a whole step leaves behind, and is neither weights nor their average, the optimizer remembers.
        ledger.label_rest({"temporary", "activations", "gradients"}, "optimizer")
        trainer.steps, ledger.walked.again = 2, len(ledger.walked.events)
        trainer.fit()
        saved = checkpoint_bytes(trainer)
        return ledger.end(), saved


def _remember(optimizer: torch.optim.AdamW) -> None:
    """The state that fused AdamW makes in its first step, which it refuses to make where no such device is."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def _watch_gradients(ledger: Ledger, trainer: Trainer) -> None:
    def has_gradient(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            ledger.label([parameter.grad], "gradients")

    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(has_gradient)  # type: ignore[no-untyped-call]


def _dtype(job: Job, kind: DeviceClass) -> torch.dtype:
    """Number format on a device of a class; a card that is not here is taken for one that multiplies bfloat16."""
    if kind == "cuda" and job.precision.compute == "auto":
        here = torch.device("cuda")
        return torch.bfloat16 if not torch.cuda.is_available() or has_fast_bfloat16(here) else torch.float16
    return compute_dtype(job.precision, torch.device(kind))


def _unwindowed(shape: Shape) -> Shape:
    """The same without windows, which cost CUDA's kernels no memory, and others some."""
    if isinstance(shape, ClassifierConfig):
        return shape.model_copy(update={"base": _unwindowed(shape.base)})
    mixers = {
        letter: mixer.model_copy(update={"window": None}) if "window" in type(mixer).model_fields else mixer
        for letter, mixer in shape.mixers.items()
    }
    return shape.changed(mixers=mixers)


def _height(walked: Walked) -> int:
    """What blocks of their own and a heap on a CPU grow to, with holes that nothing fits."""
    return height([piece.nbytes for piece in walked.pieces], walked.events, walked.again, _STEPS - 1, _LARGE)


def _windows(walked: Walked) -> list[dict[str, int]]:
    """What is held at most within each window."""
    marks = sorted({0, walked.again, *walked.turns, len(walked.events)})
    spans = list(pairwise(marks))
    ends = [start + (stop - start) * part // _WINDOWS for start, stop in spans for part in range(1, _WINDOWS + 1)]
    return walked.highest(ends)


def _of_depth(shape: Shape, n_layers: int) -> Shape:
    if isinstance(shape, ClassifierConfig):
        return shape.model_copy(update={"base": shape.base.changed(n_layers=n_layers)})
    return shape.changed(n_layers=n_layers)


def shallow(shape: Shape, recomputed: Checkpointing | None) -> tuple[int, int] | None:
    """Two depths from which a step grows by the same blocks up to its own; None where that saves nothing."""
    base = shape.base if isinstance(shape, ClassifierConfig) else shape
    every = recomputed.every if isinstance(recomputed, SelectiveCheckpointingConfig) else 1
    period = math.lcm(len(base.pattern), every)
    head = base.mlp.dense_layers if isinstance(base.mlp, MoEConfig) and base.mlp.dense else 0
    few = head + (base.n_layers - head) % period + 2 * period
    return (few, few + period) if 2 * few + period < base.n_layers else None


def has_experts(shape: Shape) -> bool:
    """Whether there are layers of experts."""
    base = shape.base if isinstance(shape, ClassifierConfig) else shape
    return isinstance(base.mlp, MoEConfig)


def made_up(job: Job, cut: Cut) -> list[TokenBatch]:
    """Micro-batches that want as much memory as any: every row one document, every token a target."""
    B, T = min(cut.rows_per_step, cut.rows_per_micro_batch), cut.context_length
    row_1T = torch.arange(B)[:, None]
    tokens_BT, documents_BT = torch.zeros(B, T, dtype=torch.long), row_1T.expand(B, T).contiguous()
    batch = TokenBatch(tokens_BT, torch.zeros_like(tokens_BT), documents_BT)
    if job.data.kind == "labelled_text":
        batch = LabelledBatch(tokens_BT, batch.targets_BT, documents_BT, torch.zeros(B, dtype=torch.long))
    elif job.data.kind == "preferences":
        # Two documents a row, half of it each.
        halves_BT = 2 * documents_BT + (torch.arange(T) >= T // 2)
        batch = PairBatch(tokens_BT, batch.targets_BT, halves_BT, torch.arange(B), torch.zeros(B, 2))
    return [batch] * (1 if cut.rows_per_micro_batch >= cut.rows_per_step else 2)
