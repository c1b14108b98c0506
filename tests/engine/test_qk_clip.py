"""QK-clip: largest logits against loops, factors on the logits themselves, and what a step leaves."""

# Shape suffixes: B rows, T positions, N heads.

import itertools
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.config import AdamWConfig, MuonConfig, PrecisionConfig
from cirilla_cli.engine.job import check_job
from cirilla_cli.engine.optim.qk_clip import QKClip
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout, Sight
from cirilla_cli.model.mixers.config import AttentionConfig, LatentAttentionConfig
from cirilla_cli.model.ops.logits import LargestLogits
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import SwiGLUConfig

CPU = torch.device("cpu")
MIXERS = {
    "multi-head": AttentionConfig(n_heads=3, head_dim=4, bias=True),
    "grouped": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=4, scale=0.7),
    "latent": LatentAttentionConfig(
        n_heads=3, kv_lora_rank=5, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4, q_lora_rank=None
    ),
    "latent, small queries": LatentAttentionConfig(
        n_heads=3, kv_lora_rank=5, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4, q_lora_rank=6
    ),
}


def shape(mixer: Any, **changes: Any) -> DecoderConfig:
    keys: dict[str, Any] = {"vocab_size": 50, "d_model": 12, "n_layers": 2, "context_length": 16, "init_std": 0.5}
    return DecoderConfig(**{**keys, "mixers": {"A": mixer}, "mlp": SwiGLUConfig(d_ff=16), **changes})


def documents(*lengths: int) -> Tensor:
    return torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]


@pytest.mark.parametrize("sight", [Sight(), Sight(window=3), Sight(causal=False)])
@pytest.mark.parametrize(("T", "lengths"), [(9, (4, 5)), (300, (260, 40))])
def test_the_largest_logit_is_that_of_loops(T: int, lengths: tuple[int, ...], sight: Sight) -> None:
    """In float64, 1e-12: every head, every query, every key of its document that it sees; over two passes."""
    draw, documents_BT, expected = torch.Generator().manual_seed(0), documents(*lengths), [-math.inf] * 4
    layout, watch = SequenceLayout.packed(documents_BT), LargestLogits(4)
    for _ in range(2):
        q = torch.randn(1, T, 4, 3, dtype=torch.float64, generator=draw)
        k = torch.randn(1, T, 2, 3, dtype=torch.float64, generator=draw)
        watch.note(q, k, layout, layout, sight, 0.5)
        dots = torch.einsum("tnh,snh->nts", q[0], k[0].repeat_interleave(2, dim=1)).tolist()
        for n, t, s in itertools.product(range(4), range(T), range(T)):
            near = sight.window is None or abs(t - s) < sight.window
            if documents_BT[0, t] == documents_BT[0, s] and near and (s <= t or not sight.causal):
                expected[n] = max(expected[n], 0.5 * dots[n][t][s])
    assert watch.taken(CPU).tolist() == pytest.approx(expected, rel=1e-6)
    assert watch.taken(CPU).tolist() == [-math.inf] * 4


def test_padding_has_no_logits() -> None:
    """It sees itself, and nobody sees it: rows that a step does not need, as of idle processes, must not count."""
    documents_BT = torch.tensor([[0, 0, PADDING, PADDING], [PADDING] * 4])
    q = k = torch.tensor([1.0, 2.0, 30.0, 40.0]).expand(2, 4).reshape(2, 4, 1, 1)
    layout, watch = SequenceLayout.packed(documents_BT), LargestLogits(1)
    watch.note(q, k, layout, layout, Sight(), 0.5)
    assert watch.taken(CPU).tolist() == [0.5 * 2 * 2]


