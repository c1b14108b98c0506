"""What must not matter to a run, as factors; a set of cells that has every pair of their values; and a cell's job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, TokenBatch
from cirilla_cli.data.config import MaskedTextConfig, TextSourceConfig
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    CrossEntropyConfig,
    DDPConfig,
    DPOConfig,
    EvaluationConfig,
    FSDPConfig,
    FullCheckpointingConfig,
    MemoryConfig,
    MuonConfig,
    Place,
    PrecisionConfig,
    SelectiveCheckpointingConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import Job
from cirilla_cli.model.config import DecoderConfig, EncoderConfig
from cirilla_cli.model.mixers.config import AttentionConfig, Mamba2Config
from cirilla_cli.model.routing import SigmoidRouterConfig
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

Cell = Mapping[str, str]

FACTORS: dict[str, tuple[str, ...]] = {
    "objective": ("pretrain", "sft", "dpo", "mlm"),
    "model": ("dense", "experts", "recurrent"),
    "cut": ("whole", "threes", "singles"),
    "rows": ("packed", "padded"),
    "ranks": ("1", "2-ddp", "2-fsdp"),
    "sittings": ("one", "two", "two-elsewhere"),
    "save": ("at-once", "beside"),
    "activations": ("kept", "half", "again"),
    "update": ("after", "within"),
    "blocks": ("eager", "compiled"),
}
"""The first two say what is learned; nothing of the others may be seen in the result."""

PLAIN = {
    "cut": "whole", "rows": "packed", "ranks": "1", "sittings": "one", "save": "at-once", "activations": "kept",
    "update": "after", "blocks": "eager",
}  # fmt: skip
"""What the result is compared with."""

SLOW = {"blocks": "eager"}
"""Factors of which one value is slow, and the other, which is taken wherever no pair asks for it."""

ILLEGAL = [
    # Refused: an encoder sees what follows, and a scan does not.
    ({"objective": "mlm"}, {"model": "recurrent"}),
    # Refused: gradients that are gone can neither be added to others nor clipped together; one model's are clipped.
    ({"update": "within"}, {"model": "recurrent"}),
    ({"update": "within"}, {"cut": "threes"}),
    ({"update": "within"}, {"cut": "singles"}),
    ({"update": "within"}, {"ranks": "2-ddp"}),
    ({"update": "within"}, {"ranks": "2-fsdp"}),
    ({"update": "within"}, {"sittings": "two-elsewhere"}),
]
"""Pairs of values that no run can have; what refuses them is tested elsewhere."""

STEPS, HALF, ROWS, CONTEXT = 4, 2, 7, 64


def is_legal(cell: Cell) -> bool:
    """Whether a cell, or a part of one, has no illegal pair of values."""
    return not any(a.items() <= cell.items() and b.items() <= cell.items() for a, b in ILLEGAL)


def pairs(cell: Cell) -> set[frozenset[tuple[str, str]]]:
    """Every pair of a cell's values."""
    return {frozenset(pair) for pair in combinations(cell.items(), 2)}


def all_pairs() -> set[frozenset[tuple[str, str]]]:
    """Every legal pair of values of two factors."""
    found: set[frozenset[tuple[str, str]]] = set()
    for a, b in combinations(FACTORS, 2):
        cells = ({a: x, b: y} for x, y in product(FACTORS[a], FACTORS[b]))
        found.update(*(pairs(cell) for cell in cells if is_legal(cell)))
    return found


def covering() -> list[Cell]:
    """Cells that together have every legal pair, each filled value by value with what covers the most that is open."""
    left, cells = all_pairs(), []
    while left:
        cell = dict(min(left, key=_place))
        for factor in FACTORS:
            if factor not in cell:
                if factor in SLOW:
                    cell[factor] = SLOW[factor]
                    continue
                choices = [v for v in FACTORS[factor] if is_legal({**cell, factor: v})]
                cell[factor] = max(choices, key=lambda v: len(pairs({**cell, factor: v}) & left))  # noqa: B023
        cells.append({factor: cell[factor] for factor in FACTORS})
        left -= pairs(cell)
    return cells


def _place(pair: frozenset[tuple[str, str]]) -> list[tuple[int, int]]:
    names = list(FACTORS)
    return sorted((names.index(factor), FACTORS[factor].index(value)) for factor, value in pair)


def named(cell: Cell) -> str:
    return ".".join(cell[factor] for factor in FACTORS)


def sittings(cell: Cell) -> list[tuple[int, int]]:
    """The number of processes of each sitting, and the step it ends at."""
    size = int(cell["ranks"][0])
    match cell["sittings"]:
        case "one":
            return [(size, STEPS)]
        case "two":
            return [(size, HALF), (size, STEPS)]
        case _:
            return [(size, HALF), (3 - size, STEPS)]


