"""What a model computes, as plain values to compare: two configurations are one function if these are equal."""

from collections.abc import Iterator, Mapping
from typing import Any

from cirilla_cli.model.config import AttentionConfig, MixerSection, StackConfig
from cirilla_cli.model.sections import NTKRopeConfig, RopeConfig, RopeSection, YarnRopeConfig

_PER_LAYER = {"mixers", "pattern", "mlp"}
_NOT_PUBLISHED = {"dropout"}
"""Only of use while training; no public architecture is told apart by it."""


def shape_of(config: StackConfig) -> dict[str, Any]:
    """Every value that decides what a model computes, defaults resolved, layer by layer."""
    whole = config.model_dump(exclude=_PER_LAYER | _NOT_PUBLISHED)
    mixers = [_mixer(mixer, config.d_model) for mixer in config.layer_mixers()]
    whole["mixer"] = dict(enumerate(mixers))
    whole["mlp"] = {i: mlp.model_dump() for i, mlp in enumerate(config.layer_mlps())}
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
        if ours != theirs:
            yield path, ours, theirs
        return
    if ours.get("kind") != theirs.get("kind"):
        yield (*path, "kind"), ours.get("kind"), theirs.get("kind")
        return
    for key in {**ours, **theirs}:
        yield from _walk(ours.get(key), theirs.get(key), (*path, str(key)))


def _shown(value: Any) -> str:
    return repr(value.get("kind", "set")) if isinstance(value, Mapping) else repr(value)


def _mixer(mixer: MixerSection, d_model: int) -> dict[str, Any]:
    values = mixer.model_dump()
    if isinstance(mixer, AttentionConfig):
        width = mixer.width(d_model)
        values["n_kv_heads"], values["head_dim"] = mixer.kv_heads, width
        values["scale"] = mixer.scale or width**-0.5
        values["rope"] = _rope(mixer.rope, width)
    return values


def _rope(rope: RopeSection | None, head_dim: int) -> dict[str, Any] | None:
    if rope is None:
        return None
    values = plain_rope(rope, head_dim).model_dump()
    if isinstance(rope, YarnRopeConfig):
        values["attention_factor"] = rope.attention_scale()
    return values
