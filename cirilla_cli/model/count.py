"""Parameters and floating-point operations of a model, in closed form; torch-free."""

from cirilla_cli.model.config import DecoderConfig, Mixer


def _attention(mixer: Mixer, d_model: int) -> int:
    width = mixer.width(d_model)
    return d_model * width * (2 * mixer.n_heads + 2 * mixer.kv_heads)


def matrix_parameters(config: DecoderConfig) -> int:
    """Weights a token is multiplied with: all matrices of the blocks and the head, not the input embedding."""
    blocks = sum(_attention(m, config.d_model) + 3 * config.d_model * config.mlp.d_ff for m in config.layer_mixers())
    return blocks + (config.vocab_size or 0) * config.d_model


def parameters(config: DecoderConfig) -> int:
    """All parameters; a tied head counts once."""
    norms = config.d_model * (2 * config.n_layers + 1)
    norms += sum(2 * m.width(config.d_model) for m in config.layer_mixers() if m.qk_norm)
    embedding = 0 if config.tie_embeddings else (config.vocab_size or 0) * config.d_model
    return matrix_parameters(config) + norms + embedding


def forward_flops_per_token(config: DecoderConfig, context: float) -> float:
    """Matrix products of one token that on average sees ``context`` keys: 2 per weight, 4 per head width and key."""
    attention = 0.0
    for mixer in config.layer_mixers():
        seen = context if mixer.window is None else min(context, mixer.window)
        attention += 4 * mixer.n_heads * mixer.width(config.d_model) * seen
    return 2 * matrix_parameters(config) + attention


def train_flops_per_token(config: DecoderConfig, context: float) -> float:
    """Forward and backward: three times the forward products; recomputation is not counted."""
    return 3 * forward_flops_per_token(config, context)
