"""Parameters, floating-point operations and memory of a model, in closed form; torch-free."""

from typing import Any

from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig, StackConfig
from cirilla_cli.model.sections import Count

Shape = StackConfig | ClassifierConfig

_NORMS = {"pre": 2, "post": 2, "sandwich": 4}
"""Norms in one block, by placement."""

_WITHOUT_HEAD: dict[str, dict[str, Any]] = {"decoder": {"mtp": None}, "encoder": {"decoder_bias": False}}
"""What a classifier leaves out of the model that it reads with."""


def count(config: Shape) -> Count:
    """What the model holds and multiplies to predict the next token; a tied head counts once.

    The input embedding is no product, and steps further ahead (`mtp`) are stored but not active.
    """
    if isinstance(config, ClassifierConfig):
        return _classifier(config)
    total = Count(0, 0, 0)
    for layer in range(config.n_layers):
        total = total.plus(_block(config, layer))
    table = (config.vocab_size or 0) * config.d_model
    positions = config.context_length * config.d_model if config.positions else 0
    embedding = positions + (0 if config.tie_embeddings else table)
    # A norm of the embedding stands in place of the first one of pre-norm blocks.
    outer = (config.norm_placement != "post") + (config.embedding_norm and config.norm_placement != "pre")
    final = outer * config.norm.parameters(config.d_model)
    total = total.plus(Count(table + embedding + final, table + embedding + final, table))
    total = total.plus(config.head_count())
    return total._replace(parameters=total.parameters + _ahead(config))


def _classifier(config: ClassifierConfig) -> Count:
    """The trunk and the classes' matrix; what is multiplied once a document, not once a token, is no product here."""
    base, classes = config.base, len(config.labels)
    bare = base.changed(tie_embeddings=True, **_WITHOUT_HEAD[base.kind])
    whole, own = count(bare), classes * (base.d_model + isinstance(base, EncoderConfig))
    once = (base.vocab_size or 0) * base.d_model + bare.head_count().products
    return Count(whole.parameters + own, whole.active + own, whole.products - once)


def _block(config: StackConfig, layer: int) -> Count:
    """One block: its mixer, feed-forward and norms."""
    mixer, mlp = config.layer_mixers()[layer], config.layer_mlps()[layer]
    norms = _NORMS[config.norm_placement] * config.norm.parameters(config.d_model)
    return mixer.count(config.d_model, config.norm).plus(mlp.count(config.d_model)).plus(Count(norms, norms, 0))


def _ahead(config: StackConfig) -> int:
    if not isinstance(config, DecoderConfig) or config.mtp is None:
        return 0
    return config.mtp.parameters(config, _block(config, config.n_layers - 1))


def parameters(config: Shape) -> int:
    """All parameters; a tied head counts once."""
    return count(config).parameters


def active_parameters(config: Shape) -> int:
    """Those that one token is computed with."""
    return count(config).active


def forward_flops_per_token(config: Shape, context: float) -> float:
    """Products of one token that on average sees ``context`` keys: 2 for each weight, and what the mixers add."""
    stack = config.base if isinstance(config, ClassifierConfig) else config
    mixing = sum(mixer.mixing_flops(stack.d_model, context) for mixer in stack.layer_mixers())
    return 2 * count(config).products + mixing


def train_flops_per_token(config: Shape, context: float) -> float:
    """Forward and backward: three times the forward products, of steps ahead too; recomputation is not counted."""
    forward = forward_flops_per_token(config, context)
    if isinstance(config, DecoderConfig) and config.mtp is not None:
        last = config.n_layers - 1
        mixing = config.mtp.depth * config.layer_mixers()[last].mixing_flops(config.d_model, context)
        forward += 2 * config.mtp.products(config, _block(config, last)) + mixing
    return 3 * forward


def cache_bytes(config: StackConfig, length: int, *, element: int = 2) -> int:
    """Memory of one row of ``length`` tokens while generating, with numbers of ``element`` bytes."""
    return element * sum(mixer.cache_elements(config.d_model, length) for mixer in config.layer_mixers())
