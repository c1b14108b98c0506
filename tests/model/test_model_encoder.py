"""Encoders, their heads and registers against transformers' classes, and what a document may know of another."""

# oracle: model encoder: test_equals_the_published_masked_language_model
# oracle: model classifier: test_equals_the_published_classifier

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.classifier import Classifier
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig, Pooling
from cirilla_cli.model.count import forward_flops_per_token, parameters
from cirilla_cli.model.encoder import Encoder
from cirilla_cli.model.heads import LabelLoss, RewardHead
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import IGNORE, Hidden, LastLogits, TokenLoss
from cirilla_cli.model.rope import frequencies
from cirilla_cli.model.sections import GeGLUConfig, GELUConfig, LayerNormConfig, RopeConfig, SwiGLUConfig

from .conftest import VOCAB, randomise

D, F, T, LOCAL = 24, 40, 19, 6
NEAR, EXACT = 1e-5, 1e-10
MODERN_BERT: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": D, "n_layers": 4, "context_length": 64, "pattern": "GLL", "embedding_norm": True,
    "mixers": {
        "G": {"kind": "attention", "n_heads": 4, "rope": {"kind": "plain", "theta": 160_000.0}, "causal": False},
        "L": {
            "kind": "attention", "n_heads": 4, "window": LOCAL // 2 + 1, "causal": False,
            "rope": {"kind": "plain", "theta": 10_000.0},
        },
    },
    "mlp": {"kind": "geglu", "d_ff": F}, "norm": {"kind": "layer", "bias": False},
}  # fmt: skip
BERT: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": D, "n_layers": 2, "context_length": 32, "embedding_norm": True,
    "mixers": {"A": {"kind": "attention", "n_heads": 4, "rope": None, "causal": False, "bias": True, "out_bias": True}},
    "mlp": {"kind": "gelu", "d_ff": F, "bias": True}, "norm": {"kind": "layer", "eps": 1e-12},
    "norm_placement": "post", "positions": {"kind": "learned"}, "head_bias": True,
}  # fmt: skip
REGISTERED = {**MODERN_BERT, "registers": 3}
UNTIED = {**MODERN_BERT, "tie_embeddings": False, "decoder_bias": False, "pattern": "LG", "n_layers": 2}
ENCODERS = {"modernbert": MODERN_BERT, "bert": BERT, "registers": REGISTERED, "untied": UNTIED}


def built(keys: Mapping[str, Any], seed: int = 0) -> Encoder:
    """An encoder in float64 with no weight at its initial value."""
    encoder = fresh(EncoderConfig.model_validate(keys), seed=0).double().eval()
    randomise(encoder, seed)
    return encoder


def rows_of(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, rows: Tensor, layout: SequenceLayout | None = None) -> Tensor:
    out: Tensor = model(rows, layout or SequenceLayout.rows(*rows.shape), readout=LastLogits(rows.shape[1]))
    return out


# Against the published classes


def shaken(model: Any) -> Any:
    """Every weight random, and mild enough for float32 to keep five digits through four layers."""
    model = model.double().eval()
    randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7 if parameter.ndim > 1 else 1.0)
    return model


def modern_bert(task: str = "MaskedLM", **keys: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertForSequenceClassification

    config = ModernBertConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=F, num_hidden_layers=4, num_attention_heads=4,
        local_attention=LOCAL, global_attn_every_n_layers=3, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, attn_implementation="eager", **keys,
    )  # fmt: skip
    kind = ModernBertForMaskedLM if task == "MaskedLM" else ModernBertForSequenceClassification
    return shaken(kind(config))


