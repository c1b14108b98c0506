"""Mixtral: Mistral's attention, and experts behind a softmax in every layer."""

from typing import Any

from cirilla_cli.hub.families.base import IDLE, Family, Shape
from cirilla_cli.hub.families.blocks import (
    SILU,
    first_attention,
    read_attention,
    read_stack,
    stack_keys,
    windowed,
    windows_of,
)
from cirilla_cli.hub.families.experts import expert_rules, experts_of, softmax_experts
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.mistral import read_one_window
from cirilla_cli.hub.families.rules import SAME, rule
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import MoEConfig, RMSNormConfig


class Mixtral(Family):
    """`MixtralForCausalLM`."""

    types = ("mixtral",)
    architecture = "MixtralForCausalLM"
    mixers, mlps, norms = (AttentionConfig,), (MoEConfig,), (RMSNormConfig,)
    idle = IDLE | {"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}
    defaults = {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "num_experts_per_tok": 2, "num_local_experts": 8,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    rules = (
        rule("model.layers.{i}.mlp.gate.weight", "model.layers.{i}.block_sparse_moe.gate.weight"),
        *expert_rules("block_sparse_moe", "w1", "w3", "w2"),
        SAME,
    )

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("hidden_act", *SILU)
        windows = [read_one_window(keys)] * keys.layers("num_hidden_layers")
        mlp = softmax_experts(keys, "num_local_experts", d_ff=keys.count("intermediate_size"))
        return read_stack(keys, windowed(read_attention(keys, theta=1e6), windows), mlp=mlp)

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mlp = experts_of(config)
        return {
            **stack_keys(config, first_attention(config)),
            "intermediate_size": mlp.d_ff,
            "num_local_experts": mlp.n_experts,
            "num_experts_per_tok": mlp.top_k,
            "sliding_window": windows_of(config)[0],
        }
