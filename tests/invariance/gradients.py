"""Steps in float64 for which gradients are compared: models with all that is summed, and ragged batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, PairBatch, TokenBatch
from cirilla_cli.data.labelled_batches import LabelledBatch
from cirilla_cli.engine.config import (
    ClassificationConfig,
    CrossEntropyConfig,
    DPOConfig,
    FullCheckpointingConfig,
    MultiTokenConfig,
    SelectiveCheckpointingConfig,
)
from cirilla_cli.engine.parallel import Ranks, shard
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.recompute import checkpoint_activations
from cirilla_cli.engine.step import accumulate_gradients, mean_terms
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import ChainedMTPConfig, ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig, GatedDeltaNetConfig, Mamba2Config
from cirilla_cli.model.parts import AfterStep
from cirilla_cli.model.routing import SequenceBalanceConfig, SigmoidRouterConfig
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

VOCAB, T = 29, 12
CPU = torch.device("cpu")


class Case(NamedTuple):
    """A model's shape, what it minimises, and the kind of its batches."""

    shape: Any
    objective: Any
    batches: str = "text"


def _keys(**changes: Any) -> dict[str, Any]:
    """Odd sizes, so that no weight is cut evenly."""
    keys: dict[str, Any] = {
        "vocab_size": VOCAB, "d_model": 15, "n_layers": 2, "context_length": T, "init_std": 0.4,
        "mixers": {"A": AttentionConfig(n_heads=3, head_dim=4, n_kv_heads=1)}, "mlp": SwiGLUConfig(d_ff=21),
    }  # fmt: skip
    return {**keys, **changes}


_EXPERTS = MoEConfig(
    n_experts=5, top_k=2, d_ff=8, router=SigmoidRouterConfig(bias_rate=0.1), balance=SequenceBalanceConfig(weight=0.3),
    z_loss=0.1,
)  # fmt: skip
_STATES = {
    "M": Mamba2Config(n_heads=3, head_dim=5, d_state=4, chunk_size=8),
    "D": GatedDeltaNetConfig(n_heads=3, head_dim=5, chunk_size=8),
}
_SEEING_ALL = AttentionConfig(n_heads=3, head_dim=4, causal=False)
_PLAIN = CrossEntropyConfig(label_smoothing=0.2, z_loss=0.01)
CASES: dict[str, Case] = {
    "text": Case(DecoderConfig(**_keys()), _PLAIN),
    "pairs": Case(DecoderConfig(**_keys()), DPOConfig(beta=0.3, sft_weight=0.5, label_smoothing=0.1), "pairs"),
    "experts": Case(DecoderConfig(**_keys(mlp=_EXPERTS)), _PLAIN),
    "experts of pairs": Case(DecoderConfig(**_keys(mlp=_EXPERTS)), DPOConfig(beta=0.3), "pairs"),
    "states": Case(DecoderConfig(**_keys(mixers=_STATES, pattern="MD")), _PLAIN),
    "steps ahead": Case(DecoderConfig(**_keys(mtp=ChainedMTPConfig(depth=2))), MultiTokenConfig(depth=2)),
    "labels": Case(
        ClassifierConfig(
            base=EncoderConfig(**_keys(registers=2, mixers={"A": _SEEING_ALL})), labels=("a", "b", "c"), pooling="mean"
        ),
        ClassificationConfig(label_smoothing=0.2), "labels",
    ),
    "labels by the last token": Case(
        ClassifierConfig(base=DecoderConfig(**_keys()), labels=("a", "b", "c"), pooling="last"),
        ClassificationConfig(), "labels",
    ),
}  # fmt: skip

_LENGTHS = ([5, 7], [8, 2], [1], [2, 1, 2, 2], [3, 4])
"""Documents of five rows, so that two processes and three get unlike shares of them."""


def batches_of(kind: str) -> list[Any]:
    """Five micro-batches of a row each, the counts of which have nothing in common."""
    draw, made, seen = torch.Generator().manual_seed(2), [], 0
    for number, lengths in enumerate(_LENGTHS):
        lengths = [2 * [n] for n in lengths] if kind == "pairs" else [[n] for n in lengths]
        row = [min(n, 3) if kind == "pairs" else n for some in lengths for n in some]
        batch, count = _row(row, draw, drop=number), len(lengths)
        if kind == "pairs":
            reference = -3 * torch.rand(count, 2, generator=draw) - 1
            batch = PairBatch(*_parts(batch), torch.arange(seen, seen + count), reference)
        elif kind == "labels":
            labels = torch.randint(3, (count,), generator=draw)
            batch = LabelledBatch(batch.tokens_BT, torch.full((1, T), IGNORE), batch.documents_BT, labels)
        made.append(batch)
        seen += count
    return made


def _parts(batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.tokens_BT, batch.targets_BT, batch.documents_BT


def _row(lengths: Sequence[int], draw: torch.Generator, *, drop: int) -> TokenBatch:
    tokens, targets = torch.full((1, 2 * T), 3), torch.full((1, 2 * T), IGNORE)
    documents, at = torch.full((1, 2 * T), PADDING), 0
    for number, length in enumerate(lengths):
        here = slice(at, at + length)
        tokens[0, here] = torch.randint(4, VOCAB, (length,), generator=draw)
        targets[0, here] = torch.randint(4, VOCAB, (length,), generator=draw)
        documents[0, here], at = number, at + length
    targets[0, :drop] = IGNORE
    return TokenBatch(tokens[:, : max(T, at)], targets[:, : max(T, at)], documents[:, : max(T, at)])


def step_of(case: str, ranks: Ranks, *, short: bool = False, every: int = 0) -> dict[str, Tensor]:
    """Gradients, terms, means without gradient, and what layers keep, after one step of a case.

    In float64, or ``short``: in bfloat16 over float32. One block of ``every`` so many is computed again, if any.
    """
    shape, objective, kind = CASES[case]
    model: Model = fresh(shape, seed=1) if short else fresh(shape, seed=1).double()
    dtype = torch.bfloat16 if short else torch.float32
    if ranks.sharded:
        shard(model, dtype, CPU)
    if every:
        checkpoint_activations(
            model, FullCheckpointingConfig() if every == 1 else SelectiveCheckpointingConfig(every=every)
        )
    forward = forward_of(model, torch.float32 if ranks.sharded else dtype)
    objective, batches = objective.build(), batches_of(kind)
    means = mean_terms(forward, objective, batches, CPU, ranks=ranks)
    ranks.apart(model)
    sums, _ = accumulate_gradients(forward, objective, batches, CPU, ranks=ranks)
    ranks.sum_gradients(model)
    for module in model.modules():
        if isinstance(module, AfterStep):
            module.after_step(ranks.sum)
    found = {f"gradient of {n}": ranks.whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    found |= {f"term {name}": value.double() for name, value in sums.items()}
    found |= {f"mean {name}": torch.tensor(value, dtype=torch.float64) for name, value in means.items()}
    return found | {f"buffer {name}": value for name, value in model.named_buffers()}
