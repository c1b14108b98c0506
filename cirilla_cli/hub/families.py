"""Which public architecture a model is: Hugging Face's config.json to a `DecoderConfig` and back, by one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.model.config import AttentionConfig, DecoderConfig, MixerSection
from cirilla_cli.model.sections import RMSNormConfig, RopeConfig, SwiGLUConfig

FULL, SLIDING = "full_attention", "sliding_attention"

_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "silu, the only activation of our gated feed-forward"),
    "attention_bias": ((False, None), "false: our projections have no bias"),
    "mlp_bias": ((False, None), "false: our feed-forward has no bias"),
    "pretraining_tp": ((1, None), "1: a model split for training is not supported"),
    "partial_rotary_factor": ((1, None), "1: our heads are rotated whole"),
    "rope_interleaved": ((False, None), "false: our heads rotate their halves, not neighbours"),
    "quantization_config": ((None,), "absent: quantised weights cannot be trained; take the original model"),
}
"""Keys whose other values describe a model that ours is not."""


@dataclass(frozen=True)
class Family:
    """One public architecture: its names, and what its config.json means by leaving a key out (transformers 5)."""

    model_type: str
    architecture: str
    qk_norm: bool
    context: int
    """`max_position_embeddings` when absent."""
    defaults: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "LlamaForCausalLM", False, 2048),
        Family("mistral", "MistralForCausalLM", False, 131072, {"num_key_value_heads": 8, "sliding_window": 4096}),
        Family("qwen3", "Qwen3ForCausalLM", True, 32768, {"num_key_value_heads": 32, "head_dim": 128}),
    )
}


# config.json -> DecoderConfig


def from_hf(config: Mapping[str, Any], file: Path) -> DecoderConfig:
    """The model a config.json describes; ``file`` is named in complaints.

    Raises:
        CirillaError: a model we have no shape for; every key in the way is named.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise _refusal(file, [_where(config, "model_type", f"one of {', '.join(FAMILIES)}")])
    wrong = [_where(config, key, "a whole number") for key in _NEEDED if not _is_count(config.get(key))]
    wrong += [_where(config, key, says) for key, (good, says) in _ONLY.items() if config.get(key) not in good]
    wrong += _wrong_rope(config) + _wrong_layers(config, family)
    if wrong:
        raise _refusal(file, wrong)
    try:
        return _decoder(config, family)
    except ValidationError as error:
        details = "; ".join(str(e["msg"]) for e in error.errors())
        raise CirillaError(f"{file}: no model has this shape: {details}") from None


def _decoder(config: Mapping[str, Any], family: Family) -> DecoderConfig:
    mixers, pattern = _mixers(config, family)
    return DecoderConfig(
        vocab_size=config["vocab_size"],
        d_model=config["hidden_size"],
        n_layers=config["num_hidden_layers"],
        context_length=config.get("max_position_embeddings") or family.context,
        mixers=mixers,
        pattern=pattern,
        mlp=SwiGLUConfig(d_ff=config["intermediate_size"]),
        norm=RMSNormConfig(eps=float(config.get("rms_norm_eps", 1e-6))),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        init_std=float(config.get("initializer_range") or 0.02),
    )


def _mixers(config: Mapping[str, Any], family: Family) -> tuple[dict[str, MixerSection], str]:
    """Mixers by letter and their pattern: A alone where all layers are alike, else A sees all and L a window."""
    windows = _windows(config, family)
    distinct = set(windows)
    if len(distinct) == 1:
        return {"A": _mixer(config, family, windows[0])}, "A"
    letters = {window: "A" if window is None else "L" for window in distinct}
    mixers = {letters[window]: _mixer(config, family, window) for window in windows}
    return mixers, "".join(letters[window] for window in windows)


def _mixer(config: Mapping[str, Any], family: Family, window: int | None) -> MixerSection:
    heads = config["num_attention_heads"]
    return AttentionConfig(
        n_heads=heads,
        n_kv_heads=_value(config, family, "num_key_value_heads") or heads,
        head_dim=_value(config, family, "head_dim") or config["hidden_size"] // heads,
        window=window,
        rope=RopeConfig(theta=_theta(config)),
        qk_norm=family.qk_norm,
    )


def _windows(config: Mapping[str, Any], family: Family) -> list[int | None]:
    """What each layer sees; a window is honoured where transformers honours it."""
    n, window = int(config["num_hidden_layers"]), _value(config, family, "sliding_window")
    if family.model_type == "llama" or not window:
        return [None] * n
    if family.model_type == "mistral":
        return [window] * n
    if not config.get("use_sliding_window", False):
        return [None] * n
    types = config.get("layer_types")
    if types is None:
        first = int(config.get("max_window_layers", 28))
        return [window if i >= first else None for i in range(n)]
    return [window if kind == SLIDING else None for kind in types]


def _wrong_rope(config: Mapping[str, Any]) -> list[Where]:
    """Rotary embeddings other than the plain ones, under the new key and the old."""
    wrong = []
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key)
        if not rope:
            continue
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
        if kind != "default":
            expected = "default: scaled positions are not supported"
            wrong.append(Where(key=f"{key}.rope_type", value=kind, expected=expected))
        elif rope.get("partial_rotary_factor", 1) != 1:
            part = rope["partial_rotary_factor"]
            expected = _ONLY["partial_rotary_factor"][1]
            wrong.append(Where(key=f"{key}.partial_rotary_factor", value=part, expected=expected))
    return wrong


