"""Qwen3: Llama with queries and keys normalised per head, and a window in the layers that say so."""

from typing import Any

from cirilla_cli.hub.families.base import FULL, SLIDING, Family, Shape
from cirilla_cli.hub.families.blocks import (
    first_attention,
    read_attention,
    read_stack,
    read_swiglu,
    read_window,
    stack_keys,
    window_keys,
    windowed,
    windows_of,
)
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import RMSNormConfig, SwiGLUConfig


class Qwen3(Family):
    """`Qwen3ForCausalLM`; our names are its names."""

    types = ("qwen3",)
    architecture = "Qwen3ForCausalLM"
    mixers, mlps, norms = (AttentionConfig,), (SwiGLUConfig,), (RMSNormConfig,)
    defaults = {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096,
        "max_window_layers": 28,
    }  # fmt: skip

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        attention = read_attention(keys, qk_norm=True, bias=keys.flag("attention_bias"))
        return read_stack(keys, windowed(attention, _windows(keys)), mlp=read_swiglu(keys))

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mlp, windows = config.layer_mlps()[0], windows_of(config)
        assert isinstance(mlp, SwiGLUConfig)
        return {
            **stack_keys(config, first_attention(config)),
            **window_keys(config),
            "intermediate_size": mlp.d_ff,
            "max_window_layers": _first_window(windows),
            "layer_types": [FULL if w is None else SLIDING for w in windows],
        }


def _windows(keys: Keys) -> list[int | None]:
    """What each layer sees; a window is honoured where transformers honours it."""
    n = keys.layers("num_hidden_layers")
    types = keys.words("layer_types", layers="num_hidden_layers", among=(FULL, SLIDING))
    window, first = (
        read_window(keys, keys.flag("use_sliding_window")),
        keys.count("max_window_layers", optional=True, zero=True),
    )
    if types is None:
        return [window if i >= first else None for i in range(n)]
    if SLIDING in types and not window:
        expected = f"true, with sliding_window set: layer_types names {SLIDING}"
        keys.refuse("use_sliding_window", keys.get("use_sliding_window"), expected)
    return [window if kind == SLIDING else None for kind in types]


def _first_window(windows: list[int | None]) -> int:
    """The layer from which on all have a window, for readers that know no layer types; past the last if none has."""
    first = len(windows)
    while first and windows[first - 1] is not None:
        first -= 1
    return first
