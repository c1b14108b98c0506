"""Tiny models in float64 with no weight at its initial value."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import RMSNormConfig, RopeConfig, SwiGLUConfig

VOCAB = 61

MIXERS = {
    "multi-head": AttentionConfig(n_heads=4),
    "grouped": AttentionConfig(n_heads=4, n_kv_heads=2),
    "multi-query, wide heads": AttentionConfig(n_heads=4, n_kv_heads=1, head_dim=16),
    "windowed": AttentionConfig(n_heads=2, window=3),
    "window of one": AttentionConfig(n_heads=2, window=1),
    "windowed, normed, narrow heads": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6, window=4, qk_norm=True),
    "normed": AttentionConfig(n_heads=4, n_kv_heads=2, qk_norm=True, rope=RopeConfig(theta=500.0)),
    "capped, scaled": AttentionConfig(n_heads=4, n_kv_heads=2, softcap=1.5, scale=0.7),
    "capped, windowed, biased": AttentionConfig(n_heads=2, window=4, softcap=0.8, bias=True, out_bias=True),
    "seeing both ways, unturned": AttentionConfig(n_heads=2, causal=False, rope=None),
    "seeing both ways, windowed, turned in part": AttentionConfig(
        n_heads=2, window=3, causal=False, rope=RopeConfig(fraction=0.5, theta=90.0)
    ),
}
"""Attention in every form its section allows."""

MODELS = {
    "dense": ("A", {"A": AttentionConfig(n_heads=4, n_kv_heads=2)}),
    "windowed": ("L", {"L": AttentionConfig(n_heads=2, window=3, qk_norm=True)}),
    "mixed": (
        "LA",
        {
            "L": AttentionConfig(n_heads=4, n_kv_heads=1, window=4, head_dim=8),
            "A": AttentionConfig(n_heads=2, rope=RopeConfig(theta=777.0)),
        },
    ),
}
"""Decoders by pattern and mixers."""


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew, norms included: ones would hide an order of operations."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.empty(parameter.shape, dtype=torch.float64).normal_(0.0, 0.3, generator=generator)
            parameter.copy_(noise + 1.0 if parameter.ndim == 1 else noise)


def same_when_compiled(module: nn.Module, *given: Any) -> None:
    """Traced, its backward pass too, and run as traced: what a compiler starts from, without one for this machine."""
    found = []
    for run in (module, torch.compile(module, backend="aot_eager", dynamic=False)):
        module.zero_grad()
        out = run(*given)
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)
    torch._dynamo.reset()


def config_of(pattern: str = "A", mixers: dict[str, AttentionConfig] | None = None, **keys: object) -> DecoderConfig:
    """A decoder of two layers, 24 wide."""
    return DecoderConfig.model_validate({
        "vocab_size": VOCAB, "d_model": 24, "n_layers": 2, "context_length": 32, "pattern": pattern,
        "mixers": mixers or {"A": AttentionConfig(n_heads=4, n_kv_heads=2)}, "mlp": SwiGLUConfig(d_ff=40),
        "norm": RMSNormConfig(eps=1e-5), "tie_embeddings": False, **keys,
    })  # fmt: skip


@pytest.fixture
def make_model() -> Callable[..., Decoder]:
    """A randomised decoder in float64."""

    def make(pattern: str = "A", mixers: dict[str, AttentionConfig] | None = None, **keys: object) -> Decoder:
        model = fresh(config_of(pattern, mixers, **keys), seed=0).double().eval()
        randomise(model)
        return model

    return make


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest, make_model: Callable[..., Decoder]) -> Decoder:
    """Each of the decoders above."""
    return make_model(*request.param)
