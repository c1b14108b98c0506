"""What a sequence mixer owes, for every kind in the union of the decoder's section: new ones are tested by existing."""

import typing
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cirilla_cli.config import Section
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits, TokenLoss

from .conftest import VOCAB, config_of, randomise

T, EXACT = 14, 1e-10


def members(annotation: Any) -> list[Any]:
    """The types in a union, whatever it is wrapped in."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in members(part)]
    return [annotation]


def kinds() -> list[type[Section]]:
    """Every section that can stand in `mixers`."""
    mixers = typing.get_type_hints(DecoderConfig, include_extras=True)["mixers"]
    assert DecoderConfig.model_fields["mixers"].is_required()
    return members(get_args(mixers)[1])


def another(annotation: Any, default: Any) -> Any:
    """A value of a field that is not its default: the other truth, a small even number, half as much again."""
    plain = [m for m in members(annotation) if m is not NoneType][0]
    if plain is bool:
        return not default
    return 2 if plain is int else 1.5 * default


def variants() -> dict[str, Section]:
    """Each kind as plain as it can be, and once more for each field that is set to something else."""
    found: dict[str, Section] = {}
    for kind in kinds():
        fields = {n: f for n, f in kind.model_fields.items() if n != "kind"}
        least = {n: another(f.annotation, 1.0) for n, f in fields.items() if f.is_required()}
        name = str(kind.model_fields["kind"].default)
        found[name] = kind.model_validate(least)
        for field in (n for n, f in fields.items() if not f.is_required()):
            value = another(fields[field].annotation, fields[field].default)
            try:
                found[f"{name}, {field}={value}"] = kind.model_validate({**least, field: value})
            except ValidationError:
                continue
    return found


VARIANTS = variants()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request: pytest.FixtureRequest) -> Decoder:
    """Two layers of one kind of mixer, in float64, every weight random."""
    model = fresh(config_of("X", {"X": request.param}), seed=0).double().eval()
    randomise(model)
    return model


def tokens(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, T), generator=torch.Generator().manual_seed(seed))


def logits(model: Decoder, rows: Tensor, layout: SequenceLayout | None = None, **keys: Any) -> Tensor:
    layout = layout or SequenceLayout.rows(*rows.shape)
    return model(rows, layout, readout=LastLogits(rows.shape[1]), **keys)


def test_the_union_is_walked() -> None:
    assert "attention" in VARIANTS
    assert any("window=2" in name for name in VARIANTS)
    assert any("qk_norm=True" in name for name in VARIANTS)


@torch.inference_mode()
def test_no_position_knows_of_later_ones(model: Decoder) -> None:
    rows, other = tokens(), tokens(seed=2)
    before = logits(model, rows)
    for cut in (1, 5, T - 1):
        changed = torch.cat([rows[:, :cut], other[:, cut:]], dim=1)
        assert torch.equal(logits(model, changed)[:, :cut], before[:, :cut])


@torch.inference_mode()
def test_documents_know_nothing_of_each_other(model: Decoder) -> None:
    layout = SequenceLayout.packed(torch.tensor([[0] * 6 + [1] * 8] * 2))
    rows = tokens()
    together = logits(model, rows, layout)
    apart = torch.cat([logits(model, rows[:, :6]), logits(model, rows[:, 6:])], dim=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=EXACT)
    changed = torch.cat([tokens(seed=2)[:, :6], rows[:, 6:]], dim=1)
    assert torch.equal(logits(model, changed, layout)[:, 6:], together[:, 6:])


@torch.inference_mode()
def test_decoding_equals_one_pass(model: Decoder) -> None:
    rows = tokens()
    whole = logits(model, rows)
    for sizes in ([1] * T, [5, 9], [9, 5], [3, 1, 1, 9]):
        caches, out, start = model.make_caches(T), [], 0
        for size in sizes:
            layout = SequenceLayout.rows(2, size, start=start)
            out.append(logits(model, rows[:, start : start + size], layout, caches=caches))
            start += size
        torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=EXACT)


@torch.inference_mode()
def test_rows_of_a_batch_are_independent(model: Decoder) -> None:
    rows = tokens(3)
    together = logits(model, rows)
    for row in range(3):
        torch.testing.assert_close(logits(model, rows[row : row + 1]), together[row : row + 1], rtol=0, atol=EXACT)


def test_every_parameter_receives_a_finite_gradient(model: Decoder) -> None:
    rows = tokens()
    model(rows[:, :-1], SequenceLayout.rows(2, T - 1), readout=TokenLoss(rows[:, 1:])).nll.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_a_document_alone_in_bfloat16_stays_near_the_exact_one(model: Decoder) -> None:
    rows = tokens()
    with torch.inference_mode():
        exact, rough = logits(model, rows), logits(model.bfloat16(), rows)
    assert float((exact - rough).square().mean().sqrt()) < 0.05 * float(exact.std())
