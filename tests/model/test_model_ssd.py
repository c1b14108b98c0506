"""The chunked scan, and the convolution before it, at sizes at which they run in stretches: against plain forms."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.ops.conv import causal_conv
from cirilla_cli.model.ops.decays import decays
from cirilla_cli.model.ops.ssd import Signals, chunked, recurrence

DOCUMENTS = pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])


def signals(length: int, *, documents: bool) -> Signals:
    """So wide that a CPU computes 8 chunks of 64 at once; heads forget within one position or hardly at all."""
    g = torch.Generator().manual_seed(length)
    x, b, c = (torch.randn(1, length, *sizes, dtype=torch.float64, generator=g) for sizes in ((4, 64), (2, 2), (2, 2)))
    dt = 0.2 * torch.rand(1, length, 4, dtype=torch.float64, generator=g)
    starts = torch.rand(1, length, generator=g) < 0.01 if documents else None
    rates = torch.tensor([-0.01, -1.0, -4.0, -16.0], dtype=torch.float64)
    return Signals(x, dt, rates, b, c, torch.randn(4, dtype=torch.float64, generator=g), starts)


def in_chunks(s: Signals) -> tuple[Tensor, Tensor]:
    return chunked(s, chunk_size=64)


def derived(run: Callable[[Signals], tuple[Tensor, Tensor]], s: Signals) -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of all that drives the scan."""
    names = ("x_BTHP", "dt_BTH", "a_H", "b_BTGN", "c_BTGN", "d_H")
    leaves = [vars(s)[name].clone().requires_grad_() for name in names]
    y, last = run(replace(s, **dict(zip(names, leaves, strict=True))))
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    grads = torch.autograd.grad((y * weights).sum() + last.square().sum(), leaves)
    return {"y": y.detach(), "last": last.detach(), **dict(zip(names, grads, strict=True))}


@DOCUMENTS
def test_stretches_of_chunks_and_their_gradient_are_the_recurrence(documents: bool) -> None:
    s = signals(64 * 9 + 5, documents=documents)
    torch.testing.assert_close(derived(in_chunks, s), derived(recurrence, s), rtol=1e-10, atol=1e-10)


@DOCUMENTS
@torch.no_grad()
def test_without_gradients_it_is_the_same_function(documents: bool) -> None:
    s = signals(64 * 9 + 5, documents=documents)
    torch.testing.assert_close(in_chunks(s), recurrence(s), rtol=0, atol=1e-12)


@DOCUMENTS
def test_in_float32_outputs_and_gradients_stay_near_the_exact_ones(documents: bool) -> None:
    s = signals(64 * 9, documents=documents)
    exact, ours = derived(recurrence, s), derived(in_chunks, s.to(torch.float32))
    errors = {name: float((ours[name].double() - exact[name]).abs().max() / exact[name].abs().max()) for name in exact}
    assert max(errors.values()) < 1e-5, errors


def test_no_bit_of_a_document_depends_on_another() -> None:
    s = signals(64 * 9, documents=False).to(torch.float32)
    starts = torch.arange(64 * 9)[None] == 300
    x, dt = s.x_BTHP.clone(), s.dt_BTH.clone()
    x[:, :300], dt[:, :300] = 1e3, 7.7
    found = [
        in_chunks(replace(s, starts_BT=starts))[0],
        in_chunks(replace(s, x_BTHP=x, dt_BTH=dt, starts_BT=starts))[0],
    ]
    assert torch.equal(found[0][:, 300:], found[1][:, 300:])


@DOCUMENTS
def test_decays_behind_a_large_one_are_those_of_exact_sums(documents: bool) -> None:
    """In float32 sums of -1e6 have steps of 0.06, to which the small ones behind them must not be rounded."""
    a = -0.01 * torch.rand(2, 3, 64, 4, generator=torch.Generator().manual_seed(0))
    a[:, :, 5] = -1e6
    starts = torch.rand(2, 3, 64, generator=torch.Generator().manual_seed(1)) < 0.03 if documents else None
    decay, entering = decays(a, starts)
    exact = torch.zeros(2, 3, 4, 64, 64, dtype=torch.float64)
    for q in range(64):
        for k in range(q + 1):
            exact[..., q, k] = a[:, :, k + 1 : q + 1].double().sum(2).exp()
            if starts is not None:
                exact[..., q, k] *= ~starts[:, :, k + 1 : q + 1].any(2, keepdim=True)
    torch.testing.assert_close(decay.double(), exact, rtol=2e-6, atol=1e-30)
    alive = torch.ones(2, 3, 64, 1) if starts is None else (starts.cumsum(2) == 0)[..., None].float()
    torch.testing.assert_close(entering, a.double().cumsum(2).exp().float() * alive, rtol=1e-5, atol=1e-30)


def test_stretches_of_the_convolution_and_its_gradient_are_those_of_torch_in_each_document() -> None:
    """Of 1,024 channels a CPU computes 64 positions at once."""
    g = torch.Generator().manual_seed(0)
    x, weight, bias, out_grad = (
        torch.randn(*shape, dtype=torch.float64, generator=g)
        for shape in ((2, 150, 1024), (1024, 1, 4), (1024,), (2, 150, 1024))
    )
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    starts = [0, 63, 64, 66, 128, 150]
    positions = torch.cat([torch.arange(stop - start) for start, stop in pairwise(starts)]).expand(2, -1)
    parts = [x[:, start:stop].transpose(1, 2) for start, stop in pairwise(starts)]
    alone = torch.cat([F.conv1d(F.pad(p, (3, 0)), weight, bias, groups=1024) for p in parts], dim=2).transpose(1, 2)
    whole = F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight, bias, groups=1024).transpose(1, 2)
    for ours, theirs in (
        (causal_conv(x, weight, bias, positions_BT=positions), alone),
        (causal_conv(x, weight, bias), whole),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        grads = [torch.autograd.grad(out, leaves, out_grad) for out in (ours, theirs)]
        torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-10)
