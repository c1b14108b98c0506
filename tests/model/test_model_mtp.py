"""Steps ahead: the published equations, what they may see, what they cost, and drafts that change no token."""

# oracle: steps-ahead chained: test_a_step_ahead_is_what_deepseeks_reference_computes
# oracle: steps-ahead parallel: test_the_losses_are_those_of_each_distance_computed_apart

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli.data.batches import IGNORE
from cirilla_cli.model.config import ChainedMTPConfig, MTPSection, ParallelMTPConfig
from cirilla_cli.model.count import count
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import LastLogits, MultiToken, TokenLoss

from .conftest import VOCAB, config_of, randomise

T, EXACT = 12, 1e-10
KINDS: dict[str, MTPSection] = {
    "chained": ChainedMTPConfig(depth=2),
    "parallel": ParallelMTPConfig(depth=2),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def section(request: pytest.FixtureRequest) -> MTPSection:
    """Each kind of steps ahead, two of them."""
    found: MTPSection = request.param
    return found


def built(section: MTPSection | None, **keys: object) -> Decoder:
    model = fresh(config_of("A", {"A": AttentionConfig(n_heads=4, n_kv_heads=2)}, mtp=section, **keys), seed=0).double()
    randomise(model)
    return model.eval()


def rows(seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(seed))


def targets(tokens_BT: Tensor, ahead: int) -> Tensor:
    """The token ``ahead`` places on."""
    return F.pad(tokens_BT[:, ahead:], (0, ahead), value=IGNORE)


def losses(model: Decoder, tokens_BT: Tensor, layout: SequenceLayout | None = None) -> list[Tensor]:
    layout = layout or SequenceLayout.rows(*tokens_BT.shape)
    readout = MultiToken(tuple(TokenLoss(targets(tokens_BT, k)) for k in (1, 2, 3)))
    return [sums.loss for sums in model(tokens_BT, layout, readout=readout)]


def test_a_step_ahead_is_what_deepseeks_reference_computes() -> None:
    """transformers' MTP layer with the same weights, fed the true tokens."""
    from transformers import LlamaConfig
    from transformers.modeling_layers import MtpLayer
    from transformers.models.llama import modeling_llama as modeling

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, attn_implementation="eager",
    )  # fmt: skip
    theirs = MtpLayer(config, modeling.LlamaDecoderLayer, modeling.LlamaRMSNorm, 0).double()
    model = built(ChainedMTPConfig(depth=1))
    assert model.mtp is not None
    ours = model.mtp.step(0)
    weights = {
        name.replace("mtp_block.", "block.").replace("post_norm.", "norm."): tensor
        for name, tensor in theirs.state_dict().items()
    }
    ours.load_state_dict(weights)
    layout = SequenceLayout.rows(2, T).prepared(model.mtp.needs, torch.float64)
    before, ahead = torch.randn(2, 2, T, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = modeling.LlamaRotaryEmbedding(config)(before, layout.positions_BT)
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        expected = theirs(ahead, before, angles, mask, layout.positions_BT, None)
        torch.testing.assert_close(ours(before, ahead, layout), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_losses_are_those_of_each_distance_computed_apart(section: MTPSection) -> None:
    """By hand: the trunk's states, each step once, the head, torch's cross-entropy."""
    model, tokens = built(section), rows()
    assert model.mtp is not None
    layout = SequenceLayout.rows(2, T)
    before, final = model.model(tokens, layout)
    prepared = layout.prepared(model.mtp.needs, torch.float64)
    expected, state = [], final
    for k in (1, 2, 3):
        if k > 1:
            start = state if section.kind == "chained" else before
            ahead = model.model.embed_tokens(F.pad(tokens[:, k - 1 :], (0, k - 1)))
            state = model.mtp.step(k - 2)(start, ahead, prepared)
        logits = state @ model.head_weight.T
        expected.append(F.cross_entropy(logits.flatten(0, 1), targets(tokens, k).flatten(), reduction="sum"))
    torch.testing.assert_close(torch.stack(losses(model, tokens)), torch.stack(expected), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_next_token_is_predicted_as_without_steps_ahead(section: MTPSection) -> None:
    plain, model = built(None), built(section)
    plain.load_state_dict({name: t for name, t in model.state_dict().items() if not name.startswith("mtp.")})
    layout = SequenceLayout.rows(2, T)
    theirs = plain(rows(), layout, readout=LastLogits(T))
    assert torch.equal(model(rows(), layout, readout=LastLogits(T)), theirs)


@torch.no_grad()
def test_a_prediction_ahead_does_not_know_the_token_it_predicts(section: MTPSection) -> None:
    """Distance k + 1 may use tokens up to k places on and no further."""
    model, tokens, other = built(section), rows(), rows(seed=2)
    assert model.mtp is not None
    layout = SequenceLayout.rows(2, T)

    def states(tokens: Tensor) -> list[Tensor]:
        before, final = model.model(tokens, layout)
        return model._ahead(before, final, tokens, layout, None)

    cut = 7
    changed = torch.cat([tokens[:, :cut], other[:, cut:]], dim=1)
    for k, (a, b) in enumerate(zip(states(tokens), states(changed), strict=True)):
        assert torch.equal(a[:, : cut - k], b[:, : cut - k]), k


@torch.no_grad()
def test_documents_of_a_row_know_nothing_of_each_other(section: MTPSection) -> None:
    model, tokens = built(section), rows()
    documents = torch.tensor([[0] * 5 + [1] * 7] * 2)
    together = []
    for k in (1, 2, 3):
        same = F.pad(documents[:, k:], (0, k), value=-2) == documents
        together.append(torch.where(same, targets(tokens, k), IGNORE))
    readout = MultiToken(tuple(TokenLoss(t) for t in together))
    packed = [sums.loss for sums in model(tokens, SequenceLayout.packed(documents), readout=readout)]
    apart = [a + b for a, b in zip(losses(model, tokens[:, :5]), losses(model, tokens[:, 5:]), strict=True)]
    torch.testing.assert_close(torch.stack(packed), torch.stack(apart), rtol=0, atol=1e-9)


def test_every_parameter_learns(section: MTPSection) -> None:
    model = built(section)
    torch.stack(losses(model, rows())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


def test_the_count_is_exact(section: MTPSection) -> None:
    model = built(section, tie_embeddings=True)
    assert count(model.config).parameters == sum(p.numel() for p in model.parameters())
    assert count(model.config).active == count(built(None, tie_embeddings=True).config).active