_RECOMPUTED = {"kept": None, "half": SelectiveCheckpointingConfig(every=2), "again": FullCheckpointingConfig()}


def model_of(cell: Cell) -> DecoderConfig | EncoderConfig:
    """The smallest models that have what differs: without dropout, which draws for each pass."""
    dense = SwiGLUConfig(d_ff=24)
    router = SigmoidRouterConfig(bias_rate=0.01)
    experts = MoEConfig(n_experts=4, top_k=2, d_ff=16, shared_d_ff=8, router=router, z_loss=1e-3)
    keys: dict[str, Any] = {
        "d_model": 18, "n_layers": 2, "context_length": CONTEXT, "init_std": 0.2,
        "mlp": experts if cell["model"] == "experts" else dense, "dropout": float(cell.get("dropout", "0")),
    }  # fmt: skip
    if cell["objective"] == "mlm":
        return EncoderConfig(**keys, mixers={"A": AttentionConfig(n_heads=2, head_dim=8, causal=False)})
    attention = AttentionConfig(n_heads=2, head_dim=8, qk_norm="qk_clip" not in cell)
    if cell["model"] == "recurrent":
        mamba = Mamba2Config(n_heads=3, head_dim=12, d_state=8, chunk_size=16)
        return DecoderConfig(**keys, mixers={"M": mamba, "A": attention}, pattern="MA")
    return DecoderConfig(**keys, mixers={"A": attention})


def job_of(cell: Cell, out: Path, data: Path, place: Place) -> Job:
    """The run of a cell, as one of its processes sees it."""
    objective, clipped, clips = cell["objective"], cell["model"] == "recurrent", "qk_clip" in cell
    verb = "pretrain" if objective == "mlm" else objective
    micro = {"whole": None, "threes": 3 * CONTEXT, "singles": CONTEXT}[cell["cut"]]
    changes: dict[str, Any] = {
        "model": model_of(cell),
        "train": TrainConfig(
            steps=STEPS, batch_tokens=ROWS * CONTEXT, micro_batch_tokens=micro, max_grad_norm=1.0 if clipped else None
        ),
        "optim": MuonConfig(lr=3e-3, adamw=AdamWConfig(lr=1e-3), qk_clip=float(cell["qk_clip"]) if clips else None)
        if clips or cell["model"] == "experts" else AdamWConfig(lr=1e-3),
        "objective": DPOConfig(sft_weight=0.1) if objective == "dpo"
        else CrossEntropyConfig(label_smoothing=0.1, z_loss=1e-3),
        "checkpoint": CheckpointingConfig(every=HALF, every_time=None, asynchronous=cell["save"] == "beside"),
        "memory": MemoryConfig(
            checkpointing=_RECOMPUTED[cell["activations"]], fused_backward=cell["update"] == "within"
        ),
        "eval": EvaluationConfig(every=HALF, max_tokens=5 * CONTEXT),
        "precision": PrecisionConfig(compute="float32", weights=cell.get("weights", "float32")),
    }  # fmt: skip
    if objective == "mlm":
        changes["data"] = MaskedTextConfig(sources={"wiki": TextSourceConfig(path=data)}, share=0.3)
    job = tiny.job(verb, out, data, **changes)
    parallel = FSDPConfig() if cell["ranks"] == "2-fsdp" else DDPConfig()
    resolved = {**job.resolved, "parallel": parallel.model_dump(mode="json")}
    resolved["compile"] = compiled = cell["blocks"] == "compiled"
    return replace(job, parallel=parallel, compile=compiled, resolved=resolved, place=place)


def apart(batch: TokenBatch) -> TokenBatch:
    """The same documents one a row, padding behind them."""
    T, found = batch.tokens_BT.shape[1], list(_documents(batch))

    def rows(parts: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack([torch.nn.functional.pad(part, (0, T - len(part)), value=fill) for part in parts])

    tokens, targets, documents = zip(*found, strict=True)
    return replace(
        batch, tokens_BT=rows(tokens, 3), targets_BT=rows(targets, IGNORE), documents_BT=rows(documents, PADDING)
    )


def _documents(batch: TokenBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for tokens_T, targets_T, documents_T in zip(batch.tokens_BT, batch.targets_BT, batch.documents_BT, strict=True):
        for number in documents_T[documents_T != PADDING].unique_consecutive():
            mine = documents_T == number
            yield tokens_T[mine], targets_T[mine], documents_T[mine]
