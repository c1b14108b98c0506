"""The decoder: against transformers' classes, cached against uncached, packed against apart, fresh and counted."""

# oracle: model decoder: test_logits_equal_those_of_transformers_with_the_same_weights

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.count import forward_flops_per_token, parameters, train_flops_per_token
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import LastLogits, TokenLoss
from cirilla_cli.model.sections import RopeConfig, SwiGLUConfig

from .conftest import MODELS, VOCAB, config_of, randomise

CACHED = 1e-10
"""Most that cached and uncached logits may differ by in float64; the same products in another order."""

T = 13
"""Longer than every window here, twice over for the shortest."""


def tokens(batch: int = 2, length: int = T, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Decoder, tokens_BT: Tensor, layout: SequenceLayout | None = None, **keys: Any) -> Tensor:
    layout = layout or SequenceLayout.rows(*tokens_BT.shape)
    return model(tokens_BT, layout, readout=LastLogits(tokens_BT.shape[1]), **keys)


def in_chunks(model: Decoder, tokens_BT: Tensor, layout: SequenceLayout, cuts: list[int]) -> Tensor:
    """Logits of every position when the row is fed in the chunks between ``cuts``."""
    caches, out = model.make_caches(tokens_BT.shape[1]), []
    for start, end in pairwise([0, *cuts, tokens_BT.shape[1]]):
        documents = None if layout.documents_BT is None else layout.documents_BT[:, start:end]
        chunk = SequenceLayout(layout.positions_BT[:, start:end], documents)
        out.append(logits(model, tokens_BT[:, start:end], chunk, caches=caches))
    return torch.cat(out, dim=1)


# transformers

FAMILIES = {
    "LlamaForCausalLM": (AttentionConfig(n_heads=4, n_kv_heads=2, rope=RopeConfig(theta=500.0)), {}),
    "Qwen3ForCausalLM": (AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, qk_norm=True), {"head_dim": 16}),
    "MistralForCausalLM": (AttentionConfig(n_heads=4, n_kv_heads=1, window=5), {"sliding_window": 5}),
}