def _wrong_layers(config: Mapping[str, Any], family: Family) -> list[Where]:
    types = config.get("layer_types")
    if types is None or family.model_type == "llama":
        return []
    if not isinstance(types, list) or not set(types) <= {FULL, SLIDING}:
        return [_where(config, "layer_types", f"a list of {FULL} and {SLIDING}")]
    if len(types) != config.get("num_hidden_layers"):
        return [Where(key="layer_types", value=f"{len(types)} entries", expected="one for each of num_hidden_layers")]
    if family.model_type == "mistral" and len(set(types)) > 1:
        return [_where(config, "layer_types", "one kind for all layers: a Mistral model has no mixed ones")]
    if SLIDING in types and family.qk_norm and not (config.get("use_sliding_window") and config.get("sliding_window")):
        return [_where(config, "use_sliding_window", f"true, with sliding_window set: layer_types names {SLIDING}")]
    return []


def _theta(config: Mapping[str, Any]) -> float:
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key)
        if isinstance(rope, dict) and rope.get("rope_theta"):
            return float(rope["rope_theta"])
    return float(config.get("rope_theta") or 10_000.0)


def _value(config: Mapping[str, Any], family: Family, key: str) -> Any:
    """A key's value, or what the family means by leaving it out; null is a value."""
    return config[key] if key in config else family.defaults.get(key)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _where(config: Mapping[str, Any], key: str, expected: str) -> Where:
    return Where(key=key, value=config.get(key), expected=expected)


def _refusal(file: Path, wrong: list[Where]) -> CirillaError:
    where = [Where(str(file), None, w.key, w.value, w.expected) for w in wrong]
    lines = [f"{file}: `{w.key}` is {w.value!r}: expected {w.expected}" for w in wrong]
    return CirillaError("\n".join(lines), hint="models of the llama, qwen3 and mistral types can be read", where=where)


# DecoderConfig -> config.json


def family_of(config: DecoderConfig) -> Family:
    """The public architecture that computes what this model computes.

    Raises:
        CirillaError: there is none; the reason is given.
    """
    layers = config.layer_mixers()
    if len({_shape(mixer, config.d_model) for mixer in layers}) > 1:
        raise _native_only("its layers differ in heads, head_dim, rope_theta or qk_norm")
    windows = {mixer.window for mixer in layers}
    if len(windows - {None}) > 1:
        raise _native_only(f"its layers have windows of different lengths ({_listed(windows)})")
    if layers[0].qk_norm:
        return FAMILIES["qwen3"]
    if len(windows) > 1:
        raise _native_only("it mixes windowed and full layers without qk_norm")
    # Llama wants d_model to be a multiple of the heads even where head_dim is set; Mistral without a window does not.
    plain = windows == {None} and config.d_model % layers[0].n_heads == 0
    return FAMILIES["llama" if plain else "mistral"]


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The config.json of a model: shape only, no token ids and no number format.

    Raises:
        CirillaError: no public architecture has this shape.
    """
    family, mixer = family_of(config), config.layer_mixers()[0]
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.width(config.d_model),
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "initializer_range": config.init_std,
        "rms_norm_eps": _eps(config),
        # transformers 5 reads the first, everything older the second; without it readers fall back to 10000 silently.
        "rope_parameters": {"rope_type": "default", "rope_theta": mixer.rope.theta if mixer.rope else None},
        "rope_theta": mixer.rope.theta if mixer.rope else None,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "attention_dropout": 0.0,
        **_family_keys(config, family),
    }


def _family_keys(config: DecoderConfig, family: Family) -> dict[str, Any]:
    windows = [mixer.window for mixer in config.layer_mixers()]
    window = next((w for w in windows if w is not None), None)
    if family.model_type == "llama":
        return {"attention_bias": False, "mlp_bias": False}
    if family.model_type == "mistral":
        return {"sliding_window": window}
    return {
        "attention_bias": False,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": _first_window(windows),
        "layer_types": [FULL if w is None else SLIDING for w in windows],
    }


def _eps(config: DecoderConfig) -> float:
    if not isinstance(config.norm, RMSNormConfig):
        raise _native_only(f"its norm is of kind {config.norm.kind}")
    return config.norm.eps


def _first_window(windows: list[int | None]) -> int:
    """The layer from which on all have a window, for readers that know no layer types; past the last if none has."""
    first = len(windows)
    while first and windows[first - 1] is not None:
        first -= 1
    return first


def _shape(mixer: MixerSection, d_model: int) -> tuple[Any, ...]:
    return mixer.n_heads, mixer.kv_heads, mixer.width(d_model), mixer.rope, mixer.qk_norm


def _listed(windows: set[int | None]) -> str:
    return ", ".join(str(w) for w in sorted(w for w in windows if w is not None))


def _native_only(reason: str) -> CirillaError:
    return CirillaError(
        f"this model has no public architecture: {reason}",
        hint="it can be used with cirilla only; Llama, Mistral and Qwen3 are the shapes that can be published",
    )
