"""Readouts against torch's cross-entropy: values, gradients, chunks, and the terms that objectives mix in."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.ops import cross_entropy
from cirilla_cli.model.ops.cross_entropy import Weights, linear_logp, linear_loss
from cirilla_cli.model.readout import IGNORE, Hidden, LastLogits, TokenLogp, TokenLoss

B, T, D, V = 3, 11, 8, 37
ONE_ROW = 8 * V
"""Bytes of logits that leave room for one position at a time."""

CHUNKS = pytest.mark.parametrize("logits_bytes", [ONE_ROW, 5 * ONE_ROW, 1 << 28], ids=["one", "five", "whole"])


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and targets of which a third do not count."""
    generator = torch.Generator().manual_seed(0)
    hidden_BTD = torch.randn(B, T, D, generator=generator, dtype=torch.float64).to(dtype)
    head_VD = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype)
    targets_BT = torch.randint(V, (B, T), generator=generator)
    targets_BT[torch.rand(B, T, generator=generator) < 0.33] = IGNORE
    return hidden_BTD.requires_grad_(), head_VD.requires_grad_(), targets_BT


def gradients(out: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out, leaves))


@CHUNKS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
def test_the_summed_loss_and_its_gradient_are_those_of_torch(
    logits_bytes: int, smoothing: float, z_weight: float
) -> None:
    """Label smoothing mixes in the uniform distribution, z is the squared log-partition; float64, 1e-10."""
    hidden_BTD, head_VD, targets_BT = inputs()
    sums = TokenLoss(targets_BT, logits_bytes, Weights(1 - smoothing, smoothing, z_weight))(hidden_BTD, head_VD)
    ours = sums.loss
    logits = (hidden_BTD @ head_VD.T).flatten(0, 1)
    theirs = F.cross_entropy(
        logits, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
    )
    plain = F.cross_entropy(logits, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
    z = (logits.logsumexp(1) ** 2)[targets_BT.flatten() != IGNORE].sum()
    theirs = theirs + z_weight * z
    torch.testing.assert_close([ours, sums.nll, sums.z], [theirs, plain, z], rtol=0, atol=1e-10)
    if smoothing:
        parts = (1 - smoothing) * sums.nll + smoothing * sums.uniform + z_weight * sums.z
        torch.testing.assert_close(parts, theirs, rtol=0, atol=1e-10)
    mine, other = gradients(3 * ours, hidden_BTD, head_VD), gradients(3 * theirs, hidden_BTD, head_VD)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@CHUNKS
def test_token_log_probabilities_and_their_gradient_are_those_of_torch(logits_bytes: int) -> None:
    hidden_BTD, head_VD, targets_BT = inputs()
    ours = TokenLogp(targets_BT, logits_bytes)(hidden_BTD, head_VD)
    logits = hidden_BTD @ head_VD.T
    theirs = -F.cross_entropy(logits.transpose(1, 2), targets_BT, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert (ours[targets_BT == IGNORE] == 0).all()
    weights_BT = torch.randn(B, T, dtype=torch.float64)  # each position with a gradient of its own
    mine = gradients((ours * weights_BT).sum(), hidden_BTD, head_VD)
    other = gradients((theirs * weights_BT).sum(), hidden_BTD, head_VD)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@CHUNKS
def test_the_chunked_kernels_pass_torch_s_gradient_check(logits_bytes: int) -> None:
    hidden_BTD, head_VD, _ = inputs()
    targets_M = torch.randint(V, (7,), generator=torch.Generator().manual_seed(3))
    hidden_MD = hidden_BTD.detach().flatten(0, 1)[:7].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_logp(h, w, targets_M, logits_bytes=logits_bytes), (hidden_MD, head_VD)
    )
    mixed = Weights(0.8, 0.2, 0.05)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_loss(h, w, targets_M, 5, mixed, logits_bytes=logits_bytes)[0], (hidden_MD, head_VD)
    )


