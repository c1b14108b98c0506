"""ModernBERT: an encoder of layer norms without bias, gated GELU, local layers with a rotation of their own."""

from typing import Any

from cirilla_cli.hub.families.base import FULL, IDLE, SLIDING, Family, Shape
from cirilla_cli.hub.families.blocks import UNQUANTISED, lettered
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rope import read_one_rope, rope_keys
from cirilla_cli.hub.families.rules import SAME, Join, rule
from cirilla_cli.model.config import EncoderConfig
from cirilla_cli.model.mixers.config import AttentionConfig, MixerSection
from cirilla_cli.model.sections import GeGLUConfig, LayerNormConfig

_GELUS = {"gelu": False, "gelu_pytorch_tanh": True}
_LEGACY = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
"""Where older files have a kind's base, and what it is by default."""
_LAYER = "model.layers.{i}"


class ModernBert(Family):
    """`ModernBertForMaskedLM`."""

    types = ("modernbert",)
    architecture = "ModernBertForMaskedLM"
    whole, head = EncoderConfig, "decoder.weight"
    mixers, mlps, norms = (AttentionConfig,), (GeGLUConfig,), (LayerNormConfig,)
    idle = IDLE | {
        "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id", "initializer_cutoff_factor",
        "embedding_dropout", "mlp_dropout", "classifier_dropout", "classifier_pooling", "deterministic_flash_attn",
        "sparse_prediction", "sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad",
    }  # fmt: skip
    defaults = {
        "max_position_embeddings": 8192, "local_attention": 128, "decoder_bias": True, "tie_word_embeddings": True,
        "global_attn_every_n_layers": 3, "hidden_activation": "gelu",
    }  # fmt: skip
    rules = (
        rule("model.embed_tokens.weight", "model.embeddings.tok_embeddings.weight"),
        rule("model.embedding_norm.{own}", "model.embeddings.norm.{own}"),
        rule("model.norm.{own}", "model.final_norm.{own}"),
        rule(f"{_LAYER}.input_layernorm.{{own}}", f"{_LAYER}.attn_norm.{{own}}"),
        rule(f"{_LAYER}.post_attention_layernorm.{{own}}", f"{_LAYER}.mlp_norm.{{own}}"),
        rule([f"{_LAYER}.self_attn.{x}_proj.{{own}}" for x in "qkv"], f"{_LAYER}.attn.Wqkv.{{own}}", Join(3)),
        rule(f"{_LAYER}.self_attn.o_proj.{{own}}", f"{_LAYER}.attn.Wo.{{own}}"),
        rule([f"{_LAYER}.mlp.{x}_proj.{{own}}" for x in ("gate", "up")], f"{_LAYER}.mlp.Wi.{{own}}", Join(2)),
        rule(f"{_LAYER}.mlp.down_proj.{{own}}", f"{_LAYER}.mlp.Wo.{{own}}"),
        SAME,
    )

    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes."""
        keys.only("quantization_config", *UNQUANTISED)
        keys.only("classifier_activation", ("gelu",), "gelu, the activation of our prediction head")
        mixers, pattern = lettered(self._layers(keys))
        return EncoderConfig(
            vocab_size=keys.count("vocab_size"),
            d_model=keys.count("hidden_size"),
            n_layers=keys.layers("num_hidden_layers"),
            context_length=keys.count("max_position_embeddings"),
            mixers=mixers,
            pattern=pattern,
            mlp=GeGLUConfig(
                d_ff=keys.count("intermediate_size"),
                bias=keys.flag("mlp_bias"),
                tanh=keys.choice("hidden_activation", _GELUS, False),
            ),
            norm=LayerNormConfig(eps=keys.number("norm_eps", 1e-5), bias=keys.flag("norm_bias")),
            embedding_norm=True,
            tie_embeddings=keys.flag("tie_word_embeddings"),
            init_std=keys.number("initializer_range", 0.02),
            head_bias=keys.flag("classifier_bias"),
            decoder_bias=keys.flag("decoder_bias"),
        )

    def _layers(self, keys: Keys) -> list[MixerSection]:
        n, every = keys.layers("num_hidden_layers"), keys.count("global_attn_every_n_layers")
        types = keys.words("layer_types", layers="num_hidden_layers", among=(FULL, SLIDING))
        types = [SLIDING if i % every else FULL for i in range(n)] if types is None else types
        kinds = {kind: self._attention(keys, kind) for kind in (FULL, SLIDING)}
        return [kinds[kind] for kind in types]

    def _attention(self, keys: Keys, kind: str) -> AttentionConfig:
        heads, bias = keys.count("num_attention_heads"), keys.flag("attention_bias")
        theta = keys.number(*_LEGACY[kind])
        turned = keys.below("rope_parameters", keys.mapping("rope_parameters"))
        width, odd = divmod(keys.count("hidden_size"), heads)
        if odd or width % 2:
            keys.refuse(
                "num_attention_heads",
                heads,
                "a divisor of hidden_size that leaves an even width for each",
                "hidden_size",
            )
        return AttentionConfig(
            n_heads=heads,
            head_dim=2 if odd or width % 2 else width,
            # As many positions to each side as half of what the key says.
            window=keys.count("local_attention") // 2 + 1 if kind == SLIDING else None,
            rope=read_one_rope(keys, turned.below(kind, turned.mapping(kind)), theta),
            bias=bias,
            out_bias=bias,
            causal=False,
        )

    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model, shape only."""
        assert isinstance(config, EncoderConfig)
        mlp, norm, mixers = config.layer_mlps()[0], config.norm, config.layer_mixers()
        assert isinstance(mlp, GeGLUConfig)
        assert isinstance(norm, LayerNormConfig)
        attentions = [mixer for mixer in mixers if isinstance(mixer, AttentionConfig)]
        window = next((a.window for a in attentions if a.window is not None), None)
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": mlp.d_ff,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": attentions[0].n_heads,
            "max_position_embeddings": config.context_length,
            "hidden_activation": "gelu_pytorch_tanh" if mlp.tanh else "gelu",
            "initializer_range": config.init_std,
            "norm_eps": norm.eps,
            "norm_bias": norm.bias,
            "attention_bias": attentions[0].bias,
            "mlp_bias": mlp.bias,
            "decoder_bias": config.decoder_bias,
            "classifier_bias": config.head_bias,
            "classifier_activation": "gelu",
            "tie_word_embeddings": config.tie_embeddings,
            "local_attention": 128 if window is None else 2 * (window - 1),
            "layer_types": [FULL if a.window is None else SLIDING for a in attentions],
            **_every(attentions),
            **_rope_keys(attentions, config.d_model),
        }


def _every(attentions: list[AttentionConfig]) -> dict[str, Any]:
    """The older word for layer types, where there is one for these."""
    whole = [i for i, attention in enumerate(attentions) if attention.window is None]
    every = whole[1] if len(whole) > 1 else len(attentions)
    return {"global_attn_every_n_layers": every} if whole == list(range(0, len(attentions), every)) else {}


def _rope_keys(attentions: list[AttentionConfig], d_model: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope_parameters": {}}
    for kind, (legacy, theta) in _LEGACY.items():
        alike = (a for a in attentions if (a.window is None) == (kind == FULL))
        attention = next(alike, None)
        said: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        if attention is not None and attention.rope is not None:
            said = rope_keys(attention.rope, attention.width(d_model))
        keys["rope_parameters"][kind] = said["rope_parameters"]
        keys[legacy] = said["rope_parameters"]["rope_theta"]
    return keys
