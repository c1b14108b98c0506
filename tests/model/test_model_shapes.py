"""The suite's shape checker catches a lie."""

import inspect
from types import ModuleType

import pytest
import torch
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.ops.attention import attend
from cirilla_cli.model.rope import apply_rope

from ..conftest import checked, wrap_module


def outer_MN(left_M: Tensor, right_N: Tensor) -> Tensor:
    return left_M[:, None] * right_N


def transposed_NM(left_MN: Tensor) -> Tensor:
    return left_MN


def test_a_tensor_with_another_number_of_axes_is_caught() -> None:
    with pytest.raises(AssertionError, match="its name says 1 axes"):
        checked(outer_MN)(torch.zeros(2, 3), torch.zeros(4))


def test_one_letter_with_two_sizes_is_caught() -> None:
    with pytest.raises(AssertionError, match="N is 3 in this call"):
        checked(transposed_NM)(torch.zeros(2, 3))


def test_the_truth_passes_by_position_and_by_name() -> None:
    assert checked(outer_MN)(torch.zeros(2), torch.zeros(3)).shape == (2, 3)
    assert checked(outer_MN)(right_N=torch.zeros(3), left_M=torch.zeros(2)).shape == (2, 3)


def test_wrapping_can_be_undone() -> None:
    module = ModuleType("made_up")
    outer = type(outer_MN)(outer_MN.__code__, {}, "outer_MN")
    outer.__module__, vars(module)["outer_MN"] = "made_up", outer
    import sys

    sys.modules["made_up"] = module
    try:
        undo = wrap_module(module)
        assert vars(module)["outer_MN"] is not outer
        for back in undo:
            back()
        assert vars(module)["outer_MN"] is outer
    finally:
        del sys.modules["made_up"]


def test_the_model_library_is_checked_during_this_very_suite() -> None:
    assert inspect.unwrap(attend) is not attend
    with pytest.raises(AssertionError, match="x_BTNH"):
        apply_rope(torch.zeros(2, 3, 4), torch.zeros(1), torch.zeros(1))
    with pytest.raises(AssertionError, match="documents_BT"):
        SequenceLayout(torch.zeros(2, 3), torch.zeros(2, 4))