def from_modern_bert(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names: fused matrices cut, the tied copy left out."""
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        new = name.replace("model.embeddings.tok_embeddings", "model.embed_tokens")
        new = new.replace("model.embeddings.norm", "model.embedding_norm").replace("final_norm", "norm")
        new = new.replace("attn_norm", "input_layernorm").replace("mlp_norm", "post_attention_layernorm")
        if name.endswith("attn.Wqkv.weight"):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                ours[new.replace("attn.Wqkv", f"self_attn.{letter}_proj")] = part
        elif name.endswith("mlp.Wi.weight"):
            for part, half in zip(("gate", "up"), tensor.chunk(2), strict=True):
                ours[new.replace("Wi", f"{part}_proj")] = half
        elif name != "decoder.weight":
            ours[new.replace("attn.Wo", "self_attn.o_proj").replace("mlp.Wo", "mlp.down_proj")] = tensor
    return ours


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    return shaken(BertForMaskedLM(config))


def from_bert(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names; every token is of type 0, whose vector goes into the positions."""
    parts = {
        "bert.embeddings.word_embeddings": "model.embed_tokens", "bert.embeddings.LayerNorm": "model.embedding_norm",
        "cls.predictions.transform.dense": "head.dense", "cls.predictions.transform.LayerNorm": "head.norm",
        "cls.predictions.bias": "decoder.bias", "bert.encoder.layer": "model.layers",
        "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj", "attention.output.dense": "self_attn.o_proj",
        "attention.output.LayerNorm": "post_attention_layernorm", "intermediate.dense": "mlp.up_proj",
        "output.dense": "mlp.down_proj", "output.LayerNorm": "post_feedforward_layernorm",
    }  # fmt: skip
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        new = name
        for before, after in parts.items():
            new = new.replace(before, after)
        if new.startswith(("model.", "head.")) or new == "decoder.bias":
            ours[new] = tensor
    types = theirs["bert.embeddings.token_type_embeddings.weight"][0]
    ours["model.embed_positions.weight"] = theirs["bert.embeddings.position_embeddings.weight"] + types
    return ours


def right_padded(rows: Tensor, lengths: list[int]) -> tuple[Tensor, SequenceLayout]:
    """The attention mask for transformers, and our layout."""
    index_BT = torch.arange(rows.shape[1]).expand_as(rows)
    mask_BT = index_BT < torch.tensor(lengths)[:, None]
    return mask_BT.long(), SequenceLayout(index_BT, torch.where(mask_BT, 0, PADDING))


PAIRS = {"modernbert": (MODERN_BERT, modern_bert, from_modern_bert), "bert": (BERT, bert, from_bert)}


@torch.inference_mode()
@pytest.mark.parametrize(("keys", "reference", "mapped"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_equals_the_published_masked_language_model(keys: Any, reference: Any, mapped: Any, back_end: str) -> None:
    theirs, ours = reference().float(), built(keys).float()
    theirs.set_attn_implementation(back_end)
    ours.load_state_dict(mapped(theirs.state_dict()))
    rows = rows_of(3, T)
    # Their eager attention gives no number to padding that sees no token, and then none to the tokens of that row.
    mask_BT, layout = right_padded(rows, [T, 11, 4] if back_end == "sdpa" else [T, 17, 16])
    difference = logits(ours, rows, layout) - theirs(input_ids=rows, attention_mask=mask_BT).logits
    assert float(difference[mask_BT.bool()].abs().max()) < NEAR


@torch.inference_mode()
@pytest.mark.parametrize(("keys", "reference", "mapped"), PAIRS.values(), ids=PAIRS)
def test_equals_it_in_float64(keys: Any, reference: Any, mapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModernBERT rotates in float32 whatever it is given; Llama's rotation is the same without that."""
    from transformers.models.llama import modeling_llama
    from transformers.models.modernbert import modeling_modernbert

    monkeypatch.setattr(modeling_modernbert, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    theirs, ours = reference(), built(keys)
    theirs.set_attn_implementation("sdpa")
    # Frequencies are float32 in both, and differ in the last bit by the order of a power and a division.
    for name, theta in (("full", 160_000.0), ("sliding", 10_000.0)):
        for buffer in [b for n, b in theirs.named_buffers() if n.endswith(f"{name}_attention_inv_freq")]:
            buffer.copy_(frequencies(RopeConfig(theta=theta), D // 4))
    ours.load_state_dict(mapped(theirs.state_dict()))
    rows = rows_of(3, T)
    mask_BT, layout = right_padded(rows, [T, 11, 4])
    difference = logits(ours, rows, layout) - theirs(input_ids=rows, attention_mask=mask_BT).logits
    assert float(difference[mask_BT.bool()].abs().max()) < EXACT


@torch.inference_mode()
def test_a_local_layer_sees_half_its_width_to_each_side() -> None:
    """Transformers' width of 6 is three positions before and three after; the fourth changes nothing."""
    encoder = built({**MODERN_BERT, "mixers": {"L": MODERN_BERT["mixers"]["L"]}, "pattern": "L", "n_layers": 1})
    rows = rows_of(1, T)
    before = logits(encoder, rows)[0, 9]
    for place in range(T):
        other = rows.clone()
        other[0, place] = (rows[0, place] + 1) % VOCAB
        assert torch.equal(logits(encoder, other)[0, 9], before) is (abs(place - 9) > LOCAL // 2)


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_the_published_classifier(pooling: str) -> None:
    theirs = modern_bert("SequenceClassification", classifier_pooling=pooling, num_labels=4).float()
    how: Pooling = "mean" if pooling == "mean" else "first"
    config = ClassifierConfig(base=EncoderConfig.model_validate(MODERN_BERT), labels=tuple("abcd"), pooling=how)
    ours = fresh(config, seed=0).eval()
    ours.load_state_dict(from_modern_bert(theirs.state_dict()))
    theirs.set_attn_implementation("sdpa")
    rows = rows_of(3, T)
    mask_BT, layout = right_padded(rows, [T, 11, 4])
    expected = theirs(input_ids=rows, attention_mask=mask_BT).logits
    found = ours(rows, layout, readout=LastLogits(3))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=NEAR)


@torch.inference_mode()
def test_a_decoder_classifies_and_rewards_as_the_published_one() -> None:
    """By the last token of each document, whether rows are padded or packed."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    theirs = LlamaForSequenceClassification(LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_labels=1, pad_token_id=0, max_position_embeddings=64,
    ))  # fmt: skip
    shaken(theirs)
    decoder = DecoderConfig(
        vocab_size=VOCAB, d_model=D, n_layers=2, context_length=64,
        mixers={"A": AttentionConfig(n_heads=4, n_kv_heads=2)}, mlp=SwiGLUConfig(d_ff=F),
    )  # fmt: skip
    model, reward = fresh(decoder, seed=0).double().eval(), RewardHead(D).double()
    weights = theirs.state_dict()
    reward.score.weight.copy_(weights["score.weight"])
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name.startswith("model.")})
    documents = [rows_of(1, n, seed=n) % (VOCAB - 1) + 1 for n in (7, 12, 5)]
    expected = torch.cat([theirs(input_ids=document).logits[0] for document in documents])

    packed = torch.cat(documents, dim=1)
    layout = SequenceLayout.packed(torch.repeat_interleave(torch.arange(3), torch.tensor([7, 12, 5]))[None])
    found = reward(model(packed, layout, readout=Hidden()), layout)
    # Llama's angles are float32 and so are ours; norms are computed in float32 there.
    torch.testing.assert_close(found, expected, rtol=0, atol=NEAR)

    classifier = fresh(ClassifierConfig(base=decoder, labels=("no", "yes"), pooling="last"), seed=0).double().eval()
    classifier.load_state_dict({
        **{name: tensor for name, tensor in weights.items() if name.startswith("model.")},
        "classifier.weight": torch.cat([torch.zeros(1, D), weights["score.weight"]]),
    })  # fmt: skip
    scores = classifier(packed, layout, readout=LastLogits(3))[0]
    torch.testing.assert_close(scores, torch.stack([torch.zeros(3), expected], dim=1).double(), rtol=0, atol=NEAR)


# Documents, padding, registers


def three_documents() -> tuple[list[Tensor], Tensor, SequenceLayout]:
    """Documents apart, and together in rows with padding before, between and after them."""
    documents = [rows_of(1, n, seed=n) for n in (6, 9, 4)]
    rows, numbers = torch.zeros(2, T, dtype=torch.long), torch.full((2, T), PADDING)
    for number, (row, start) in enumerate(((0, 2), (0, 8), (1, 11))):
        length = documents[number].shape[1]
        rows[row, start : start + length] = documents[number]
        numbers[row, start : start + length] = number
    return documents, rows, SequenceLayout.packed(numbers)


@pytest.fixture(params=ENCODERS.values(), ids=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return built(request.param)


@torch.inference_mode()
def test_documents_know_nothing_of_each_other_nor_of_padding(encoder: Encoder) -> None:
    documents, rows, layout = three_documents()
    together = logits(encoder, rows, layout)
    apart = torch.cat([logits(encoder, document)[0] for document in documents])
    assert layout.documents_BT is not None
    torch.testing.assert_close(together[layout.documents_BT != PADDING], apart, rtol=0, atol=EXACT)
    noise = torch.where(layout.documents_BT == PADDING, rows_of(2, T, seed=5), rows)
    assert torch.equal(logits(encoder, noise, layout)[layout.documents_BT >= 0], together[layout.documents_BT >= 0])
    changed = torch.where(layout.documents_BT == 0, rows_of(2, T, seed=6), rows)
    assert torch.equal(logits(encoder, changed, layout)[layout.documents_BT > 0], together[layout.documents_BT > 0])


@torch.inference_mode()
def test_long_rows_are_taken_apart_without_loss(encoder: Encoder) -> None:
    """Rows and windows long enough that attention computes them in parts."""
    encoder.model.embed_positions = encoder.model.embed_positions and torch.nn.Embedding(350, D).double()
    lengths = [350, 40, 260]
    documents = [rows_of(1, n, seed=n) for n in lengths]
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    together = logits(encoder, torch.cat(documents, dim=1), SequenceLayout.packed(numbers))
    apart = torch.cat([logits(encoder, document) for document in documents], dim=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=EXACT)


@torch.inference_mode()
def test_every_token_sees_every_other_of_its_document(encoder: Encoder) -> None:
    """Through a global layer; the layers before it may be local."""
    rows = rows_of(1, T)
    before = logits(encoder, rows)
    for place in (0, 8, T - 1):
        other = rows.clone()
        other[0, place] = (rows[0, place] + 1) % VOCAB
        assert ((logits(encoder, other) - before)[0].abs().amax(dim=1) > EXACT).all()


@torch.inference_mode()
def test_registers_are_tokens_before_the_document() -> None:
    """By an encoder without registers that embeds them as words of its own, before the first token."""
    keys = {**REGISTERED, "registers": 0, "vocab_size": VOCAB + 3}
    ours, plain = built(REGISTERED), built(keys)
    weights = ours.state_dict()
    table = torch.cat([weights["model.embed_tokens.weight"], weights.pop("registers.weight")])
    weights.update({"model.embed_tokens.weight": table, "decoder.bias": torch.zeros(VOCAB + 3).double()})
    plain.load_state_dict(weights)
    documents, rows, layout = three_documents()
    found = ours.states(rows, layout)[layout.documents_BT != PADDING]
    expected = []
    for document in documents:
        wide = torch.cat([torch.arange(VOCAB, VOCAB + 3)[None], document], dim=1)
        expected.append(plain.states(wide, SequenceLayout.rows(*wide.shape))[0, 3:])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=EXACT)
    assert found.shape[0] == sum(document.shape[1] for document in documents)


@torch.inference_mode()
def test_registers_matter() -> None:
    ours, rows = built(REGISTERED), rows_of(2, T)
    before = logits(ours, rows)
    ours.registers.weight[1] *= torch.arange(D)
    assert ((logits(ours, rows) - before).abs().amax(dim=2) > EXACT).all()


@torch.inference_mode()
def test_vectors_are_pooled_states() -> None:
    encoder = built(REGISTERED)
    documents, rows, layout = three_documents()
    apart = torch.cat(
        [encoder.states(document, SequenceLayout.rows(*document.shape)).mean(1) for document in documents]
    )
    torch.testing.assert_close(encoder.vectors(rows, layout), apart, rtol=0, atol=EXACT)


# Training and counts


def test_the_loss_is_that_of_the_masked_places(encoder: Encoder) -> None:
    rows = rows_of(2, T)
    targets = torch.full_like(rows, IGNORE)
    targets[0, 3], targets[1, 7], targets[1, 8] = 5, 9, 60
    sums = encoder(rows, SequenceLayout.rows(2, T), readout=TokenLoss(targets))
    scores = logits(encoder, rows)
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(sums.nll, expected, rtol=0, atol=EXACT)
    sums.loss.backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A bias of all keys moves every score of a query alike, which softmax does not see.
        assert (parameter.grad.abs().max() > 1e-12) or name.endswith("k_proj.bias"), name


def test_the_gradient_is_the_difference_quotient() -> None:
    """Of a classifier's loss by a vector that everything it has depends on: the registers."""
    base = EncoderConfig.model_validate(REGISTERED)
    model = fresh(ClassifierConfig(base=base, labels=("a", "b", "c"), pooling="mean"), seed=0).double().eval()
    randomise(model)
    _, rows, layout = three_documents()
    readout = LabelLoss(torch.tensor([0, 2, 1]))

    def loss(weight: Tensor) -> Tensor:
        sums = torch.func.functional_call(model, {"registers.weight": weight}, (rows, layout), {"readout": readout})
        nll: Tensor = sums.nll
        return nll

    weight = model.registers.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("keys", ENCODERS.values(), ids=ENCODERS)
def test_counts_are_exact(keys: Mapping[str, Any]) -> None:
    """Of encoders and of the classifiers made of them; FLOPs for rows in which every layer sees everything."""
    wide = {letter: {**mixer, "window": None} for letter, mixer in keys["mixers"].items()}
    config = EncoderConfig.model_validate({**keys, "mixers": wide, "registers": 0})
    classifier = ClassifierConfig(base=EncoderConfig.model_validate(keys), labels=("a", "b", "c"), pooling="mean")
    for section in (EncoderConfig.model_validate(keys), classifier):
        assert parameters(section) == sum(p.numel() for p in section.build().parameters())
    model, rows = fresh(config, seed=0).eval(), rows_of(2, T)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        logits(model, rows)
    # The bias of the vocabulary is computed as eight more inputs of its matrix.
    padding = 2 * 8 * VOCAB if config.decoder_bias else 0
    assert counter.get_total_flops() == rows.numel() * (forward_flops_per_token(config, T) + padding)


def test_a_window_reaches_to_both_sides_in_the_count() -> None:
    both, back = AttentionConfig(n_heads=2, window=4, causal=False), AttentionConfig(n_heads=2, window=4)
    assert both.mixing_flops(D, 100) / back.mixing_flops(D, 100) == 7 / 4


def test_a_decoders_classifier_counts_its_parts() -> None:
    base = DecoderConfig(
        vocab_size=VOCAB, d_model=D, n_layers=2, context_length=64, tie_embeddings=False,
        mixers={"A": AttentionConfig(n_heads=4)}, mlp=SwiGLUConfig(d_ff=F),
    )  # fmt: skip
    section = ClassifierConfig(base=base, labels=("a", "b"), pooling="last")
    assert parameters(section) == sum(p.numel() for p in section.build().parameters())


# Sections


@pytest.mark.parametrize(
    "mixer", [{"kind": "attention", "n_heads": 2}, {"kind": "attention", "n_heads": 2, "window": 4}]
)
def test_a_mixer_that_sees_one_way_is_refused(mixer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="mixers.A sees earlier positions only; an encoder wants causal: false"):
        EncoderConfig.model_validate({**MODERN_BERT, "mixers": {"A": mixer}, "pattern": "A"})


def test_changes_of_a_classifier_are_those_of_its_base() -> None:
    config = ClassifierConfig(base=EncoderConfig.model_validate(MODERN_BERT), labels=("a", "b"), pooling="mean")
    changed = config.changed(dropout=0.25, context_length=16)
    assert (changed.base.dropout, changed.context_length, changed.labels) == (0.25, 16, ("a", "b"))


def test_a_classifier_keeps_its_shape_through_json() -> None:
    config = ClassifierConfig(base=EncoderConfig.model_validate(REGISTERED), labels=("a", "b"), pooling="first")
    assert ClassifierConfig.model_validate(config.model_dump(mode="json")) == config
    assert isinstance(config.build(), Classifier)
    assert isinstance(config.base.norm, LayerNormConfig)
    assert isinstance(config.base.mlp, GeGLUConfig | GELUConfig)
