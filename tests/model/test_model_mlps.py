"""What a feed-forward owes, for every kind in the union and every router: new ones are tested by existing."""

import typing
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.config import Section
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import empty, fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.moe import MoE
from cirilla_cli.model.ops.grouped import experts_sorted
from cirilla_cli.model.routing import RouterSection, SigmoidRouterConfig
from cirilla_cli.model.sections import MLPSection, MoEConfig

from .conftest import config_of, randomise, same_when_compiled
from .test_model_contract import least, members, others

D, T, EXACT = 24, 11, 1e-12
SIZES = {"d_ff": 8, "n_experts": 6, "top_k": 2}
"""For what has no default: enough experts to leave some out."""


def plainest(kind: type[Section]) -> dict[str, Any]:
    return {name: SIZES.get(name, value) for name, value in least(kind).items()}


def varied(kind: type[Section]) -> Iterator[tuple[str, Section]]:
    """A kind as plain as it can be, and once more for each field that is set to something else."""
    needed = plainest(kind)
    yield "plain", kind.model_validate(needed)
    for field, info in kind.model_fields.items():
        for value in () if field == "kind" or info.is_required() else others(info.annotation, info.default):
            shown = value.kind if isinstance(value, Section) else value
            with suppress(ValidationError):
                yield f"{field}={shown}", kind.model_validate({**needed, field: value})


def variants() -> dict[str, Section]:
    """Feed-forwards in every form, and the mixture of experts with every form of every router."""
    found = {f"{m.model_fields['kind'].default}, {name}": made for m in members(MLPSection) for name, made in varied(m)}
    routers = [pair for m in members(RouterSection) for pair in varied(m)]
    routers.append(("groups", SigmoidRouterConfig(n_groups=3, top_groups=2)))
    for name, router in routers:
        with suppress(ValidationError):
            found[f"moe, {router.kind} {name}"] = MoEConfig(router=router, shared_d_ff=5, **SIZES)
    return found


VARIANTS = variants()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def section(request: pytest.FixtureRequest) -> Any:
    return request.param


def built(section: Any, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The layer in evaluation, every weight random, and a bias that decides where there is one."""
    module: nn.Module = section.build(D).to(dtype).eval()
    randomise(module)
    for buffer in module.buffers():
        buffer.copy_(torch.linspace(-0.2, 0.2, len(buffer)).roll(2))
    return module


def states(batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def rows(x: Tensor) -> SequenceLayout:
    return SequenceLayout.rows(*x.shape[:2])


def test_the_unions_are_walked() -> None:
    kinds = {m.model_fields["kind"].default for m in (*members(MLPSection), *members(RouterSection))}
    assert {"swiglu", "moe", "softmax", "sigmoid", "noisy"} <= kinds
    assert typing.get_type_hints(DecoderConfig, include_extras=True)["mlp"] == MLPSection
    for wanted in ("moe, balance=None", "moe, softmax renormalise=False", "moe, sigmoid groups", "moe, router=noisy"):
        assert wanted in VARIANTS


@torch.inference_mode()
def test_positions_and_rows_are_independent(section: Any) -> None:
    """Bit for bit is not asked: products of other sizes add up in another order."""
    module, x = built(section), states()
    whole = module(x, rows(x))
    for row, t in ((0, 0), (1, 4), (2, T - 1)):
        alone = x[row : row + 1, t : t + 1]
        torch.testing.assert_close(module(alone, rows(alone)), whole[row : row + 1, t : t + 1], rtol=0, atol=EXACT)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module(x[:, order], rows(x)), whole[:, order], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_padding_changes_nothing_and_gives_finite_numbers(section: Any) -> None:
    module, x = built(section), states()
    documents = torch.zeros(3, T, dtype=torch.long)
    documents[:, 7:] = PADDING
    other = x.clone()
    other[:, 7:] = 0.0
    padded = module(other, SequenceLayout.packed(documents))
    assert torch.isfinite(padded).all()
    torch.testing.assert_close(padded[:, :7], module(x, rows(x))[:, :7], rtol=0, atol=EXACT)


def test_every_parameter_receives_a_finite_gradient(section: Any) -> None:
    module, x = built(section).train(), states(8).requires_grad_()
    torch.manual_seed(0)
    module(x, rows(x)).square().sum().backward()
    for name, tensor in (("x", x), *module.named_parameters()):
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert (tensor.grad != 0).any(), name


def test_the_gradient_is_that_of_finite_differences(section: Any) -> None:
    module, x = built(section), states(1)[:, :3].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, rows(x)), (x,), fast_mode=True)


def test_parameters_and_products_are_counted(section: Any) -> None:
    """Products: those torch counts of a training pass; in float64, as it knows no formula for its grouped product.

    Of experts those that are needed, not those of rows that only fill up.
    """
    count, module, x = section.count(D), section.build(D).double(), states().requires_grad_()
    randomise(module)
    if isinstance(module, MoE):
        module.experts.product = experts_sorted
    assert count.parameters == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        out = module(x, rows(x))
    assert counter.get_total_flops() == 2 * count.products * 3 * T
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 4 * count.products * 3 * T


def test_a_model_of_it_is_saved_and_loaded(section: Any) -> None:
    config = config_of(mlp=section)
    model = fresh(config, seed=0)
    randomise(model)
    for buffer in model.buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    again = empty(config)
    assert isinstance(again, Decoder)
    again.load_state_dict(load(save({n: t.contiguous() for n, t in model.state_dict().items()})))
    kept = dict((*again.named_parameters(), *again.named_buffers()))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(kept[name], tensor), name
    assert parameters(config) == sum(p.numel() for p in model.parameters())


@torch.inference_mode()
def test_bfloat16_stays_near_the_exact_output(section: Any) -> None:
    """Tokens whose two best experts change places in bfloat16 are passed over: that is a jump, not an error."""
    x = states().bfloat16().double()
    exact = built(section)(x, rows(x))
    rough = built(section).bfloat16()(x.bfloat16(), rows(x)).double()
    errors = (exact - rough).square().mean(-1).sqrt().flatten() / exact.std()
    assert float(errors.median()) < 0.02
    assert float((errors > 0.08).float().mean()) < (0.1 if isinstance(section, MoEConfig) else 1e-9)


PLAINEST = {name: variant for name, variant in VARIANTS.items() if name.endswith("plain")}
"""Each kind of feed-forward and of router once."""


class Weighed(nn.Module):
    """A router by the weights it gives; experts themselves keep their kernels where blocks are compiled."""

    def __init__(self, moe: MoE) -> None:
        super().__init__()
        self.gate = moe.gate

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(x.flatten(0, 1)).weights_MK
        return weights


@pytest.mark.parametrize("section", PLAINEST.values(), ids=PLAINEST)
def test_compiled_it_is_the_same_function(section: Any) -> None:
    module, x = built(section), states(2)
    given = (Weighed(module), x) if isinstance(module, MoE) else (module, x, rows(x))
    same_when_compiled(*given)
