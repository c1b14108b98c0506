"""Mistral: Llama with one window in every layer, or in none; no biases."""

from typing import Any

from cirilla_cli.hub.families.base import FULL, SLIDING, Family, Shape
from cirilla_cli.hub.families.blocks import (
    first_attention,
    read_attention,
    read_stack,
    read_swiglu,
    read_window,
    stack_keys,
    windowed,
    windows_of,
)
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import RMSNormConfig, SwiGLUConfig


def read_one_window(keys: Keys) -> int | None:
    """The window of all layers."""
    types = keys.words("layer_types", layers="num_hidden_layers", among=(FULL, SLIDING))
    if types is not None and len(set(types)) > 1:
        keys.lack("layer_types", types, "one kind for all layers: this architecture has no mixed ones")
    return read_window(keys)


class Mistral(Family):
    """`MistralForCausalLM`; our names are its names."""

    types = ("mistral",)
    architecture = "MistralForCausalLM"
    mixers, mlps, norms = (AttentionConfig,), (SwiGLUConfig,), (RMSNormConfig,)
    defaults = {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096,
    }  # fmt: skip

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        windows = [read_one_window(keys)] * keys.layers("num_hidden_layers")
        return read_stack(keys, windowed(read_attention(keys), windows), mlp=read_swiglu(keys))

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mlp = config.layer_mlps()[0]
        assert isinstance(mlp, SwiGLUConfig)
        window = windows_of(config)[0]
        return {
            **stack_keys(config, first_attention(config)), "intermediate_size": mlp.d_ff, "sliding_window": window,
        }  # fmt: skip