def largest(model: Any, tokens_BT: Tensor) -> list[Tensor]:
    """Of each layer's heads, in one pass."""
    clip = QKClip(model, 1.0)
    model.train()
    model(tokens_BT, SequenceLayout.rows(*tokens_BT.shape), readout=LastLogits())
    return [layer.attend.largest.taken(CPU).double() for layer in clip._layers]


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_each_heads_logits_shrink_by_its_factor_and_nothing_else_changes(mixer: Any) -> None:
    """In float64, of the first layer, whose input does not change; its output at a factor of 1 is what it was."""
    model, tokens_BT = fresh(shape(mixer), seed=0).double(), torch.arange(24).view(2, 12)
    before = largest(model, tokens_BT)[0]
    factor_N = torch.linspace(0.3, 1.0, len(before), dtype=torch.float64)
    layer = next(m for m in model.modules() if type(m).__name__ in ("Attention", "LatentAttention"))
    with torch.no_grad():
        for parameter, rows_M in layer.row_factors(factor_N):
            parameter.mul_(rows_M.view(-1, *[1] * (parameter.dim() - 1)))
    assert largest(model, tokens_BT)[0].tolist() == pytest.approx((before * factor_N).tolist(), rel=1e-5)


class Rows:
    """The same rows in every step, in one micro-batch or two."""

    rows_per_epoch = 4

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def step(self, index: int) -> Any:
        return self.batches

    def validation(self, most_tokens: int) -> Any:
        return iter(())


def _batch(tokens_BT: Tensor) -> TokenBatch:
    B, T = tokens_BT.shape
    return TokenBatch(tokens_BT, tokens_BT.roll(-1, 1), torch.arange(B)[:, None].expand(B, T))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_after_a_step_no_head_of_the_first_layer_exceeds_the_limit(
    mixer: Any, parts: int, tiny: ModuleType, tmp_path: Path
) -> None:
    """At a learning rate that moves nothing; heads below the limit keep every bit, cut into micro-batches or not."""
    config = shape(mixer)
    model, plain = fresh(config, seed=0), fresh(config, seed=0)
    tokens_BT = torch.arange(48).view(4, 12)
    before = largest(plain, tokens_BT)
    limit = float(before[0].sort().values[1]) * 0.999  # all but one head of the first layer exceed it
    optim = MuonConfig(lr=1e-30, qk_clip=limit, adamw=AdamWConfig(lr=1e-30, weight_decay=0.0))
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config, optim=optim,
                   precision=PrecisionConfig(compute="float32"))  # fmt: skip
    rows = [_batch(part) for part in tokens_BT.chunk(parts)]
    metrics = trainer_of(job, model, Rows(rows), 1, CPU, torch.float32).fit()
    every = torch.cat(before)
    assert metrics["qk_clip/largest"] == pytest.approx(float(every.max()), rel=1e-5)
    assert metrics["qk_clip/shrunk"] == pytest.approx(float((every > limit).double().mean()))
    after = largest(model, tokens_BT)[0]
    assert after.tolist() == pytest.approx(before[0].clamp(max=limit).tolist(), rel=1e-4)
    kept, name = int(before[0].argmin()), "q_b_proj" if "q_b_proj" in str(model) else "q_proj"
    found = (dict(m.named_parameters()) for m in (model, plain))
    one, other = (next(v for n, v in weights.items() if f"{name}.weight" in n) for weights in found)
    assert torch.equal(one.view(len(before[0]), -1)[kept], other.view(len(before[0]), -1)[kept])


def test_wrong_use_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    optim = MuonConfig(qk_clip=100.0)
    normed = shape(AttentionConfig(n_heads=3, head_dim=4, qk_norm=True))
    for changes, says in (
        ({"model": normed}, "normalise queries and keys"),
        ({"precision": PrecisionConfig(weights="bfloat16")}, "lost in rounding"),
    ):
        with pytest.raises(CirillaError, match=f"`optim.qk_clip` is 100, must be null .*{says}"):
            check_job(
                tiny.job(
                    "pretrain", tmp_path, tmp_path, **{"optim": optim, "model": shape(MIXERS["grouped"]), **changes}
                )
            )
    with pytest.raises(CirillaError, match="no layer of this model"):
        QKClip(fresh(normed, seed=0), 100.0)
    assert ALONE.largest(torch.tensor([3.0])).tolist() == [3.0]
