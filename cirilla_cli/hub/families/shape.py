"""What a model computes, as plain values to compare: two configurations are one function if these are equal."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cirilla_cli.model.config import StackConfig
from cirilla_cli.model.mixers.config import AttentionConfig, LatentAttentionConfig, Mamba2Config, MixerSection
from cirilla_cli.model.sections import (
    MLPSection,
    MoEConfig,
    NTKRopeConfig,
    RopeConfig,
    RopeSection,
    YarnRopeConfig,
)

_PER_LAYER = {"mixers", "pattern", "mlp"}
_NOT_PUBLISHED = {"dropout"}
"""Only of use while training; no public architecture is told apart by it."""


def shape_of(config: StackConfig) -> dict[str, Any]:
    """Every value that decides what a model computes, defaults resolved, layer by layer."""
    whole = config.model_dump(exclude=_PER_LAYER | _NOT_PUBLISHED)
    mixers = [_mixer(mixer, config.d_model) for mixer in config.layer_mixers()]
    whole["mixer"] = dict(enumerate(mixers))
    whole["mlp"] = {i: _mlp(mlp) for i, mlp in enumerate(config.layer_mlps())}
    return whole


def plain_rope(rope: RopeSection, head_dim: int) -> RopeSection:
    """The same rotation without a kind of its own where it has none in public: NTK's is a larger base."""
    if not isinstance(rope, NTKRopeConfig):
        return rope
    turned = rope.turned(head_dim)
    return RopeConfig(theta=rope.theta * rope.factor ** (turned / max(1, turned - 2)), fraction=rope.fraction)


def differences(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[str]:
    """What is not the same in two shapes, once for each name, in the order of ours."""
    found: dict[str, str] = {}
    for path, mine, other in _walk(ours, theirs, ()):
        name = ".".join(part for part in path if not part.isdigit())
        layer = next((f" in layer {part}" for part in path if part.isdigit()), "")
        found.setdefault(name, f"`{name}` is {_shown(mine)}{layer}, there {_shown(other)}")
    return list(found.values())


def _walk(ours: Any, theirs: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        if not _same(ours, theirs):
            yield path, ours, theirs
        return
    if ours.get("kind") != theirs.get("kind"):
        yield (*path, "kind"), ours.get("kind"), theirs.get("kind")
        return
    for key in {**ours, **theirs}:
        yield from _walk(ours.get(key), theirs.get(key), (*path, str(key)))


def _same(mine: Any, other: Any) -> bool:
    """Equal, but for the last bit of a number that went through its inverse."""
    if isinstance(mine, float) and isinstance(other, float):
        return math.isclose(mine, other, rel_tol=1e-12)
    return bool(mine == other)


def _shown(value: Any) -> str:
    return repr(value.get("kind", "set")) if isinstance(value, Mapping) else repr(value)


def _mixer(mixer: MixerSection, d_model: int) -> dict[str, Any]:
    values = mixer.model_dump()
    match mixer:
        case AttentionConfig():
            width = mixer.width(d_model)
            resolved = {"n_kv_heads": mixer.kv_heads, "head_dim": width, "scale": mixer.scale or width**-0.5}
            return {**values, **resolved, "rope": _rope(mixer.rope, width)}
        case LatentAttentionConfig():
            rope = _rope(mixer.rope, mixer.qk_rope_head_dim)
            return {**values, "rope": rope, "scale": mixer.score_scale(), "mscale_all_dim": None}
        case Mamba2Config():
            return {**values, "head_dim": mixer.width(d_model), "expand": None}
    return values


def _mlp(mlp: MLPSection) -> dict[str, Any]:
    """Of experts without what trains them, and without the first layers, which are layers of their own here."""
    if not isinstance(mlp, MoEConfig):
        return mlp.model_dump()
    values = mlp.model_dump(exclude={"balance", "z_loss", "dense", "dense_layers"})
    values["router"].pop("bias_rate", None)
    return values


def _rope(rope: RopeSection | None, head_dim: int) -> dict[str, Any] | None:
    if rope is None:
        return None
    values = plain_rope(rope, head_dim).model_dump()
    if isinstance(rope, YarnRopeConfig):
        values["attention_factor"] = rope.attention_scale()
    return values
