"""What the families of Llama's line have in common: keys of attention, of the feed-forward, of the whole stack."""

from collections.abc import Iterable, Sequence
from typing import Any

from cirilla_cli.hub.families.base import Shape
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rope import read_rope, rope_keys
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.mixers.config import AttentionConfig, MixerSection
from cirilla_cli.model.sections import RMSNormConfig, SwiGLUConfig

SILU = ("silu", "swish"), "silu, the only activation of our gated feed-forward"
UNQUANTISED = (None,), "absent: quantised weights cannot be trained; take the original model"
"""What some keys must be, and why."""


def read_attention(
    keys: Keys, *, qk_norm: bool = False, bias: bool = False, theta: float = 10_000.0
) -> AttentionConfig:
    """One layer's attention, without a window; ``bias`` is that of all its matrices."""
    heads = keys.count("num_attention_heads")
    kv_heads = keys.count("num_key_value_heads", optional=True) or heads
    if heads % kv_heads:
        keys.refuse(
            "num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})", "num_attention_heads"
        )
        kv_heads = heads
    return AttentionConfig(
        n_heads=heads, n_kv_heads=kv_heads, head_dim=_width(keys, heads), rope=read_rope(keys, theta), qk_norm=qk_norm,
        bias=bias, out_bias=bias,
    )  # fmt: skip


def _width(keys: Keys, heads: int) -> int:
    """Width of one head, which turns in pairs."""
    said, whole = keys.count("head_dim", optional=True), keys.count("hidden_size")
    width = said or whole // heads
    if width and not width % 2:
        return width
    if said:
        keys.refuse("head_dim", said, "an even number")
    else:
        expected = f"num_attention_heads ({heads}) times an even number, as head_dim is absent"
        keys.refuse("hidden_size", whole, expected, "num_attention_heads")
    return 2


def read_window(keys: Keys, used: bool = True) -> int | None:
    """The window of the layers that have one; None where none has, or it is not ``used``."""
    window = keys.count("sliding_window", optional=True)
    if used and window == 1:
        keys.lack("sliding_window", 1, "2 or more: with 1, caches of other programs keep every position")
    return window if used and window else None


def windowed(attention: AttentionConfig, windows: Iterable[int | None]) -> list[MixerSection]:
    """The same attention in every layer, but for its window."""
    return [attention.model_copy(update={"window": window}) for window in windows]


def read_swiglu(keys: Keys, width: str = "intermediate_size") -> SwiGLUConfig:
    """The gated feed-forward of ``width``."""
    keys.only("hidden_act", *SILU)
    return SwiGLUConfig(d_ff=keys.count(width))


def read_stack(keys: Keys, layers: Sequence[MixerSection], **parts: Any) -> DecoderConfig:
    """A decoder of these mixers; ``parts`` has its feed-forward and whatever else is not said by common keys."""
    keys.only("quantization_config", *UNQUANTISED)
    mixers, pattern = lettered(layers)
    return DecoderConfig(
        vocab_size=keys.count("vocab_size"),
        d_model=keys.count("hidden_size"),
        n_layers=len(layers),
        context_length=keys.count("max_position_embeddings"),
        mixers=mixers,
        pattern=pattern,
        norm=RMSNormConfig(eps=keys.number("rms_norm_eps", 1e-6)),
        tie_embeddings=keys.flag("tie_word_embeddings"),
        init_std=keys.number("initializer_range", 0.02),
        **parts,
    )


def lettered(layers: Sequence[MixerSection]) -> tuple[dict[str, MixerSection], str]:
    """Mixers by letter and their pattern: one letter alone where all layers are alike."""
    letters: dict[str, MixerSection] = {}
    names = []
    for mixer in layers:
        known = next((letter for letter, other in letters.items() if other == mixer), None)
        names.append(known or _letter(mixer, letters))
        letters.setdefault(names[-1], mixer)
    same = len(letters) == 1
    if same and len(layers) > 1 and isinstance(layers[0], AttentionConfig):
        return {"A": layers[0]}, "A"
    return letters, names[0] if same else "".join(names)


def _letter(mixer: MixerSection, taken: dict[str, MixerSection]) -> str:
    """L for attention with a window, else the first letter of the kind, else the first that is free."""
    local = isinstance(mixer, AttentionConfig) and mixer.window is not None
    wanted = "L" if local else mixer.kind[0].upper()
    return next(letter for letter in f"{wanted}BCDEFGHIJKNOPQRSTUVWXYZ" if letter not in taken)


def whole_keys(config: Shape) -> dict[str, Any]:
    """Keys of the whole stack, whatever its mixers are."""
    assert isinstance(config.norm, RMSNormConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "initializer_range": config.init_std,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "attention_dropout": 0.0,
    }


def stack_keys(config: Shape, attention: AttentionConfig) -> dict[str, Any]:
    """The same with those of grouped-query attention; ``attention`` is that of any layer."""
    width = attention.width(config.d_model)
    return {
        **whole_keys(config),
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": width,
        **(rope_keys(attention.rope, width) if attention.rope else {}),
    }


def window_keys(config: Shape) -> dict[str, Any]:
    """Keys of an optional window and of biases, as Qwen3 has them."""
    window = next((window for window in windows_of(config) if window is not None), None)
    return {
        "attention_bias": first_attention(config).bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def first_attention(config: Shape) -> AttentionConfig:
    """The attention of the first layer that has one."""
    return next(mixer for mixer in config.layer_mixers() if isinstance(mixer, AttentionConfig))


def windows_of(config: Shape) -> list[int | None]:
    """What each layer's attention sees."""
    return [mixer.window if isinstance(mixer, AttentionConfig) else None for mixer in config.layer_mixers()]
