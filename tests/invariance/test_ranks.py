"""Several processes that share a run: the same gradient, the same run, and none goes on without the others."""

from collections.abc import Callable
from pathlib import Path

import gradients
import pytest
import torch
from safetensors.torch import load_file

from cirilla_cli.engine.parallel import ALONE


@pytest.mark.parametrize(("processes", "sharded"), [(2, False), (3, True)])
@pytest.mark.parametrize("case", gradients.CASES)
def test_a_ragged_step_has_one_gradient(
    case: str, processes: int, sharded: bool, order: Callable[..., list[int]], memory: Path
) -> None:
    """In float64: terms, means, gradients and expert biases, one process against several, one of which idles."""
    path = memory / "step.safetensors"
    assert order(case=case, out=str(path), ranks=processes, sharded=sharded, short=False) == [0] * processes
    found, expected = load_file(path), gradients.step_of(case, ALONE)
    assert found.keys() == expected.keys()
    assert max(float(v.abs().max()) for n, v in expected.items() if n.startswith("gradient")) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", ["text", "pairs", "experts", "states"])
def test_sharded_weights_are_cast_as_whole_ones_are(case: str, order: Callable[..., list[int]], memory: Path) -> None:
    """In bfloat16, routers and decay rates in float32: not a bit differs in one process, and rounding in two."""
    path, expected = memory / "short.safetensors", gradients.step_of(case, ALONE, short=True)
    for processes in (1, 2):
        assert order(case=case, out=str(path), ranks=processes, sharded=True, short=True) == [0] * processes
        for name, value in load_file(path).items():
            bound = {"rtol": 0, "atol": 0} if processes == 1 else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(value, expected[name], **bound, msg=lambda m, n=name: f"{n}: {m}")
