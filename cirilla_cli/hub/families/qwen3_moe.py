"""Qwen3 with experts: normalised queries and keys, experts behind a softmax, dense feed-forwards in first layers."""

from typing import Any

from cirilla_cli.hub.families.base import IDLE, Family, Shape
from cirilla_cli.hub.families.blocks import (
    first_attention,
    read_attention,
    read_stack,
    read_swiglu,
    read_window,
    stack_keys,
    window_keys,
    windowed,
)
from cirilla_cli.hub.families.experts import expert_rules, experts_of, softmax_experts
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import SAME
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.routing import SoftmaxRouterConfig
from cirilla_cli.model.sections import MoEConfig, RMSNormConfig, SwiGLUConfig


class Qwen3Moe(Family):
    """`Qwen3MoeForCausalLM`."""

    types = ("qwen3_moe",)
    architecture = "Qwen3MoeForCausalLM"
    mixers, mlps, norms = (AttentionConfig,), (MoEConfig,), (RMSNormConfig,)
    first_mlps = (SwiGLUConfig,)
    idle = IDLE | {"output_router_logits", "router_aux_loss_coef", "max_window_layers"}
    defaults = {
        "max_position_embeddings": 32768, "num_key_value_heads": 4, "sliding_window": 4096, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    }  # fmt: skip
    rules = (*expert_rules("mlp", "gate_proj", "up_proj", "down_proj"), SAME)

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("decoder_sparse_step", (1,), "1: experts are in every layer but the first ones")
        windows = [read_window(keys, keys.flag("use_sliding_window"))] * keys.layers("num_hidden_layers")
        attention = read_attention(keys, qk_norm=True, bias=keys.flag("attention_bias"))
        dense = read_swiglu(keys)
        mlp = softmax_experts(
            keys,
            *("num_experts", "num_local_experts"),
            d_ff=keys.count("moe_intermediate_size"),
            renormalise=keys.flag("norm_topk_prob"),
        )
        if first := self._dense_layers(keys):
            mlp = mlp.model_copy(update={"dense_layers": first, "dense": dense})
        return read_stack(keys, windowed(attention, windows), mlp=mlp)

    def _dense_layers(self, keys: Keys) -> int:
        layers, n = keys.get("mlp_only_layers"), keys.layers("num_hidden_layers")
        if layers is None:
            return 0
        if not isinstance(layers, list) or layers != list(range(len(layers))) or len(layers) >= n:
            keys.lack("mlp_only_layers", layers, f"a list of the first layers, counted from 0, fewer than all {n}")
            return 0
        return len(layers)

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mlp = experts_of(config)
        dense = mlp.dense.d_ff if isinstance(mlp.dense, SwiGLUConfig) else mlp.d_ff
        return {
            **stack_keys(config, first_attention(config)),
            **window_keys(config),
            "intermediate_size": dense,
            "moe_intermediate_size": mlp.d_ff,
            "num_experts": mlp.n_experts,
            "num_local_experts": mlp.n_experts,
            "num_experts_per_tok": mlp.top_k,
            "norm_topk_prob": isinstance(mlp.router, SoftmaxRouterConfig) and mlp.router.renormalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(mlp.dense_layers)),
        }