def theirs(name: str, config: DecoderConfig, mixer: AttentionConfig, more: dict[str, Any]) -> Any:
    """The class of transformers, its configuration written by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        settings = getattr(transformers, name.replace("ForCausalLM", "Config"))(
            vocab_size=VOCAB, hidden_size=config.d_model, intermediate_size=config.mlp.d_ff,
            num_hidden_layers=config.n_layers, num_attention_heads=mixer.n_heads, num_key_value_heads=mixer.kv_heads,
            rms_norm_eps=config.norm.eps, tie_word_embeddings=config.tie_embeddings, max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "rope_theta": mixer.rope.theta}, attn_implementation="eager",
            pad_token_id=None, bos_token_id=1, eos_token_id=2, **more,
        )  # fmt: skip
        return getattr(transformers, name)(settings).eval()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers_with_the_same_weights(name: str, tied: bool) -> None:
    """The names are the same, so the weights are handed over as they are; float32, 1e-5."""
    mixer, more = FAMILIES[name]
    config = config_of("A", {"A": mixer}, tie_embeddings=tied)
    ours, other = fresh(config, seed=0).eval(), theirs(name, config, mixer, more)
    randomise(ours)
    left_over = other.load_state_dict(ours.state_dict(), strict=not tied)
    assert [*left_over.missing_keys] in ([], ["lm_head.weight"])
    assert not left_over.unexpected_keys
    other.tie_weights()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = other(tokens()).logits
        torch.testing.assert_close(logits(ours, tokens()), expected, rtol=1e-5, atol=1e-5)


# The cache


@torch.inference_mode()
@pytest.mark.parametrize("cut", range(1, T))
def test_cached_equals_uncached_for_every_split_in_two(model: Decoder, cut: int) -> None:
    layout = SequenceLayout.rows(2, T)
    split = in_chunks(model, tokens(), layout, [cut])
    torch.testing.assert_close(split, logits(model, tokens()), rtol=0, atol=CACHED)


@torch.inference_mode()
def test_cached_equals_uncached_for_every_split_in_three(model: Decoder) -> None:
    whole, layout = logits(model, tokens()), SequenceLayout.rows(2, T)
    for a in range(1, T - 1):
        for b in range(a + 1, T):
            torch.testing.assert_close(in_chunks(model, tokens(), layout, [a, b]), whole, rtol=0, atol=CACHED)


@torch.inference_mode()
def test_cached_equals_uncached_token_by_token(model: Decoder) -> None:
    """Forty tokens: a window of three slides its buffer many times."""
    long = tokens(length=40)
    split = in_chunks(model, long, SequenceLayout.rows(2, 40), list(range(1, 40)))
    torch.testing.assert_close(split, logits(model, long), rtol=0, atol=CACHED)


@torch.inference_mode()
def test_long_chunks_after_short_ones_make_room_in_a_window(model: Decoder) -> None:
    long = tokens(length=40)
    for cuts in ([1, 2, 30], [20, 21, 22], [1, 39], [5, 10, 15, 35]):
        split = in_chunks(model, long, SequenceLayout.rows(2, 40), cuts)
        torch.testing.assert_close(split, logits(model, long), rtol=0, atol=CACHED)


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[6], [10], [7, 8], list(range(7, T))], ids=["6", "10", "7 8", "each"])
def test_left_padded_rows_equal_the_same_rows_alone(model: Decoder, cuts: list[int]) -> None:
    """Rows of 13, 9 and 8 tokens, padded on the left as `generate` does, cached, against each row without padding."""
    lengths, rows = [T, 9, 8], tokens(3)
    documents = torch.tensor([[-1] * (T - n) + [0] * n for n in lengths])
    split = in_chunks(model, rows, SequenceLayout.packed(documents), cuts)
    for row, n in enumerate(lengths):
        alone = logits(model, rows[row : row + 1, T - n :])
        torch.testing.assert_close(split[row : row + 1, T - n :], alone, rtol=0, atol=CACHED)


@torch.inference_mode()
def test_reordered_caches_go_on_as_the_rows_they_now_hold(model: Decoder) -> None:
    rows, order = tokens(3), torch.tensor([2, 0, 0])
    caches = model.make_caches(T)
    logits(model, rows[:, :8], SequenceLayout.rows(3, 8), caches=caches)
    for cache in caches:
        cache.reorder(order)
    went_on = logits(model, rows[order, 8:], SequenceLayout.rows(3, T - 8, start=8), caches=caches)
    torch.testing.assert_close(went_on, logits(model, rows)[order, 8:], rtol=0, atol=CACHED)


def test_more_than_the_capacity_is_refused(model: Decoder) -> None:
    with pytest.raises(ValueError, match="holds 12 positions, asked for 13"):
        logits(model, tokens(), caches=model.make_caches(12))


# Packing


@torch.inference_mode()
def test_packed_documents_equal_separate_documents(model: Decoder) -> None:
    rows, lengths = tokens(1), [4, 6, 3]
    documents = torch.tensor([[d for d, n in enumerate(lengths) for _ in range(n)]])
    together = logits(model, rows, SequenceLayout.packed(documents))
    start = 0
    for n in lengths:
        alone = logits(model, rows[:, start : start + n])
        torch.testing.assert_close(together[:, start : start + n], alone, rtol=0, atol=CACHED)
        start += n


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_document_is_bit_equal_whatever_its_neighbours_say(model: Decoder, dtype: torch.dtype) -> None:
    layout = SequenceLayout.packed(torch.tensor([[3] * 5 + [9] * 8] * 2))
    before, after, model = tokens(), tokens(), model.to(dtype)
    after[:, :5] = tokens(seed=2)[:, :5]
    assert (before[:, :5] != after[:, :5]).any()
    one, two = logits(model, before, layout), logits(model, after, layout)
    assert torch.equal(one[:, 5:], two[:, 5:])
    assert not torch.equal(one[:, :5], two[:, :5])
    after = before.clone()
    after[:, 5:] = tokens(seed=2)[:, 5:]
    assert torch.equal(one[:, :5], logits(model, after, layout)[:, :5])


# Fresh weights, counts, dropout

SHAPES = {
    "small": {"d_model": 64, "n_layers": 2, "vocab_size": 500},
    "wide": {"d_model": 384, "n_layers": 4, "vocab_size": 4096},
    "deep": {"d_model": 96, "n_layers": 24, "vocab_size": 1024},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_first_loss_is_within_five_percent_of_ln_v(shape: dict[str, int], tied: bool) -> None:
    mixers = {"A": AttentionConfig(n_heads=4)}
    model = fresh(
        config_of("A", mixers, **shape, mlp=SwiGLUConfig(d_ff=3 * shape["d_model"]), tie_embeddings=tied), seed=3
    )
    rows = torch.randint(shape["vocab_size"], (4, 65), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        sums = model(rows[:, :-1], SequenceLayout.rows(4, 64), readout=TokenLoss(rows[:, 1:]))
    assert float(sums.nll) / (4 * 64) == pytest.approx(math.log(shape["vocab_size"]), rel=0.05)


def test_one_seed_gives_one_model_and_another_seed_another() -> None:
    one, same, other = (fresh(config_of(), seed=seed).state_dict() for seed in (5, 5, 6))
    torch.manual_seed(1)  # the global generator has no say
    again = fresh(config_of(), seed=5).state_dict()
    assert all(torch.equal(one[name], same[name]) and torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_matrices_that_write_to_the_residual_stream_start_smaller() -> None:
    model = fresh(config_of(d_model=128, n_layers=8, mlp=SwiGLUConfig(d_ff=256)), seed=0)
    for name, parameter in model.state_dict().items():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
            continue
        writer = name.endswith(("o_proj.weight", "down_proj.weight"))
        assert float(parameter.std()) == pytest.approx(0.02 / 4 if writer else 0.02, rel=0.05), name


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("pattern", "mixers"), MODELS.values(), ids=MODELS)
def test_parameters_are_counted(pattern: str, mixers: dict[str, AttentionConfig], tied: bool) -> None:
    config = config_of(pattern, mixers, tie_embeddings=tied, n_layers=3)
    assert parameters(config) == sum(p.numel() for p in config.build().parameters())


def counted_by_torch(config: DecoderConfig, rows: Tensor, *, train: bool) -> int:
    """torch's count of one pass; through the plain attention kernel, as it knows no formula for the CPU's fused one."""
    model = fresh(config, seed=0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = logits(model, rows)
        if train:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("pattern", "mixers"), MODELS.values(), ids=MODELS)
def test_floating_point_operations_are_those_torch_counts(pattern: str, mixers: dict[str, AttentionConfig]) -> None:
    """Counted: each matrix product of the blocks and the head, and scores and mixing over T keys a query, as in torch,
    which halves nothing for causality; hence no windows. Not counted: embedding look-up, norms, rotation, softmax."""
    whole = {letter: mixer.model_copy(update={"window": None}) for letter, mixer in mixers.items()}
    config, rows = config_of(pattern, whole), tokens()
    forward = counted_by_torch(config, rows, train=False)
    assert forward == forward_flops_per_token(config, T) * rows.numel()
    assert counted_by_torch(config, rows, train=True) == train_flops_per_token(config, T) * rows.numel() == 3 * forward


def test_a_window_bounds_the_keys_that_are_counted() -> None:
    local = config_of("L", {"L": AttentionConfig(n_heads=4, window=5)})
    whole = config_of("A", {"A": AttentionConfig(n_heads=4)})
    assert forward_flops_per_token(local, 100.0) == forward_flops_per_token(whole, 5.0)


def test_dropout_works_in_training_and_is_inert_in_evaluation(make_model: Callable[..., Decoder]) -> None:
    with_dropout, without = make_model(dropout=0.5), make_model()
    assert torch.equal(logits(with_dropout, tokens()), logits(without, tokens()))
    with_dropout.train()
    assert not torch.equal(logits(with_dropout, tokens()), logits(with_dropout, tokens()))


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size must be known"):
        config_of(vocab_size=None).build()
