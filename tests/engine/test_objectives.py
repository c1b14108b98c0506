"""Losses against torch's own and against arithmetic."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, PairBatch, TokenBatch
from cirilla_cli.engine.config import CrossEntropyConfig, DPOConfig
from cirilla_cli.engine.objectives.dpo import answer_logps
from cirilla_cli.engine.step import mean_terms
from cirilla_cli.model.readout import TokenLogp

CPU = torch.device("cpu")


class FixedHidden:
    """A forward pass whose final hidden states and head are given."""

    def __init__(self, rows: int, length: int, width: int = 8, vocab: int = 17) -> None:
        generator = torch.Generator().manual_seed(5)
        self.hidden = torch.randn(rows, length, width, generator=generator, dtype=torch.float64)
        self.head = torch.randn(vocab, width, generator=generator, dtype=torch.float64)

    def __call__(self, tokens: Tensor, documents: Tensor, readout: Any, tally: Any = None) -> Any:
        return readout(self.hidden, self.head)

    @property
    def logits(self) -> Tensor:
        return self.hidden @ self.head.T


class FixedLogps:
    """A policy whose log-probability of every target token is given."""

    def __init__(self, logps: list[list[float]]) -> None:
        self.logps = torch.tensor(logps, dtype=torch.float64)

    def __call__(self, tokens: Tensor, documents: Tensor, readout: Any, tally: Any = None) -> Any:
        assert isinstance(readout, TokenLogp)
        return self.logps * (readout.targets_BT != IGNORE)


def text(rows: int = 3, length: int = 7) -> TokenBatch:
    generator = torch.Generator().manual_seed(6)
    targets = torch.randint(0, 17, (rows, length), generator=generator)
    targets[0, :3] = IGNORE
    targets[2, 1:] = IGNORE
    return TokenBatch(torch.zeros_like(targets), targets, torch.zeros_like(targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    batch, forward = text(), FixedHidden(3, 7)
    config = CrossEntropyConfig(label_smoothing=smoothing)
    terms = mean_terms(forward, config.build(), [batch], CPU)
    expected = torch.nn.functional.cross_entropy(
        forward.logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, label_smoothing=smoothing
    )
    loss = (1 - smoothing) * terms["nll"] + smoothing * terms.get("uniform", 0.0)
    assert loss == pytest.approx(float(expected), rel=1e-9)


def test_the_plain_loss_is_reported_beside_the_smoothed_one() -> None:
    batch, forward = text(), FixedHidden(3, 7)
    plain = mean_terms(forward, CrossEntropyConfig().build(), [batch], CPU)
    smoothed = mean_terms(forward, CrossEntropyConfig(label_smoothing=0.3).build(), [batch], CPU)
    assert plain["nll"] == smoothed["nll"]
    assert set(plain) == {"nll"}


def test_the_z_term_is_the_mean_squared_log_partition() -> None:
    batch, forward = text(), FixedHidden(3, 7)
    got = mean_terms(forward, CrossEntropyConfig(z_loss=1.0).build(), [batch], CPU)["z"]
    counted = (batch.targets_BT != IGNORE).numpy()
    logits = forward.logits.numpy()[counted]
    assert got == pytest.approx(float((np.log(np.exp(logits).sum(1)) ** 2).mean()), rel=1e-9)


@pytest.mark.parametrize("logits_bytes", [1, 17 * 4 * 5, 1 << 28])
def test_the_loss_does_not_depend_on_the_memory_for_logits(logits_bytes: int) -> None:
    from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy

    batch, forward = text(), FixedHidden(3, 7)
    config = CrossEntropyConfig(label_smoothing=0.1, z_loss=0.1)
    got = mean_terms(forward, CrossEntropy(config, logits_bytes=logits_bytes), [batch], CPU)
    assert got == pytest.approx(mean_terms(forward, config.build(), [batch], CPU), rel=1e-12)


def pairs(reference: list[list[float]]) -> PairBatch:
    """Two pairs in two rows: a prompt that does not count, answers of two tokens and one, and padding."""
    targets = torch.tensor([[IGNORE, 4, 5, IGNORE, 6, IGNORE, IGNORE], [IGNORE, 7, IGNORE, 8, 9, IGNORE, IGNORE]])
    documents = torch.tensor([[0, 0, 0, 1, 1, PADDING, PADDING], [2, 2, 3, 3, 3, PADDING, PADDING]])
    return PairBatch(torch.zeros_like(targets), targets, documents, torch.tensor([0, 1]), torch.tensor(reference))


POLICY = [[-9.0, -1.0, -0.5, -9.0, -2.0, -9.0, -9.0], [-9.0, -3.0, -9.0, -0.25, -0.5, -9.0, -9.0]]
"""Sums of the answers: -1.5 and -2.0; -3.0 and -0.75."""


def test_dpo_is_the_closed_form_by_hand() -> None:
    reference = [[-2.0, -1.0], [-3.5, -1.25]]
    got = mean_terms(FixedLogps(POLICY), DPOConfig(beta=0.4).build(), [pairs(reference)], CPU)
    # Pair 0: ratios 0.5 and -1.0; pair 1: 0.5 and 0.5.
    first, second = -math.log(1 / (1 + math.exp(-0.4 * 1.5))), math.log(2)
    assert got["dpo"] == pytest.approx((first + second) / 2, rel=1e-6)
    assert got["sft"] == pytest.approx((1.5 + 3.0) / 3, rel=1e-6)
    assert got["reward_margin"] == pytest.approx(0.4 * 1.5 / 2, rel=1e-6)
    assert got["reward_accuracy"] == pytest.approx(0.5)
    assert got["margin"] == pytest.approx(((-1.5 + 2.0) + (-3.0 + 0.75)) / 2, rel=1e-6)
    assert got["chosen_above"] == pytest.approx(0.5)


def test_smoothed_dpo_mixes_in_the_swapped_pair() -> None:
    reference = np.array([[-2.0, -1.0], [-0.5, -4.25]])
    ratios = np.array([[-1.5, -2.0], [-3.0, -0.75]]) - reference
    margin = 0.4 * (ratios[:, 0] - ratios[:, 1])
    expected = (0.8 * np.log1p(np.exp(-margin)) + 0.2 * np.log1p(np.exp(margin))).mean()
    config = DPOConfig(beta=0.4, label_smoothing=0.2)
    got = mean_terms(FixedLogps(POLICY), config.build(), [pairs(reference.tolist())], CPU)
    assert got["dpo"] == pytest.approx(float(expected), rel=1e-6)


def test_dpo_of_the_reference_itself_is_ln_2() -> None:
    got = mean_terms(FixedLogps(POLICY), DPOConfig().build(), [pairs([[-1.5, -2.0], [-3.0, -0.75]])], CPU)
    assert got["dpo"] == pytest.approx(math.log(2), rel=1e-6)
    assert got["reward_margin"] == pytest.approx(0.0, abs=1e-6)


def test_answers_are_summed_without_prompt_and_padding() -> None:
    batch = pairs([[0.0, 0.0], [0.0, 0.0]])
    logp = FixedLogps(POLICY)(batch.tokens_BT, batch.documents_BT, TokenLogp(batch.targets_BT))
    assert answer_logps(logp, batch.documents_BT, 2).tolist() == [[-1.5, -2.0], [-3.0, -0.75]]
    garbage = torch.where(batch.documents_BT == PADDING, torch.tensor(-1e9, dtype=torch.float64), logp)
    assert answer_logps(garbage, batch.documents_BT, 2).tolist() == [[-1.5, -2.0], [-3.0, -0.75]]
