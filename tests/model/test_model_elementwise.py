"""Norm and rotation with gradients written out, against torch's own and against the complex numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.model.ops.elementwise import gated_down, rms_norm, rotate, takes_passes
from cirilla_cli.model.rope import Rotation, angles_of, apply_rope
from cirilla_cli.model.sections import RopeConfig

B, T, N, H = 2, 5, 3, 8


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]
    return [x.requires_grad_() for x in found]


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    incoming = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, incoming)]


def angles(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Of another position in each row."""
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
    return angles_of(Rotation(RopeConfig(theta=100.0), H), positions, dtype)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 5, 6)])
def test_the_norm_and_its_gradients_are_torch_s(shape: tuple[int, ...]) -> None:
    x, weight = leaves(shape, (6,))
    expected = with_gradients(F.rms_norm(x, (6,), weight, 0.1), [x, weight])
    torch.testing.assert_close(with_gradients(rms_norm(x, weight, 0.1), [x, weight]), expected, rtol=0, atol=1e-12)


def test_a_norm_in_bfloat16_is_rounded_once() -> None:
    """Within half a unit in the last place of the exact output, which is at most 2^-8 of it; gradients within one."""
    x, weight = leaves((40, 64), (64,), dtype=torch.bfloat16)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    found = with_gradients(rms_norm(x, weight, 1e-5), [x, weight])
    incoming = torch.linspace(-1, 1, x.numel(), dtype=torch.bfloat16).double().view(x.shape)
    out = F.rms_norm(exact[0], (64,), exact[1], 1e-5)
    torch.testing.assert_close(found[0].double(), out.detach(), rtol=2**-8 + 1e-6, atol=0)
    for mine, theirs in zip(found[1:], torch.autograd.grad(out, exact, incoming), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2**-7, atol=1e-5)


def test_a_turn_and_its_gradient_are_multiplications_by_a_complex_number() -> None:
    [x] = leaves((B, T, N, H))
    cos, sin = angles()
    number = torch.complex(cos, sin)[..., : H // 2]
    out = torch.complex(x[..., : H // 2], x[..., H // 2 :]) * number
    expected = with_gradients(torch.cat([out.real, out.imag], -1), [x])
    torch.testing.assert_close(with_gradients(rotate(x, cos, sin), [x]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_the_gate_and_its_gradients_are_torch_s(shape: tuple[int, ...]) -> None:
    x = leaves(shape, shape, (5, 6), (5,))
    for bias, learned in ((x[3], x), (None, x[:3])):
        expected = with_gradients(F.linear(F.silu(x[0]) * x[1], x[2], bias), learned)
        found = with_gradients(gated_down(*x[:3], bias), learned)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_gate_keeps_its_two_inputs_and_the_matrix_alone() -> None:
    """Nothing as wide as they are besides, which is what autograd would keep two of."""
    x, kept = leaves((2, 3, 6), (2, 3, 6), (5, 6)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        gated_down(*x, None)
    assert [saved.data_ptr() for saved in kept] == [leaf.data_ptr() for leaf in x]


def test_a_matrix_that_does_not_learn_gets_no_gradient() -> None:
    gate, up, down = leaves((4, 6), (4, 6), (5, 6))
    expected = torch.autograd.grad(F.linear(F.silu(gate) * up, down).sum(), (gate, up))
    gated_down(gate, up, down.detach(), None).sum().backward()
    torch.testing.assert_close((gate.grad, up.grad), expected, rtol=0, atol=1e-12)
    assert down.grad is None


def test_the_gradients_pass_torch_s_check() -> None:
    x, weight, turned, down = leaves((3, 6), (6,), (1, T, 2, H), (2, 6))
    assert torch.autograd.gradcheck(gated_down, (x, x.detach().flip(0).requires_grad_(), down, None))
    cos, sin = (angle[1:] for angle in angles())
    assert torch.autograd.gradcheck(lambda *a: rms_norm(*a, 0.1), (x, weight))
    assert torch.autograd.gradcheck(lambda a: rotate(a, cos, sin), (turned,))


def test_a_part_of_a_head_turns_and_the_rest_stays() -> None:
    [x] = leaves((B, T, N, H + 4))
    cos, sin = angles()
    with torch.no_grad():
        assert not takes_passes(x)
        expected = apply_rope(x, cos, sin)
    torch.testing.assert_close(apply_rope(x, cos, sin).detach(), expected, rtol=0, atol=1e-12)


def test_a_turn_in_bfloat16_is_near_the_exact_one() -> None:
    """Two roundings of numbers at most sqrt(2) times the pair's length."""
    [x] = leaves((B, T, N, H), dtype=torch.bfloat16)
    found, exact = rotate(x, *angles(torch.bfloat16)), rotate(x.double(), *(a.double() for a in angles(torch.bfloat16)))
    length = math.sqrt(2) * float(x.detach().abs().max())
    assert float((found.double() - exact).detach().abs().max()) <= 2 * length * 2**-8


def test_gradients_of_gradients_are_refused_not_wrong() -> None:
    x, weight = leaves((3, 6), (6,))
    [first] = torch.autograd.grad(rms_norm(x, weight, 0.1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
