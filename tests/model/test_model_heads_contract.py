"""What stands on a trunk owes what the rest does: whole models, poolings, steps ahead, values, rewards."""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig, MTPSection, Pooling, ShapeSection
from cirilla_cli.model.count import forward_flops_per_token, parameters, train_flops_per_token
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.heads import PredictionHead, RewardHead, ValueHead
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import Hidden, LastLogits, MultiToken, TokenLoss

from .conftest import VOCAB, config_of, randomise, same_when_compiled
from .test_model_contract import least, members

D, T, EXACT = 24, 12, 1e-10
DECODER = config_of(n_layers=1)
SHARED = {name: value for name, value in DECODER.model_dump().items() if name in EncoderConfig.model_fields}
BOTH_WAYS = {"A": AttentionConfig(n_heads=4, causal=False)}
ENCODER = EncoderConfig.model_validate(
    {**SHARED, "kind": "encoder", "mixers": BOTH_WAYS, "head_bias": True, "tie_embeddings": True}
)


class OnDecoder(nn.Module):
    """A decoder with a head of one's own on its hidden states."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.config, self.decoder, self.head = DECODER, fresh(DECODER, seed=0), head


@dataclass(frozen=True)
class Form:
    """A model and what it says of rows."""

    make: Callable[[], Any]
    says: Callable[[Any, Tensor, SequenceLayout], Tensor]
    """Of all tokens that are none of padding ``[M, ...]``, or of all documents ``[P, ...]``, row by row."""


def of_tokens(model: Any, rows: Tensor, layout: SequenceLayout) -> Tensor:
    logits: Tensor = model(rows, layout, readout=LastLogits(rows.shape[1]))
    return logits[real(rows, layout)]


def of_documents(model: Any, rows: Tensor, layout: SequenceLayout) -> Tensor:
    logits: Tensor = model(rows, layout, readout=LastLogits(10**6))
    return logits[0]


def ahead(model: Decoder, rows: Tensor, layout: SequenceLayout) -> Tensor:
    """Logits of the last step, where all tokens it is given are of its own document."""
    before, final = model.model(rows, layout)
    states = torch.stack(model._ahead(before, final, rows, layout, None))
    following = nn.functional.pad(numbered(rows, layout)[:, 2:], (0, 2), value=-9)
    whole = (following == numbered(rows, layout)) & real(rows, layout)
    return model.read(states[-1], LastLogits(rows.shape[1]))[whole]


def values(model: OnDecoder, rows: Tensor, layout: SequenceLayout) -> Tensor:
    found: Tensor = model.head(model.decoder(rows, layout, readout=Hidden()))
    return found[real(rows, layout)]


def rewards(model: OnDecoder, rows: Tensor, layout: SequenceLayout) -> Tensor:
    found: Tensor = model.head(model.decoder(rows, layout, readout=Hidden()), layout)
    return found


def numbered(rows: Tensor, layout: SequenceLayout) -> Tensor:
    return torch.zeros_like(rows) if layout.documents_BT is None else layout.documents_BT


def real(rows: Tensor, layout: SequenceLayout) -> Tensor:
    return numbered(rows, layout) != PADDING


def forms() -> dict[str, Form]:
    """Language models tied and not, each kind of steps ahead, each pooling of each kind of model, values, rewards."""
    found = {
        "decoder": Form(lambda: fresh(DECODER, seed=0), of_tokens),
        "decoder, tied": Form(lambda: fresh(config_of(n_layers=1, tie_embeddings=True), seed=0), of_tokens),
        "encoder": Form(lambda: fresh(ENCODER, seed=0), of_tokens),
        "encoder, registers": Form(lambda: fresh(ENCODER.changed(registers=2), seed=0), of_tokens),
        "value": Form(lambda: OnDecoder(ValueHead(D)), values),
        "reward": Form(lambda: OnDecoder(RewardHead(D)), rewards),
    }
    for kind in members(MTPSection):
        section = kind.model_validate({**least(kind), "depth": 2})
        found[f"ahead, {section.kind}"] = Form(lambda s=section: fresh(config_of(n_layers=1, mtp=s), seed=0), ahead)
    for base in (DECODER, ENCODER):
        for pooling in get_args(Pooling):
            section = ClassifierConfig(base=base, labels=("a", "b", "c"), pooling=pooling)
            found[f"classifier of {base.kind}, {pooling}"] = Form(lambda s=section: fresh(s, seed=0), of_documents)
    return found


FORMS = forms()


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def built(form: Form) -> Any:
    model = form.make().double().eval()
    randomise(model)
    return model


def tokens(batch: int = 2, length: int = T) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def test_every_whole_model_has_a_form() -> None:
    made = {type(form.make().config) for form in FORMS.values()}
    assert set(members(ShapeSection)) == made == {DecoderConfig, EncoderConfig, ClassifierConfig}
    assert typing.get_args(Pooling) == ("mean", "first", "last")


@torch.inference_mode()
def test_documents_know_nothing_of_each_other(form: Form) -> None:
    model, rows = built(form), tokens(1)
    packed = form.says(model, rows, SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * 7])))
    apart = [form.says(model, part, SequenceLayout.rows(*part.shape)) for part in (rows[:, :5], rows[:, 5:])]
    torch.testing.assert_close(packed, torch.cat(apart), rtol=0, atol=EXACT)


@torch.inference_mode()
def test_padding_on_either_side_and_other_rows_change_nothing(form: Form) -> None:
    """Three rows: whole, short of its first three places, short of its last four."""
    model, rows = built(form), tokens(3)
    documents = torch.zeros(3, T, dtype=torch.long)
    documents[1, :3] = documents[2, -4:] = PADDING
    together = form.says(model, rows, SequenceLayout.packed(documents))
    alone = [rows[:1], rows[1:2, 3:], rows[2:, :-4]]
    apart = [form.says(model, row, SequenceLayout.rows(*row.shape)) for row in alone]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=EXACT)


def test_gradients_are_finite_and_those_of_small_steps(form: Form) -> None:
    """Of every parameter, along a random direction."""
    model, rows = built(form), tokens(1, 6)
    layout, names = SequenceLayout.packed(torch.tensor([[0] * 3 + [1] * 3])), [n for n, _ in model.named_parameters()]

    class Said(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return form.says(self.model, rows, layout)

    said, leaves = Said(), [p.detach().clone().requires_grad_() for p in model.parameters()]

    def call(*given: Tensor) -> Tensor:
        weights = {f"model.{name}": weight for name, weight in zip(names, given, strict=True)}
        return torch.func.functional_call(said, weights, ())

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True, atol=1e-5, rtol=1e-4)
    call(*leaves).square().sum().backward()
    assert all(leaf.grad is None or bool(leaf.grad.isfinite().all()) for leaf in leaves)


@torch.inference_mode()
def test_in_bfloat16_it_stays_near_the_exact_one(form: Form) -> None:
    """Compared with the exact one from the same rounded weights."""
    model, rows = built(form).bfloat16(), tokens(3)
    layout = SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * 7] * 3))
    rough, exact = form.says(model, rows, layout).double(), form.says(model.double(), rows, layout)
    error = (rough - exact).abs() / exact.std()
    assert float(error.median()) < 0.02
    assert float(error.max()) < 0.3


@torch.inference_mode()
def test_weights_written_and_read_give_the_same_bits(form: Form) -> None:
    model, again, rows = built(form), form.make().double().eval(), tokens()
    again.load_state_dict(load(save({n: t.contiguous() for n, t in model.state_dict().items()})))
    layout = SequenceLayout.rows(*rows.shape)
    assert torch.equal(form.says(again, rows, layout), form.says(model, rows, layout))


HEADS: dict[str, Callable[[], tuple[nn.Module, bool]]] = {
    "prediction": lambda: (PredictionHead(ENCODER), False),
    "value": lambda: (ValueHead(D), False),
    "reward": lambda: (RewardHead(D), True),
}
"""Modules on hidden states, and whether they want to know where documents end."""


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_compiled_a_head_is_the_same_function(head: Callable[[], tuple[nn.Module, bool]]) -> None:
    module, by_document = head()
    randomise(module.double())
    layout = SequenceLayout.packed(torch.tensor([[0] * 5 + [1] * 7] * 2))
    hidden = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same_when_compiled(module, hidden, *([layout] if by_document else []))


@pytest.mark.parametrize("kind", members(MTPSection), ids=lambda kind: kind.model_fields["kind"].default)
def test_compiled_a_step_ahead_is_the_same_function(kind: Any) -> None:
    model = fresh(config_of(mtp=kind()), seed=0).double()
    randomise(model)
    assert model.mtp is not None
    layout = SequenceLayout.rows(2, 6).prepared(model.mtp.needs, torch.float64)
    states = torch.randn(2, 2, 6, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same_when_compiled(model.mtp.step(0), states[0], states[1], layout)


# Counts


def passed(model: Any, readout: Any, *, backward: bool) -> int:
    """torch's count of the products of one pass over 256 tokens, a number that no loss fills up."""
    rows = tokens(16, 16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sums = model(rows, SequenceLayout.rows(16, 16), readout=readout(rows))
        if backward:
            torch.stack([part.loss for part in sums]).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", members(MTPSection), ids=lambda kind: kind.model_fields["kind"].default)
def test_operations_of_training_with_steps_ahead_are_those_torch_counts(kind: Any) -> None:
    config = config_of(mtp=kind(depth=2))
    counted = passed(fresh(config, seed=0), lambda rows: MultiToken((TokenLoss(rows),) * 3), backward=True)
    assert counted == 256 * train_flops_per_token(config, 16)


@pytest.mark.parametrize("base", [DECODER, ENCODER], ids=lambda base: base.kind)
def test_parameters_and_operations_of_a_classifier_are_those_that_exist(base: Any) -> None:
    """Beside what is multiplied a token, torch counts what is multiplied a document: the head, and the classes."""
    config = ClassifierConfig(base=base, labels=("a", "b", "c"), pooling="mean")
    model = fresh(config, seed=0)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    # The classes' bias is computed as eight more inputs of their matrix.
    once = 2 * 16 * (D * D + 3 * (D + 8) if base.kind == "encoder" else 3 * D)
    counted = passed(model, lambda rows: LastLogits(16), backward=False)
    assert counted == 256 * forward_flops_per_token(config, 16) + once
