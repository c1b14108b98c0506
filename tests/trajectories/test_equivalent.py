"""Runs that differ in what must not matter: how a step is cut, how documents are packed, a save in between."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cirilla_cli.data.batches import Conversations, Cut
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.engine.config import AdamWConfig, CrossEntropyConfig, EvaluationConfig, TrainConfig
from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.run import train
from cirilla_cli.engine.step import mean_terms
from cirilla_cli.loading import load_model
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.progress import Silent


@pytest.mark.parametrize("verb", ["pretrain", "sft", "dpo"])
def test_one_forward_pass_of_eight_rows_trains_as_eight_of_one(
    verb: str, tiny: ModuleType, data: Path, started: Path, tmp_path: Path
) -> None:
    """Over ten steps, where a mean of means would have drifted in the third digit."""
    start = None if verb == "pretrain" else started
    runs = []
    for rows in (8, 1):
        length = 32 if verb == "pretrain" else 64
        lasting = TrainConfig(steps=10, batch_tokens=8 * length, micro_batch_tokens=rows * length)
        job = tiny.job(verb, tmp_path / str(rows), data, start=start, train=lasting, optim=AdamWConfig(lr=1e-3))
        if verb == "pretrain":
            job = replace(job, model=tiny.decoder(dropout=0.0))
        train(job, Silent())
        runs.append(tmp_path / str(rows))
    whole, cut = (np.array([loss for _, loss in tiny.curve(run)]) for run in runs)
    np.testing.assert_allclose(whole, cut, rtol=2e-5)
    models = [load_model(run, progress=Silent()).model.state_dict() for run in runs]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=2e-4)


def test_packed_conversations_have_the_loss_of_one_a_row(tiny: ModuleType, data: Path) -> None:
    """The oracle feeds each document alone, without padding, through the same weights."""
    model = fresh(tiny.decoder(vocab_size=340, n_layers=2, dropout=0.0, context_length=64, init_std=0.3), seed=3)
    model = model.double().eval()
    shards = TokenShards.open(data / "shards" / "chat")
    packed = Conversations([shards], [], Cut(64, rows_per_step=1, rows_per_micro_batch=1, seed=0, pad_id=3))
    assert packed.rows_per_epoch < shards.n_documents / 1.3, "nothing was packed"

    batches = [batch for i in range(packed.rows_per_epoch) for batch in packed.step(i)]
    objective = CrossEntropy(CrossEntropyConfig())
    got = mean_terms(forward_of(model, torch.float32), objective, batches, torch.device("cpu"))["nll"]

    total = count = 0.0
    for i in range(shards.n_documents):
        ids = torch.tensor(shards.document(i)[:65].astype(np.int64))
        trained = torch.tensor(shards.counted(i)[1:65])
        layout = SequenceLayout.rows(1, len(ids) - 1)
        with torch.no_grad():
            logits = model(ids[None, :-1], layout, readout=LastLogits(len(ids) - 1))[0]
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total, count = total + float(nll[trained].sum()), count + int(trained.sum())
    assert got == pytest.approx(total / count, rel=1e-12)


def test_a_saved_and_loaded_model_has_the_same_logits(tiny: ModuleType, started: Path) -> None:
    first = load_model(started, progress=Silent()).model
    again = load_model(tiny.saved(started)[6], progress=Silent()).model
    tokens = torch.arange(20)[None]
    layout = SequenceLayout.rows(1, 20)
    logits = [model(tokens, layout, readout=LastLogits(20)) for model in (first, again)]
    assert torch.equal(*logits)
    assert logits[0].unique().numel() > 20


def test_watching_a_run_changes_none_of_its_bits(tiny: ModuleType, data: Path, tmp_path: Path) -> None:
    """Evaluating and sampling draw nothing that training would have drawn."""
    watched = EvaluationConfig(every=1, max_tokens=64, prompts=("moon",), sample_tokens=2)
    train(tiny.job("pretrain", tmp_path / "quiet", data), Silent())
    train(tiny.job("pretrain", tmp_path / "watched", data, eval=watched), Silent())
    assert tiny.final_digests(tmp_path / "quiet") == tiny.final_digests(tmp_path / "watched")
