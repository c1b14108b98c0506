"""One dial for a whole model: everything that follows from its depth, each with its reason; torch-free."""

import math
from typing import Any, NamedTuple

from cirilla_cli.model.config import DecoderConfig, DialConfig
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig

ASPECT = 64
"""Width over depth."""

TOKENS_PER_PARAMETER = 20


_OPTIMAL = f"{TOKENS_PER_PARAMETER} per weight outside the embedding: optimal for its compute (2203.15556)"


class Derived(NamedTuple):
    """One value that follows from the dial."""

    key: str
    """Dotted, as in a recipe."""
    value: Any
    why: str


def decoder_of(dial: DialConfig) -> DecoderConfig:
    """The model at this setting of the dial."""
    D = ASPECT * dial.depth
    heads = max(1, D // _head_dim(D))
    return DecoderConfig(
        vocab_size=dial.vocab_size, d_model=D, n_layers=dial.depth, context_length=dial.context_length,
        mixers={"A": AttentionConfig(n_heads=heads, n_kv_heads=_kv_heads(heads), qk_norm=True)},
        mlp=SwiGLUConfig(d_ff=_d_ff(D)), dropout=dial.dropout,
    )  # fmt: skip


def inner_weights(dial: DialConfig) -> int:
    """Weights outside the embedding: the N of the laws."""
    model = decoder_of(dial)
    each = zip(model.layer_mixers(), model.layer_mlps(), strict=True)
    return sum(mixer.count(model.d_model, model.norm).plus(mlp.count(model.d_model)).products for mixer, mlp in each)


def derivation(dial: DialConfig, length: tuple[int, str] | None = None) -> list[Derived]:
    """Model, batch, length and learning rate of a training run, in the order in which each follows from the last.

    Args:
        length: tokens to train on and why, where that is not what is optimal for the model's compute.
    """
    return [*_of_model(dial), *_of_training(dial, length)]


def _of_model(dial: DialConfig) -> list[Derived]:
    model = decoder_of(dial)
    attention, mlp = model.mixers["A"], model.mlp
    assert isinstance(attention, AttentionConfig)
    assert isinstance(mlp, SwiGLUConfig)
    D = model.d_model
    return [
        Derived("model.kind", "decoder", f"the dial at depth {dial.depth}"),
        Derived("model.n_layers", dial.depth, "the dial itself"),
        Derived("model.d_model", D, f"{ASPECT} x depth: loss hardly depends on the ratio around there (2001.08361)"),
        Derived("model.context_length", dial.context_length, "as the dial's section says"),
        Derived("model.vocab_size", dial.vocab_size, "as the dial's section says; null takes the tokenizer's"),
        Derived("model.dropout", dial.dropout, "as the dial's section says"),
        Derived("model.mixers.A.kind", "attention", "plain attention: the best understood at this size"),
        Derived("model.mixers.A.n_heads", attention.n_heads, f"d_model / {attention.width(D)}: heads as wide as usual"),
        Derived("model.mixers.A.n_kv_heads", attention.kv_heads, _why_kv(attention)),
        Derived("model.mixers.A.qk_norm", True, "keeps attention logits bounded at high learning rates (2302.05442)"),
        Derived("model.mlp.kind", "swiglu", "gated feed-forwards do better at equal size (2002.05202)"),
        Derived("model.mlp.d_ff", mlp.d_ff, "8/3 d_model in multiples of 64: the size of a plain 4x one"),
    ]  # fmt: skip


def _of_training(dial: DialConfig, length: tuple[int, str] | None) -> list[Derived]:
    """Tokens by the weights outside the embedding; batch and learning rate by the compute C of both."""
    weights = inner_weights(dial)
    tokens, why = length or (TOKENS_PER_PARAMETER * weights, _OPTIMAL)
    compute = 6.0 * weights * tokens
    return [
        Derived("objective.kind", "cross_entropy", "the next token, as in all pretraining"),
        Derived("train.tokens", tokens, why),
        Derived("train.batch_tokens", _batch(compute, dial.context_length), "0.292 C^0.3271 tokens at C = 6 weights "
                "tokens (2401.02954, section 3.1)"),
        Derived("optim.kind", "adamw", "what the law for the learning rate was measured with"),
        Derived("optim.lr", _rate(compute), "0.3118 C^-0.125 (2401.02954, section 3.1)"),
    ]  # fmt: skip


def _head_dim(d_model: int) -> int:
    return 64 if d_model < 1536 else 128


def _kv_heads(heads: int) -> int:
    return heads // 4 if heads % 4 == 0 else heads


def _why_kv(attention: AttentionConfig) -> str:
    if attention.kv_heads == attention.n_heads:
        return "as many as heads, which do not part into groups of four"
    return "a quarter of the heads: a quarter of the cache (2305.13245)"


def _d_ff(d_model: int) -> int:
    return math.ceil(8 * d_model / 3 / 64) * 64


def _batch(compute: float, context: int) -> int:
    """Tokens of a step, in whole rows."""
    return max(1, round(0.292 * math.pow(compute, 0.3271) / context)) * context


def _rate(compute: float) -> float:
    """The learning rate, to three digits."""
    return float(f"{0.3118 * math.pow(compute, -0.125):.3g}")
