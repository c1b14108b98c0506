"""Granite 4 hybrids: Mamba-2 and attention layers, experts beside a shared feed-forward or that alone, four scales."""

import math
from typing import Any

from cirilla_cli.hub.families.base import FULL, IDLE, Family, Shape
from cirilla_cli.hub.families.blocks import SILU, first_attention, read_attention, read_stack, whole_keys
from cirilla_cli.hub.families.experts import softmax_experts
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rope import rope_keys
from cirilla_cli.hub.families.rules import SAME, Join, Rule, rule
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.mixers.config import AttentionConfig, Mamba2Config, MixerSection
from cirilla_cli.model.sections import MLPSection, MoEConfig, RMSNormConfig, SwiGLUConfig

_MAMBA, _ATTENTION = ("mamba", "linear_attention"), ("attention", FULL)
"""What layers are called before transformers 5, and since."""
_SIZES = ("mamba_n_heads", "mamba_d_head", "hidden_size")
_OURS, _DISK = "model.layers.{i}.mlp", "model.layers.{i}"


def _feed_forward_rules(place: str) -> tuple[Rule, Rule]:
    """The feed-forward that every token passes: alone, or beside experts."""
    disk = f"{_DISK}.shared_mlp"
    inward = [f"{place}.gate_proj.weight", f"{place}.up_proj.weight"]
    outward = rule(f"{place}.down_proj.weight", f"{disk}.output_linear.weight")
    return rule(inward, f"{disk}.input_linear.weight", Join(2)), outward


class GraniteHybrid(Family):
    """`GraniteMoeHybridForCausalLM`."""

    types = ("granitemoehybrid",)
    architecture, classifies = "GraniteMoeHybridForCausalLM", False
    mixers, mlps, norms = (AttentionConfig, Mamba2Config), (MoEConfig, SwiGLUConfig), (RMSNormConfig,)
    idle = IDLE | {"output_router_logits", "router_aux_loss_coef", "mamba_expand", "normalization_function"}
    defaults = {
        "max_position_embeddings": 2048, "num_local_experts": 8, "num_experts_per_tok": 2, "mamba_n_heads": 128,
        "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_chunk_size": 256, "mamba_conv_bias": True,
        "mamba_expand": 2, "shared_intermediate_size": 1024, "attention_multiplier": 1.0,
    }  # fmt: skip
    rules = (
        rule(f"{_OURS}.gate.weight", f"{_DISK}.block_sparse_moe.router.layer.weight"),
        rule(f"{_OURS}.experts.gate_up_proj", f"{_DISK}.block_sparse_moe.input_linear.weight"),
        rule(f"{_OURS}.experts.down_proj", f"{_DISK}.block_sparse_moe.output_linear.weight"),
        *_feed_forward_rules(_OURS),
        *_feed_forward_rules(f"{_OURS}.shared_experts"),
        SAME,
    )

    def against(self, config: Shape) -> list[str]:
        """Why a model is not of this architecture: transformers' memory of a text wants a layer of attention."""
        several = any(isinstance(mixer, AttentionConfig) for mixer in config.layer_mixers())
        return super().against(config) if several else self.unknown(config) or ["`pattern` has no attention"]

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("hidden_act", *SILU)
        layers = self._layers(keys)
        return read_stack(
            keys,
            layers,
            mlp=self._mlp(keys),
            embedding_scale=keys.number("embedding_multiplier", 1.0),
            residual_scale=keys.number("residual_multiplier", 1.0),
            logit_scale=1.0 / keys.number("logits_scaling", 1.0),
        )

    def _layers(self, keys: Keys) -> list[MixerSection]:
        n, mamba, attention = keys.layers("num_hidden_layers"), self._mamba(keys), self._attention(keys)
        types = keys.words("layer_types", "layers_block_type", layers="num_hidden_layers", among=(*_MAMBA, *_ATTENTION))
        return [mamba if kind in _MAMBA else attention for kind in types or ["mamba"] * n]

    def _attention(self, keys: Keys) -> AttentionConfig:
        keys.only("position_embedding_type", ("rope", "nope", None), "rope or null")
        bias, turned = keys.flag("attention_bias"), keys.get("position_embedding_type") == "rope"
        attention, scale = read_attention(keys), keys.number("attention_multiplier", 1.0)
        positions = {} if turned else {"rope": None}
        return attention.model_copy(update={"bias": bias, "out_bias": bias, "scale": scale, **positions})

    def _mamba(self, keys: Keys) -> Mamba2Config:
        heads, width = keys.count("mamba_n_heads"), keys.get("mamba_d_head")
        inner = keys.count("mamba_expand") * keys.count("hidden_size")
        head = inner // heads if width in ("auto", None) else keys.count("mamba_d_head")
        if head * heads != inner:
            keys.refuse("mamba_expand", keys.get("mamba_expand"), "mamba_n_heads * mamba_d_head / hidden_size", *_SIZES)
        groups, (least, most) = keys.count("mamba_n_groups"), _limits(keys)
        if heads % groups:
            keys.refuse("mamba_n_groups", groups, f"a divisor of mamba_n_heads ({heads})", "mamba_n_heads")
        return Mamba2Config(
            n_heads=heads,
            head_dim=head,
            d_state=keys.count("mamba_d_state"),
            n_groups=groups,
            d_conv=keys.count("mamba_d_conv"),
            conv_bias=keys.flag("mamba_conv_bias"),
            proj_bias=keys.flag("mamba_proj_bias"),
            dt_min=least,
            dt_max=None if most == math.inf else most,
            norm_eps=keys.number("rms_norm_eps", 1e-6),
            chunk_size=keys.count("mamba_chunk_size"),
        )

    def _mlp(self, keys: Keys) -> MLPSection:
        shared, count = keys.count("shared_intermediate_size"), keys.count("num_local_experts", zero=True)
        width = keys.count("intermediate_size")
        if not count:
            keys.asked.add("num_experts_per_tok")
            return SwiGLUConfig(d_ff=shared)
        return softmax_experts(keys, "num_local_experts", d_ff=width).model_copy(update={"shared_d_ff": shared})

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mixers = config.layer_mixers()
        logits = config.logit_scale if isinstance(config, DecoderConfig) else 1.0
        return {
            **whole_keys(config),
            **_attention_keys(first_attention(config), config.d_model),
            **_mamba_keys(next((m for m in mixers if isinstance(m, Mamba2Config)), None), config.d_model),
            **_mlp_keys(config.layer_mlps()[0]),
            # transformers 5 has other words for these and reads both; older readers know only these.
            "layer_types": ["mamba" if isinstance(m, Mamba2Config) else "attention" for m in mixers],
            "embedding_multiplier": config.embedding_scale,
            "residual_multiplier": config.residual_scale,
            "logits_scaling": 1.0 / logits,
        }


