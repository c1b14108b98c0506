"""DeepSeek-V3 and Kimi K2: latent attention, experts behind sigmoids that a bias balances, dense first layers."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from cirilla_cli.hub.families.base import IDLE, Family, Shape
from cirilla_cli.hub.families.blocks import SILU, read_stack, whole_keys
from cirilla_cli.hub.families.experts import expert_rules, experts_of
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rope import read_rope, rope_keys, rope_of
from cirilla_cli.hub.families.rules import SAME, Interleave, Rule, rule
from cirilla_cli.model.config import ChainedMTPConfig, DecoderConfig
from cirilla_cli.model.mixers.config import LatentAttentionConfig
from cirilla_cli.model.routing import SigmoidRouterConfig
from cirilla_cli.model.sections import MoEConfig, RMSNormConfig, SwiGLUConfig, YarnRopeConfig

_LAYER = "model.layers.{i}"
_ATTENTION = f"{_LAYER}.self_attn"
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_COPY = re.compile(r"embed_tokens\..+|shared_head\.head\..+")
"""What a step has of the embedding and the head."""


class DeepseekV3(Family):
    """`DeepseekV3ForCausalLM`; rows that turn are neighbours on disk and halves here."""

    types = ("deepseek_v3", "kimi_k2")
    architecture = "DeepseekV3ForCausalLM"
    mixers, mlps, norms = (LatentAttentionConfig,), (MoEConfig,), (RMSNormConfig,)
    first_mlps = (SwiGLUConfig,)
    idle = IDLE | {
        "output_router_logits", "head_dim", "qk_head_dim",
        "aux_loss_alpha", "seq_aux", "ep_size", "auto_map",
    }  # fmt: skip
    defaults = {
        "max_position_embeddings": 4096, "n_shared_experts": 1, "n_routed_experts": 256, "routed_scaling_factor": 2.5,
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
        "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "norm_topk_prob": True,
        "moe_intermediate_size": 2048,
    }  # fmt: skip

    def layout(self, config: Shape) -> Sequence[Rule]:
        """The rules for this very model: how many heads there are, and how much of them turns."""
        mixer = _latent(config)
        heads, shared = (Interleave(n, mixer.qk_rope_head_dim) for n in (mixer.n_heads, 1))
        rules = (
            *(_turned("q_proj", heads), _turned("q_b_proj", heads), _turned("kv_a_proj_with_mqa", shared)),
            *expert_rules("mlp", "gate_proj", "up_proj", "down_proj"),
        )
        further = (_step_rules(rules, k, config.n_layers + k) for k in range(_depth(config)))
        return (*rules, *chain.from_iterable(further), SAME)

    def settled(self, config: Shape, names: Collection[str]) -> Shape:
        """A configuration that names further steps stands on many disks without them."""
        first = f"model.layers.{config.n_layers}."
        return config if any(name.startswith(first) for name in names) else config.changed(mtp=None)

    def passes_over(self, name: str, config: Shape) -> bool:
        """Layers past the last, where they are no steps of ours, and their copies of embedding and head."""
        found = _IN_LAYER.fullmatch(name)
        if found is None or int(found[1]) < config.n_layers:
            return super().passes_over(name, config)
        return int(found[1]) >= config.n_layers + _depth(config) or _COPY.fullmatch(found[2]) is not None

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("hidden_act", *SILU)
        keys.only("rope_interleave", (True,), "true: rows that turn are neighbours")
        keys.only("scoring_func", ("sigmoid",), "sigmoid")
        keys.only("topk_method", ("noaux_tc",), "noaux_tc")
        keys.only("moe_layer_freq", (1,), "1: experts are in every layer but the first ones")
        keys.only("pretraining_tp", (1, None), "1: a model split for training is not supported")
        heads = keys.count("num_attention_heads")
        keys.only("num_key_value_heads", (heads, None), f"{heads}: as many as heads")
        layers = [self._attention(keys, heads)] * keys.layers("num_hidden_layers")
        depth = keys.count("num_nextn_predict_layers", "num_mtp_layers", optional=True, zero=True)
        if depth >= keys.count("max_position_embeddings"):
            keys.refuse(
                "num_nextn_predict_layers", depth, "less than max_position_embeddings", "max_position_embeddings"
            )
            depth = 0
        mtp = ChainedMTPConfig(depth=depth) if depth else None
        return read_stack(keys, layers, mlp=self._experts(keys), mtp=mtp)

    def _attention(self, keys: Keys, heads: int) -> LatentAttentionConfig:
        turned = keys.count("qk_rope_head_dim")
        if turned % 2:
            keys.refuse("qk_rope_head_dim", turned, "an even number")
        rope, said = read_rope(keys), rope_of(keys)
        return LatentAttentionConfig(
            n_heads=heads,
            q_lora_rank=keys.count("q_lora_rank", optional=True) or None,
            kv_lora_rank=keys.count("kv_lora_rank"),
            qk_nope_head_dim=keys.count("qk_nope_head_dim"),
            qk_rope_head_dim=turned + turned % 2,
            v_head_dim=keys.count("v_head_dim"),
            rope=rope,
            bias=keys.flag("attention_bias"),
            mscale_all_dim=said.number("mscale_all_dim", 0.0) or None if isinstance(rope, YarnRopeConfig) else None,
        )

    def _experts(self, keys: Keys) -> MoEConfig:
        width, dense = keys.count("moe_intermediate_size"), SwiGLUConfig(d_ff=keys.count("intermediate_size"))
        most = keys.layers("num_hidden_layers") - 1
        first = keys.count("first_k_dense_replace", zero=True, most=most, by=["num_hidden_layers"])
        count = keys.count("n_routed_experts", "num_local_experts")
        groups, kept, reached = _groups(keys, count)
        router = SigmoidRouterConfig(
            renormalise=keys.flag("norm_topk_prob"),
            scale=keys.number("routed_scaling_factor", 1.0),
            n_groups=groups,
            top_groups=kept,
        )
        return MoEConfig(
            n_experts=count,
            top_k=keys.count("num_experts_per_tok", most=reached, by=["topk_group", "n_group", "n_routed_experts"]),
            d_ff=width,
            router=router,
            shared_d_ff=width * keys.count("n_shared_experts"),
            dense_layers=first,
            dense=dense if first else None,
        )

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mixer, mlp = _latent(config), experts_of(config)
        router = mlp.router if isinstance(mlp.router, SigmoidRouterConfig) else SigmoidRouterConfig()
        return {
            **whole_keys(config),
            "num_attention_heads": mixer.n_heads,
            "num_key_value_heads": mixer.n_heads,
            "q_lora_rank": mixer.q_lora_rank,
            "kv_lora_rank": mixer.kv_lora_rank,
            "qk_nope_head_dim": mixer.qk_nope_head_dim,
            "qk_rope_head_dim": mixer.qk_rope_head_dim,
            "v_head_dim": mixer.v_head_dim,
            "attention_bias": mixer.bias,
            **(rope_keys(mixer.rope, mixer.qk_rope_head_dim, **_scales(mixer)) if mixer.rope else {}),
            "rope_interleave": True,
            "intermediate_size": mlp.dense.d_ff if isinstance(mlp.dense, SwiGLUConfig) else mlp.d_ff,
            "moe_intermediate_size": mlp.d_ff,
            "n_routed_experts": mlp.n_experts,
            "n_shared_experts": (mlp.shared_d_ff or 0) // mlp.d_ff,
            "num_experts_per_tok": mlp.top_k,
            "first_k_dense_replace": mlp.dense_layers,
            "norm_topk_prob": router.renormalise,
            "routed_scaling_factor": router.scale,
            "n_group": router.n_groups,
            "topk_group": router.top_groups,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "num_nextn_predict_layers": _depth(config),
        }


def _latent(config: Shape) -> LatentAttentionConfig:
    mixer = config.layer_mixers()[0]
    assert isinstance(mixer, LatentAttentionConfig)
    return mixer


def _depth(config: Shape) -> int:
    """Steps that predict further tokens, each given the token before."""
    mtp = config.mtp if isinstance(config, DecoderConfig) else None
    return mtp.depth if isinstance(mtp, ChainedMTPConfig) else 0


def _groups(keys: Keys, experts: int) -> tuple[int, int, int]:
    """Groups of experts, how many of them a token's are chosen from, and how many experts those have."""
    groups = keys.count("n_group", optional=True) or 1
    if experts % groups or (groups > 1 and experts // groups < 2):
        expected = f"a divisor of n_routed_experts ({experts}) that leaves groups of two or more"
        keys.refuse("n_group", groups, expected, "n_routed_experts")
        return 1, 1, experts
    kept = keys.count("topk_group", optional=True, most=groups, by=["n_group"]) or 1
    return groups, kept, experts // groups * kept


def _step_rules(rules: Sequence[Rule], step: int, layer: int) -> Iterator[Rule]:
    """A step's tensors are those of a layer past the last, and four more."""
    ours, disk = f"mtp.steps.{step}", f"model.layers.{layer}"
    for one in rules:
        block = (name.replace(_LAYER, f"{ours}.block") for name in one.ours)
        yield Rule(tuple(block), tuple(name.replace(_LAYER, disk) for name in one.disk), one.steps)
    yield rule(f"{ours}.block.{{name}}", f"{disk}.{{name}}")
    yield rule(f"{ours}.norm.weight", f"{disk}.shared_head.norm.weight")
    yield rule(f"{ours}.{{name}}", f"{disk}.{{name}}")


def _turned(name: str, step: Interleave) -> Rule:
    return rule(f"{_ATTENTION}.{name}.{{own}}", f"{_ATTENTION}.{name}.{{own}}", step)


def _scales(mixer: LatentAttentionConfig) -> dict[str, float]:
    """YaRN's two scales as DeepSeek states them: turned parts get their ratio, scores the square of the second."""
    rope, all_dim = mixer.rope, mixer.mscale_all_dim
    if all_dim is None or not isinstance(rope, YarnRopeConfig):
        return {}
    slope = 0.1 * math.log(rope.factor)
    factor = rope.attention_scale()
    turned = (factor * (slope * all_dim + 1.0) - 1.0) / slope if slope else all_dim
    return {"mscale": turned, "mscale_all_dim": all_dim, "attention_factor": factor}
