"""Llama: grouped queries, rotary positions in any scaling, a gated feed-forward; biases where the config says so."""

from typing import Any

from cirilla_cli.hub.families.base import Family, Shape
from cirilla_cli.hub.families.blocks import first_attention, read_attention, read_stack, read_swiglu, stack_keys
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import RMSNormConfig, SwiGLUConfig


class Llama(Family):
    """`LlamaForCausalLM`; our names are its names."""

    types = ("llama",)
    architecture = "LlamaForCausalLM"
    mixers, mlps, norms = (AttentionConfig,), (SwiGLUConfig,), (RMSNormConfig,)
    defaults = {"max_position_embeddings": 2048}

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("pretraining_tp", (1, None), "1: a model split for training is not supported")
        heads = keys.count("num_attention_heads")
        if keys.count("hidden_size") % heads:
            keys.refuse("num_attention_heads", heads, "a divisor of hidden_size in a Llama", "hidden_size")
        attention = read_attention(keys, bias=keys.flag("attention_bias"))
        mlp = read_swiglu(keys).model_copy(update={"bias": keys.flag("mlp_bias")})
        return read_stack(keys, [attention] * keys.layers("num_hidden_layers"), mlp=mlp)

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        attention, mlp = first_attention(config), config.layer_mlps()[0]
        assert isinstance(mlp, SwiGLUConfig)
        return {
            **stack_keys(config, attention),
            "intermediate_size": mlp.d_ff,
            "attention_bias": attention.bias,
            "mlp_bias": mlp.bias,
        }