def _limits(keys: Keys) -> tuple[float, float]:
    """Least and greatest step size, of which JSON has no word for infinity: transformers 5 writes an object."""
    said = keys.get("time_step_limit")
    if said is None:
        return 0.0, math.inf
    ends = [math.inf if x == {"__float__": "Infinity"} else x for x in said] if isinstance(said, list) else []
    if (
        len(ends) == 2
        and all(isinstance(x, int | float) for x in ends)
        and 0 <= ends[0] < math.inf
        and max(0, ends[0]) < ends[1]
    ):
        return float(ends[0]), float(ends[1])
    keys.refuse("time_step_limit", said, "two numbers, 0 or more, the second the greater")
    return 0.0, math.inf


def _attention_keys(attention: AttentionConfig, d_model: int) -> dict[str, Any]:
    width = attention.width(d_model)
    return {
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": width,
        "attention_bias": attention.bias,
        "attention_multiplier": attention.scale or width**-0.5,
        "position_embedding_type": "rope" if attention.rope else None,
        **(rope_keys(attention.rope, width) if attention.rope else {}),
    }


def _mamba_keys(mamba: Mamba2Config | None, d_model: int) -> dict[str, Any]:
    if mamba is None:
        return {"mamba_n_heads": 1, "mamba_expand": 1, "mamba_d_head": d_model}
    inner = mamba.n_heads * mamba.width(d_model)
    return {
        "mamba_n_heads": mamba.n_heads,
        "mamba_d_head": mamba.width(d_model),
        "mamba_expand": max(1, inner // d_model),
        "mamba_d_state": mamba.d_state,
        "mamba_n_groups": mamba.n_groups,
        "mamba_d_conv": mamba.d_conv,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.proj_bias,
        "mamba_chunk_size": mamba.chunk_size,
        **({} if mamba.dt_max is None else {"time_step_limit": [mamba.dt_min, mamba.dt_max]}),
    }


def _mlp_keys(mlp: MLPSection) -> dict[str, Any]:
    if isinstance(mlp, MoEConfig):
        return {
            "num_local_experts": mlp.n_experts,
            "num_experts_per_tok": mlp.top_k,
            "intermediate_size": mlp.d_ff,
            "shared_intermediate_size": mlp.shared_d_ff,
        }
    assert isinstance(mlp, SwiGLUConfig)
    return {
        "num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": mlp.d_ff,
        "shared_intermediate_size": mlp.d_ff,
    }  # fmt: skip
