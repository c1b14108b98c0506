"""Parameters, floating-point operations and memory of a model, in closed form; torch-free."""

from cirilla_cli.model.config import StackConfig
from cirilla_cli.model.sections import Count

_NORMS = {"pre": 2, "post": 2, "sandwich": 4}
"""Norms in one block, by placement."""


def count(config: StackConfig) -> Count:
    """What the whole model holds and multiplies; a tied head counts once, the input embedding is no product."""
    total = Count(0, 0, 0)
    for mixer, mlp in zip(config.layer_mixers(), config.layer_mlps(), strict=True):
        total = total.plus(mixer.count(config.d_model, config.norm)).plus(mlp.count(config.d_model))
    table = (config.vocab_size or 0) * config.d_model
    positions = config.context_length * config.d_model if config.positions else 0
    norms = config.norm.parameters(config.d_model) * (_NORMS[config.norm_placement] * config.n_layers + 1)
    vectors = norms + positions + (0 if config.tie_embeddings else table)
    return total.plus(Count(table + vectors, table + vectors, table))


def parameters(config: StackConfig) -> int:
    """All parameters; a tied head counts once."""
    return count(config).parameters


def active_parameters(config: StackConfig) -> int:
    """Those that one token is computed with."""
    return count(config).active


def forward_flops_per_token(config: StackConfig, context: float) -> float:
    """Products of one token that on average sees ``context`` keys: 2 for each weight, and what the mixers add."""
    mixing = sum(mixer.mixing_flops(config.d_model, context) for mixer in config.layer_mixers())
    return 2 * count(config).products + mixing


def train_flops_per_token(config: StackConfig, context: float) -> float:
    """Forward and backward: three times the forward products; recomputation is not counted."""
    return 3 * forward_flops_per_token(config, context)


def cache_bytes(config: StackConfig, length: int, *, element: int = 2) -> int:
    """Memory of one row of ``length`` tokens while generating, with numbers of ``element`` bytes."""
    return element * sum(mixer.cache_elements(config.d_model, length) for mixer in config.layer_mixers())
