"""Training with steps ahead: however a step is cut, on whatever documents, the same gradient; and it learns."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, TokenBatch
from cirilla_cli.engine.config import CrossEntropyConfig, MultiTokenConfig, TrainConfig
from cirilla_cli.engine.run import plan, train
from cirilla_cli.engine.step import accumulate_gradients, step_counts
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_json
from cirilla_cli.model.config import ChainedMTPConfig, CheckpointConfig, DecoderConfig, MTPSection, ParallelMTPConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig
from cirilla_cli.progress import Silent

VOCAB, T = 29, 12
KINDS: dict[str, MTPSection] = {"chained": ChainedMTPConfig(depth=2), "parallel": ParallelMTPConfig(depth=2)}
CUTS = ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 2, 1], [3]], [[0], [1], [2], [3]])
OBJECTIVE = MultiTokenConfig(depth=2, weight=0.3).build()


def rows() -> list[TokenBatch]:
    """Rows of one to three documents of unlike lengths, padding behind them, a few targets that do not count."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for lengths in ([12], [5, 7], [1, 2, 4], [3]):
        tokens, documents = torch.full((1, T), 3), torch.full((1, T), PADDING)
        targets, at = torch.full((1, T), IGNORE), 0
        for number, length in enumerate(lengths):
            here = slice(at, at + length)
            tokens[0, here] = torch.randint(4, VOCAB, (length,), generator=generator)
            documents[0, here] = number
            targets[0, at : at + length - 1] = tokens[0, at + 1 : at + length]
            at += length
        targets[0, 2] = IGNORE
        made.append(TokenBatch(tokens, targets, documents))
    return made


def joined(batches: Sequence[TokenBatch]) -> TokenBatch:
    parts = zip(*((b.tokens_BT, b.targets_BT, b.documents_BT) for b in batches), strict=True)
    return TokenBatch(*(torch.cat(part) for part in parts))


def test_targets_reach_no_further_than_their_document() -> None:
    """Counted by hand: a document of n tokens has n - 1 next tokens, n - 2 after that, n - 3 after that."""
    whole = [TokenBatch(b.tokens_BT, _all_targets(b), b.documents_BT) for b in rows()]
    lengths = [12, 5, 7, 1, 2, 4, 3]
    expected = {f: sum(max(0, n - k) for n in lengths) for f, k in (("tokens", 1), ("tokens_2", 2), ("tokens_3", 3))}
    counts = step_counts(OBJECTIVE, whole)
    assert {name: counts[name] for name in expected} == expected


def _all_targets(batch: TokenBatch) -> Tensor:
    following = torch.nn.functional.pad(batch.tokens_BT[:, 1:], (0, 1), value=IGNORE)
    same = torch.nn.functional.pad(batch.documents_BT[:, 1:], (0, 1), value=-2) == batch.documents_BT
    return torch.where(same & (batch.documents_BT != PADDING), following, IGNORE)


@pytest.mark.parametrize("section", KINDS.values(), ids=KINDS)
def test_the_gradient_does_not_know_how_the_step_was_cut(section: MTPSection) -> None:
    config = DecoderConfig(
        vocab_size=VOCAB, d_model=16, n_layers=2, context_length=T, mixers={"A": AttentionConfig(n_heads=2)},
        mlp=SwiGLUConfig(d_ff=24), init_std=0.4, mtp=section,
    )  # fmt: skip
    model = fresh(config, seed=1).double()

    def forward(tokens: Tensor, documents: Tensor, readout: Any, tally: Any = None) -> Any:
        return model(tokens, SequenceLayout.packed(documents), readout=readout, tally=tally)

    found = []
    for cut in CUTS:
        model.zero_grad()
        batches = [joined([rows()[i] for i in part]) for part in cut]
        sums, _ = accumulate_gradients(forward, OBJECTIVE, batches, torch.device("cpu"))
        assert float(sums["loss"]) == pytest.approx(
            float(sums["nll"]) + 0.15 * float(sums["nll_2"]) + 0.15 * float(sums["nll_3"]), abs=1e-12
        )
        found.append([p.grad.clone() for p in _all(model)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-10)


def _all(model: Decoder) -> list[Tensor]:
    assert all(p.grad is not None for p in model.parameters())
    return list(model.parameters())


@pytest.mark.parametrize("section", KINDS.values(), ids=KINDS)
def test_a_run_learns_at_every_distance_and_reports_each(
    section: MTPSection, tiny: ModuleType, data: Path, out: Path
) -> None:
    job = tiny.job("pretrain", out, data, model=tiny.decoder(mtp=section), objective=MultiTokenConfig(depth=2))
    train(job, Silent())
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(f'"{name}"' in lines[-1] for name in ("nll", "nll_2", "nll_3"))
    assert read_json(next((out / "checkpoints").glob("step-*")) / "model.json")["model"]["mtp"]["depth"] == 2


def test_a_model_and_an_objective_of_unlike_depth_are_refused(tiny: ModuleType, data: Path, out: Path) -> None:
    deep = tiny.decoder(mtp=ChainedMTPConfig(depth=1))
    with pytest.raises(CirillaError, match="`objective.depth` is 2, must be 1, the depth of the model's `mtp`"):
        train(tiny.job("pretrain", out, data, model=deep, objective=MultiTokenConfig(depth=2)), Silent())
    with pytest.raises(CirillaError, match="nothing trains them"):
        train(tiny.job("pretrain", out, data, model=deep, objective=CrossEntropyConfig()), Silent())


def test_rows_too_short_for_the_steps_ahead_are_refused(tiny: ModuleType, data: Path, out: Path) -> None:
    """A model of two steps ahead needs rows of three tokens: the first, and what stands two after its next."""
    deep = tiny.decoder(mtp=ChainedMTPConfig(depth=2))
    train(tiny.job("pretrain", out, data, model=deep, objective=MultiTokenConfig(depth=2)), Silent())
    for context, fits in ((2, False), (3, True)):
        again = CheckpointConfig(path=str(out), context_length=context)
        lasting = TrainConfig(steps=1, batch_tokens=2 * context)
        job = tiny.job(
            "pretrain", out.with_name(f"short-{context}"), data, model=again, objective=MultiTokenConfig(depth=2),
            train=lasting,
        )  # fmt: skip
        if fits:
            train(job, Silent())
            continue
        for refused in (plan, train):
            with pytest.raises(CirillaError, match="`model.context_length` is 2, must be more than 2, the depth"):
                refused(job, Silent())


def test_steps_that_a_run_leaves_untrained_are_said_once(tiny: ModuleType, data: Path, out: Path) -> None:
    deep, listener = tiny.decoder(mtp=ChainedMTPConfig(depth=2)), tiny.Listener()
    train(tiny.job("pretrain", out, data, model=deep, objective=MultiTokenConfig(depth=2)), listener)
    assert not [line for line in listener.said if "steps ahead" in line]
    for verb, remedy in (("pretrain", True), ("sft", False)):
        listener = tiny.Listener()
        job = tiny.job(verb, out.with_name(f"on-{verb}"), data, model=CheckpointConfig(path=str(out)))
        train(job, listener)
        train(job, listener)
        said = [line for line in listener.said if "the model's 2 steps ahead (`mtp`) stay as they are" in line]
        assert len(said) == 1
        assert ("objective={kind: multi_token, depth: 2}" in said[0]) == remedy
