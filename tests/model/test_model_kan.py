"""The Kolmogorov-Arnold feed-forward against its formula, its splines against the cubic's closed form."""

# oracle: feed-forward kan: test_cubic_splines_are_their_closed_form_inside_and_outside_the_grid

import math

import torch

from cirilla_cli.model.kan import KAN, KANLayer, b_splines
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.sections import KANConfig

from .conftest import randomise

GRID, REACH = 4, 2.0


def cubic(u: float) -> float:
    """The cubic B-spline with knots at -2, -1, 0, 1 and 2, by its pieces."""
    u = abs(u)
    if u >= 2:
        return 0.0
    return (2 - u) ** 3 / 6 if u >= 1 else 2 / 3 - u**2 + u**3 / 2


def test_cubic_splines_are_their_closed_form_inside_and_outside_the_grid() -> None:
    x = torch.linspace(-6.9, 6.9, 47, dtype=torch.float64)
    step = 2 * REACH / GRID
    middles = [-REACH + (c - 1) * step for c in range(GRID + 3)]
    expected = [[cubic((float(v) - middle) / step) for middle in middles] for v in x]
    ours = b_splines(x, GRID, 3, REACH)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_inside_the_grid_splines_of_every_order_sum_to_one() -> None:
    x = torch.linspace(-REACH, REACH - 1e-9, 31, dtype=torch.float64)
    for order in (1, 2, 3, 4):
        bases = b_splines(x, GRID, order, REACH)
        assert bases.shape == (31, GRID + order)
        torch.testing.assert_close(bases.sum(-1), torch.ones_like(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_layer_is_a_sum_of_curves_over_its_edges() -> None:
    layer = KANLayer(KANConfig(d_ff=1, grid=GRID, reach=REACH), 3, 2).double()
    randomise(layer)
    x = torch.tensor([0.3, -1.7, 5.0], dtype=torch.float64)
    bases, curves = b_splines(x, GRID, 3, REACH), layer.spline.weight.view(2, 3, GRID + 3)
    for o in range(2):
        expected = 0.0
        for i in range(3):
            v = float(x[i])
            expected += float(layer.base.weight[o, i]) * v / (1 + math.exp(-v)) + float(curves[o, i] @ bases[i])
        assert math.isclose(float(layer(x)[o]), expected, abs_tol=1e-12)


def test_a_feed_forward_fits_a_curve_no_plain_layer_of_its_width_could() -> None:
    """sin(3 x) on one input and one hidden node, in two hundred steps of Adam."""
    torch.manual_seed(0)
    mlp = KAN(KANConfig(d_ff=1, grid=12), 1).double()
    randomise(mlp)
    x = torch.linspace(-2, 2, 64, dtype=torch.float64)[None, :, None]
    layout, loss = SequenceLayout.rows(1, 64), torch.tensor(1.0)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=0.05)
    for _ in range(200):
        loss = (mlp(x, layout) - torch.sin(3 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.02