def test_a_vocabulary_that_is_taken_in_parts_that_fit_the_cache_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sums and gradients as torch where a part holds four positions of logits, and the last fewer."""
    monkeypatch.setattr(cross_entropy, "_IN_CACHE", 4 * 4 * V)
    test_the_summed_loss_and_its_gradient_are_those_of_torch(1 << 28, 0.1, 1e-2)
    test_token_log_probabilities_and_their_gradient_are_those_of_torch(1 << 28)


def test_validation_makes_no_gradient_and_the_same_loss() -> None:
    hidden_BTD, head_VD, targets_BT = inputs()
    learning = TokenLoss(targets_BT)(hidden_BTD, head_VD)
    with torch.no_grad():
        looking = TokenLoss(targets_BT)(hidden_BTD, head_VD)
    assert looking.loss.item() == learning.loss.item()
    assert not looking.loss.requires_grad


def test_chunks_change_nothing_but_the_order_of_sums_in_float32() -> None:
    hidden_BTD, head_VD, targets_BT = inputs(torch.float32)
    whole = TokenLoss(targets_BT)(hidden_BTD, head_VD).loss
    parts = TokenLoss(targets_BT, ONE_ROW)(hidden_BTD, head_VD).loss
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    mine, other = gradients(parts, hidden_BTD, head_VD), gradients(whole, hidden_BTD, head_VD)
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_sums_are_float32_where_the_model_is_bfloat16() -> None:
    hidden_BTD, head_VD, targets_BT = inputs(torch.bfloat16)
    sums = TokenLoss(targets_BT)(hidden_BTD, head_VD)
    exact = F.cross_entropy(
        (hidden_BTD.double() @ head_VD.double().T).flatten(0, 1),
        targets_BT.flatten(),
        ignore_index=IGNORE,
        reduction="sum",
    )
    assert sums.nll.dtype == sums.uniform.dtype == sums.z.dtype == torch.float32
    torch.testing.assert_close(sums.nll.double(), exact, rtol=1e-2, atol=0)


def test_nothing_counted_is_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    hidden_BTD, head_VD, targets_BT = inputs()
    sums = TokenLoss(torch.full_like(targets_BT, IGNORE))(hidden_BTD, head_VD)
    assert [x.item() for x in (sums.nll, sums.uniform, sums.z)] == [0.0, 0.0, 0.0]
    assert all((g == 0).all() for g in gradients(sums.loss, hidden_BTD, head_VD))


def test_more_positions_than_a_round_of_padding_still_count_once() -> None:
    """Counted positions are filled up to multiples of 256; 255, 256 and 257 lie around one."""
    head_VD = inputs()[1].detach()
    for n in (255, 256, 257):
        hidden_BTD = torch.randn(1, n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        targets_BT = torch.randint(V, (1, n), generator=torch.Generator().manual_seed(n))
        leaves = hidden_BTD.requires_grad_(), head_VD.clone().requires_grad_()
        expected = F.cross_entropy((leaves[0] @ leaves[1].T)[0], targets_BT[0], reduction="sum")
        ours = TokenLoss(targets_BT)(*leaves).loss
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients(ours, *leaves), gradients(expected, *leaves), rtol=0, atol=1e-9)
        assert TokenLogp(targets_BT)(hidden_BTD, head_VD).shape == (1, n)


def test_last_logits_and_hidden_are_the_end_of_the_same_pass(make_model: Callable[..., Decoder]) -> None:
    model, rows = make_model(), torch.arange(12).reshape(2, 6)
    assert model.lm_head is not None
    with torch.inference_mode():
        hidden_BTD = model(rows, SequenceLayout.rows(2, 6), readout=Hidden())
        last = model(rows, SequenceLayout.rows(2, 6), readout=LastLogits(2))
    torch.testing.assert_close(last, hidden_BTD[:, -2:] @ model.lm_head.weight.T, rtol=0, atol=1e-12)
    assert LastLogits()(hidden_BTD.bfloat16(), model.lm_head.weight.bfloat16()).dtype == torch.float32


def test_a_tied_head_receives_the_gradient_of_both_its_uses(make_model: Callable[..., Decoder]) -> None:
    """Against finite differences along a random direction of the embedding."""
    model, rows = make_model(tie_embeddings=True), torch.arange(14).reshape(2, 7)
    weight = model.model.embed_tokens.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        sums = model(rows[:, :-1], SequenceLayout.rows(2, 6), readout=TokenLoss(rows[:, 1:]))
        return sums.loss

    loss().backward()
    assert weight.grad is not None
    values, step = [], 1e-5
    with torch.no_grad():
        for sign in (1, -2):
            weight.add_(direction, alpha=sign * step)
            values.append(float(loss()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float((weight.grad * direction).sum()), rel=1e-6)
