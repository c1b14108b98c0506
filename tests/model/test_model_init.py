"""Depth-scaled first weights: all that writes to the residual stream begins smaller in deeper models, and only that."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cirilla_cli.config import Section
from cirilla_cli.model.config import ChainedMTPConfig, DecoderConfig, ParallelMTPConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout

from .conftest import config_of
from .test_model_contract import VARIANTS as MIXERS
from .test_model_mlps import VARIANTS as MLPS

T = 5


def pair(**keys: Any) -> tuple[Decoder, Decoder]:
    """Models of 2 and 8 layers from one seed: the first layers draw the same numbers, of which some are halved."""
    shallow, deep = (config_of(**keys).model_copy(update={"n_layers": n}) for n in (2, 8))
    return fresh(shallow, seed=0).eval(), fresh(deep, seed=0).eval()


def writers(shallow: Decoder, deep: Decoder) -> list[str]:
    """The parameters of the first layer that begin at half in the deeper model."""
    other = dict(deep.named_parameters())
    named = [(name, p) for name, p in shallow.named_parameters() if name.startswith("model.layers.0.")]
    return [name for name, p in named if bool(p.any()) and torch.allclose(other[name], p / 2, rtol=1e-6)]


def branches(model: Decoder) -> list[Tensor]:
    """What the first layer's mixer and feed-forward add to a random stream."""
    layout = SequenceLayout.rows(1, T).prepared(model.model.needs, torch.float32)
    x_BTD, block = torch.randn(1, T, 24, generator=torch.Generator().manual_seed(1)), model.model.blocks()[0]
    return [block.mixer(x_BTD, layout), block.mlp(x_BTD, layout)]


@pytest.mark.parametrize(
    "keys",
    [*({"pattern": "X", "mixers": {"X": m}} for m in MIXERS.values()), *({"mlp": m} for m in MLPS.values())],
    ids=[*MIXERS, *MLPS],
)
@torch.no_grad()
def test_all_that_writes_to_the_stream_begins_smaller_in_deeper_models(keys: dict[str, Section]) -> None:
    """Found by what it does: twice of it is twice the output, and without it nothing comes through."""
    shallow, deep = pair(**keys)
    names, before = writers(shallow, deep), branches(shallow)
    weights = dict(shallow.named_parameters())
    for factor in (2.0, 0.0):
        for name in names:
            weights[name].mul_(factor)
        for was, now in zip(before, branches(shallow), strict=True):
            assert bool(was.any())
            torch.testing.assert_close(now, factor * was, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("section", [ChainedMTPConfig(), ParallelMTPConfig()], ids=["chained", "parallel"])
@torch.no_grad()
def test_steps_ahead_begin_as_layers_do(section: Any) -> None:
    """What joins their two inputs makes a stream of its own and writes to none, so it begins as matrices do."""
    config: DecoderConfig = config_of(mtp=section).model_copy(update={"n_layers": 8, "d_model": 64})
    model = fresh(config, seed=0)
    assert model.mtp is not None
    for name, parameter in model.mtp.step(0).named_parameters():
        if parameter.ndim > 1:
            wanted = 0.005 if name.split(".")[-2] in ("o_proj", "down_proj") else 0.02
            assert float(parameter.std()) == pytest.approx(wanted, rel=0.1), name
