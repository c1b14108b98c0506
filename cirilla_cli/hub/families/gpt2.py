"""GPT-2: learned positions, LayerNorm, plain GELU; matrices stored as (in, out), queries, keys and values in one."""

from typing import Any

from cirilla_cli.hub.families.base import IDLE, Family, Shape
from cirilla_cli.hub.families.blocks import first_attention
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import Join, Transpose, rule
from cirilla_cli.model.config import DecoderConfig, LearnedPositionsConfig
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import GELUConfig, LayerNormConfig

_GELUS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}
"""Whether an activation is approximated by tanh."""
_OURS, _DISK = "model.layers.{i}", "transformer.h.{i}"
_QKV = [f"{_OURS}.self_attn.{part}_proj" for part in "qkv"]


class GPT2(Family):
    """`GPT2LMHeadModel`."""

    types = ("gpt2",)
    architecture = "GPT2LMHeadModel"
    mixers, mlps, norms = (AttentionConfig,), (GELUConfig,), (LayerNormConfig,)
    prefix = "transformer."
    leftovers = (f"{_DISK}.attn.bias", f"{_DISK}.attn.masked_bias")
    idle = IDLE | {
        "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj", "reorder_and_upcast_attn",
    }  # fmt: skip
    defaults = {
        "n_positions": 1024, "scale_attn_weights": True, "tie_word_embeddings": True, "activation_function": "gelu_new",
    }  # fmt: skip
    rules = (
        rule("model.embed_tokens.weight", "transformer.wte.weight"),
        rule("model.embed_positions.weight", "transformer.wpe.weight"),
        rule("model.norm.{own}", "transformer.ln_f.{own}"),
        rule(f"{_OURS}.input_layernorm.{{own}}", f"{_DISK}.ln_1.{{own}}"),
        rule(f"{_OURS}.post_attention_layernorm.{{own}}", f"{_DISK}.ln_2.{{own}}"),
        rule([f"{name}.weight" for name in _QKV], f"{_DISK}.attn.c_attn.weight", Join(3), Transpose()),
        rule([f"{name}.bias" for name in _QKV], f"{_DISK}.attn.c_attn.bias", Join(3)),
        rule(f"{_OURS}.self_attn.o_proj.weight", f"{_DISK}.attn.c_proj.weight", Transpose()),
        rule(f"{_OURS}.self_attn.o_proj.bias", f"{_DISK}.attn.c_proj.bias"),
        rule(f"{_OURS}.mlp.up_proj.weight", f"{_DISK}.mlp.c_fc.weight", Transpose()),
        rule(f"{_OURS}.mlp.up_proj.bias", f"{_DISK}.mlp.c_fc.bias"),
        rule(f"{_OURS}.mlp.down_proj.weight", f"{_DISK}.mlp.c_proj.weight", Transpose()),
        rule(f"{_OURS}.mlp.down_proj.bias", f"{_DISK}.mlp.c_proj.bias"),
        rule("lm_head.weight", "lm_head.weight"),
    )

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("quantization_config", (None,), "absent: quantised weights cannot be trained")
        keys.only("scale_attn_by_inverse_layer_idx", (False, None), "false: all layers scale alike")
        keys.only("add_cross_attention", (False, None), "false: there is no encoder to look at")
        heads, width = keys.count("n_head"), keys.count("n_embd")
        if width % heads:
            keys.refuse("n_head", heads, f"a divisor of n_embd ({width})", "n_embd")
        attention = AttentionConfig(
            n_heads=heads,
            head_dim=max(1, width // heads),
            rope=None,
            bias=True,
            out_bias=True,
            scale=None if keys.flag("scale_attn_weights") else 1.0,
        )
        return DecoderConfig(
            vocab_size=keys.count("vocab_size"),
            d_model=width,
            n_layers=keys.layers("n_layer"),
            context_length=keys.count("n_positions"),
            mixers={"A": attention},
            positions=LearnedPositionsConfig(),
            mlp=self._mlp(keys, keys.count("n_inner", optional=True) or 4 * width),
            norm=LayerNormConfig(eps=keys.number("layer_norm_epsilon", 1e-5)),
            tie_embeddings=keys.flag("tie_word_embeddings"),
            init_std=keys.number("initializer_range", 0.02),
        )

    def _mlp(self, keys: Keys, width: int) -> GELUConfig:
        return GELUConfig(d_ff=width, bias=True, tanh=keys.choice("activation_function", _GELUS, True))

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        mlp, norm = config.layer_mlps()[0], config.norm
        assert isinstance(mlp, GELUConfig)
        assert isinstance(norm, LayerNormConfig)
        return {
            "vocab_size": config.vocab_size,
            "n_positions": config.context_length,
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": first_attention(config).n_heads,
            "n_inner": mlp.d_ff,
            "activation_function": "gelu_new" if mlp.tanh else "gelu",
            "layer_norm_epsilon": norm.eps,
            "initializer_range": config.init_std,
            "scale_attn_weights": first_attention(config).scale != 1.0,
            "tie_word_embeddings": config.tie_embeddings,
            "use_cache": True,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
