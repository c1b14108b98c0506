"""Training experts: a step's gradient and biases do not know how it was cut; loads are logged, biases saved."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, PairBatch, TokenBatch
from cirilla_cli.data.labelled_batches import LabelledBatch
from cirilla_cli.engine.config import AdamWConfig, ClassificationConfig, CrossEntropyConfig, DPOConfig, MuonConfig
from cirilla_cli.engine.precision import CastForward
from cirilla_cli.engine.run import TrainReport
from cirilla_cli.engine.step import accumulate_gradients, step_counts
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.moe import MoE
from cirilla_cli.model.routing import (
    BatchBalanceConfig,
    ImportanceBalanceConfig,
    SequenceBalanceConfig,
    SigmoidRouterConfig,
)
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

VOCAB, T = 29, 12
CPU = torch.device("cpu")
BALANCES: dict[str, Any] = {
    "sequence": SequenceBalanceConfig(weight=0.3), "importance": ImportanceBalanceConfig(weight=0.3),
    "batch": BatchBalanceConfig(weight=0.3),
}  # fmt: skip
CUTS = {"halves": [[0, 1], [2, 3]], "uneven": [[0, 2, 1], [3]], "singles": [[3], [2], [1], [0]]}


def experts(**keys: Any) -> MoEConfig:
    return MoEConfig.model_validate({"n_experts": 5, "top_k": 2, "d_ff": 8, **keys})


def decoder(**keys: Any) -> Decoder:
    config = DecoderConfig(
        vocab_size=VOCAB, d_model=16, n_layers=3, context_length=T, mixers={"A": AttentionConfig(n_heads=2)},
        mlp=experts(dense_layers=1, dense=SwiGLUConfig(d_ff=24), **keys), init_std=0.4,
    )  # fmt: skip
    return fresh(config, seed=1)


def ragged() -> list[TokenBatch]:
    """Four rows: two documents, one with padding behind it, three tokens and padding, and padding alone."""
    generator, rows = torch.Generator().manual_seed(2), []
    for documents in ([0] * 5 + [1] * 7, [0] * 8 + [PADDING] * 4, [0] * 3 + [PADDING] * 9, [PADDING] * 12):
        tokens = torch.randint(4, VOCAB, (1, T), generator=generator)
        real = torch.tensor([documents]) != PADDING
        targets = torch.where(real, torch.randint(4, VOCAB, (1, T), generator=generator), IGNORE)
        rows.append(TokenBatch(tokens, targets, torch.tensor([documents])))
    return rows


def joined(rows: Sequence[TokenBatch]) -> TokenBatch:
    parts = ([getattr(row, name) for row in rows] for name in ("tokens_BT", "targets_BT", "documents_BT"))
    return TokenBatch(*map(torch.cat, parts))


def step(model: Decoder, batches: Sequence[TokenBatch]) -> tuple[dict[str, Tensor], dict[str, float], list[Any]]:
    """Gradients, terms, and the loads that layers have kept, of one optimizer step."""

    def forward(tokens: Tensor, documents: Tensor, readout: Any, tally: Any = None) -> Any:
        return model(tokens, SequenceLayout.packed(documents), readout=readout, tally=tally)

    model.train().zero_grad(set_to_none=True)
    sums, _ = accumulate_gradients(forward, CrossEntropyConfig().build(), batches, CPU)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    loads: list[Any] = []
    for layer in layers:
        layer.after_step(lambda total: loads.append(total.tolist()) or total)  # type: ignore[func-returns-value]
    return grads, {name: float(value) for name, value in sums.items()}, loads


def apart(model: Decoder, cut: list[list[int]]) -> tuple[dict[str, Tensor], dict[str, float], list[Any]]:
    rows = ragged()
    return step(model, [joined([rows[i] for i in part]) for part in cut])


@pytest.mark.parametrize("balance", ["sequence", "importance"])
def test_cutting_a_step_leaves_gradients_losses_and_loads_alone(balance: str) -> None:
    model = decoder(balance=BALANCES[balance], z_loss=0.1, router=SigmoidRouterConfig(bias_rate=0)).double()
    whole, values, loads = apart(model, [[0, 1, 2, 3]])
    assert {name for name, _ in model.named_parameters()} == set(whole)
    assert values["moe/z"] > 0
    assert len(loads) == 2
    assert all(sum(layer) == 2 * (12 + 8 + 3) for layer in loads)
    for cut in CUTS.values():
        grads, sums, counted = apart(model, cut)
        assert counted == loads
        assert sums == pytest.approx(values, rel=1e-9)
        for name, expected in whole.items():
            torch.testing.assert_close(grads[name], expected, rtol=1e-6, atol=1e-12)


def test_a_loss_of_batch_means_knows_how_the_step_was_cut_and_says_so() -> None:
    model = decoder(balance=BALANCES["batch"], router=SigmoidRouterConfig(bias_rate=0)).double()
    whole, cut = apart(model, [[0, 1, 2, 3]]), apart(model, CUTS["singles"])
    assert whole[1]["moe/batch_balance"] != pytest.approx(cut[1]["moe/batch_balance"], rel=1e-3)
    assert whole[1]["nll"] == pytest.approx(cut[1]["nll"], rel=1e-9)
    assert [type(b).cut_invariant for b in BALANCES.values()] == [True, True, False]


def test_the_units_of_layers_are_counted_before_the_forward_pass() -> None:
    counts = step_counts(CrossEntropyConfig().build(), ragged())
    assert counts == {"tokens": 23.0, "rows": 3.0, "positions": 23.0}


def test_the_loss_is_what_is_predicted_plus_the_weighted_terms_of_layers() -> None:
    model = decoder(balance=BALANCES["sequence"], z_loss=0.1).double()
    _, values, _ = apart(model, CUTS["halves"])
    expected = values["nll"] + 0.3 * values["moe/balance"] + 0.1 * values["moe/z"]
    assert values["loss"] == pytest.approx(expected, rel=1e-9)


def test_the_router_is_not_cast_where_the_rest_is() -> None:
    """Weights that bfloat16 cannot tell apart decide which expert is first."""
    model = decoder(balance=None, router=SigmoidRouterConfig(bias_rate=0))
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    layer = next(module for module in model.modules() if isinstance(module, MoE))
    layer.experts.product = lambda x, chosen, weights, up, down: seen.append((x.dtype, up.dtype)) or x  # type: ignore[func-returns-value]
    layer.gate.register_forward_hook(lambda gate, given, out: seen.append((given[0].dtype, gate.weight.dtype)))
    batch = ragged()[0]
    CrossEntropyConfig().build().terms(CastForward(model, torch.bfloat16), batch)
    assert seen == [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]


def test_muon_leaves_the_router_to_adamw() -> None:
    model = decoder()
    named = {id(p): name for name, p in model.named_parameters()}
    optimizer = MuonConfig(lr=0.01).build(model)
    muon = {named[id(p)] for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    assert any(name.endswith("q_proj.weight") for name in muon)
    assert not any(".gate." in name for name in muon)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)


def test_losses_of_layers_are_minimised_whatever_the_objective() -> None:
    """A `balance` or `z_loss` that is written down has its weight in alignment and in classification too."""
    batch = joined(ragged()[:2])
    pairs = PairBatch(
        batch.tokens_BT, batch.targets_BT, torch.tensor([[0] * 5 + [1] * 7, [2] * 8 + [3] * 4]),
        torch.arange(2), torch.zeros(2, 2),
    )  # fmt: skip
    texts = LabelledBatch(batch.tokens_BT, batch.targets_BT, batch.documents_BT, torch.tensor([0, 1, 1]))
    base = decoder(balance=BALANCES["sequence"], z_loss=0.1).config
    classifier = fresh(ClassifierConfig(base=base, labels=("a", "b"), pooling="last"), seed=1)
    cases: list[tuple[Any, Any, Any, str]] = [
        (DPOConfig().build(), fresh(base, seed=1), pairs, "dpo"),
        (ClassificationConfig().build(), classifier, texts, "nll"),
    ]
    for objective, model, given, main in cases:
        sums, counts = accumulate_gradients(CastForward(model.train(), torch.float32), objective, [given], CPU)
        assert (counts["rows"], counts["positions"]) == (2.0, float((given.documents_BT != PADDING).sum()))
        expected = float(sums[main]) + 0.3 * float(sums["moe/balance"]) + 0.1 * float(sums["moe/z"])
        assert float(sums["loss"]) == pytest.approx(expected, rel=1e-6)


# Whole runs


def test_a_run_logs_loads_and_saves_biases(run: Callable[..., TrainReport], out: Path, tiny: ModuleType) -> None:
    mlp = experts(router=SigmoidRouterConfig(bias_rate=0.01), z_loss=0.01)
    run(model=tiny.decoder(mlp=mlp), optim=AdamWConfig(lr=3e-3))
    for line in tiny.metrics(out):
        assert 1.0 <= line["moe/load_max"] <= 2.5
        assert 0.0 < line["moe/load_entropy"] <= 1.0
        assert 0 <= line["moe/dead"] <= 3
        assert line["moe/balance"] > 0
        assert line["moe/z"] > 0
    last = tiny.saved(out)[6]
    bias = load_file(last / "model.safetensors")["model.layers.0.mlp.gate.e_score_correction_bias"]
    assert float(bias.abs().max()) > 0
    steps = bias / 0.01  # six whole steps up, down or not at all
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert float(steps.abs().max()) <= 6


def test_a_run_of_experts_that_was_interrupted_ends_as_one_that_was_not(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    mlp = experts(router=SigmoidRouterConfig(bias_rate=0.01))
    keys = {"model": tiny.decoder(mlp=mlp), "optim": AdamWConfig(lr=3e-3)}
    run(**keys)
    whole, lines = tiny.final_digests(out), [line["moe/load_max"] for line in tiny.metrics(out)]
    with pytest.raises(CirillaError, match="stopped after step 3 of"):
        run(tiny.interrupt_after(3), restart=True, **keys)
    run(**keys)
    assert tiny.final_digests(out) == whole
    assert [line["moe/load_max"] for line in tiny.metrics(out)] == lines
