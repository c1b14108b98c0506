"""Rotary positions in config.json: `rope_parameters` of transformers 5, `rope_scaling` and `rope_theta` before it."""

import math
from collections.abc import Mapping
from typing import Any

from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.shape import plain_rope
from cirilla_cli.model.sections import (
    LinearRopeConfig,
    Llama3RopeConfig,
    NTKRopeConfig,
    RopeConfig,
    RopeSection,
    YarnRopeConfig,
)

_KINDS = "default, linear, llama3 or yarn"
_WHOLE = "1: this architecture turns heads whole"


def read_rope(keys: Keys, theta: float = 10_000.0) -> RopeSection:
    """The rotation a config.json describes; ``theta`` is what the family means by not saying it."""
    said = rope_of(keys)
    theta = keys.number("rope_theta", theta)
    keys.only("partial_rotary_factor", (1, None), _WHOLE)
    several = {name: value for name, value in said.values.items() if isinstance(value, Mapping)}
    for name, value in several.items():
        said.lack(name, value, "a word or a number: one rotation for all layers")
    return RopeConfig(theta=theta) if several else read_one_rope(keys, said, theta)


def rope_of(keys: Keys) -> Keys:
    """The object that describes the rotation, an empty one where there is none."""
    named = ((name, keys.mapping(name)) for name in ("rope_scaling", "rope_parameters"))
    return keys.below(*next((pair for pair in named if pair[1]), ("rope_parameters", {})))


def read_one_rope(keys: Keys, said: Keys, theta: float) -> RopeSection:
    """One rotation, from the object that describes it; what that leaves out stands beside it."""
    said.only("partial_rotary_factor", (1, None), _WHOLE)
    theta, original = said.number("rope_theta", theta), _original(keys, said)
    kind = said.get("rope_type", "type")
    match "default" if kind is None else kind:
        case "default":
            return RopeConfig(theta=theta)
        case "linear":
            return LinearRopeConfig(theta=theta, factor=said.number("factor", least=1.0))
        case "llama3":
            return _llama3(said, theta, original)
        case "yarn" if theta > 1:
            return _yarn(said, theta, original)
        case "yarn":
            (said if "rope_theta" in said.values else keys).refuse(
                "rope_theta", theta, "more than 1, where yarn is used"
            )
        case _:
            said.lack("rope_type", kind, _KINDS)
    return RopeConfig(theta=theta)


def _original(keys: Keys, said: Keys) -> int:
    """The context trained on: named beside the rotation, in it, or the whole one."""
    beside = keys.count("original_max_position_embeddings", optional=True)
    within = said.count("original_max_position_embeddings", optional=True)
    return beside or within or keys.count("max_position_embeddings", optional=True) or 1


def _llama3(said: Keys, theta: float, original: int) -> Llama3RopeConfig:
    factor = said.number("factor", least=1.0)
    low, high = said.number("low_freq_factor"), said.number("high_freq_factor")
    if high <= low:
        said.refuse("high_freq_factor", high, f"more than low_freq_factor ({low:g})", "low_freq_factor")
        low, high = 1.0, 4.0
    return Llama3RopeConfig(
        theta=theta, factor=factor, low_freq_factor=low, high_freq_factor=high, original_context=original
    )


def _yarn(said: Keys, theta: float, original: int) -> YarnRopeConfig:
    factor = said.number("factor", least=1.0)
    ratio, attention = _ratio(said, factor), said.number("attention_factor", 0.0)
    fast, slow = said.number("beta_fast", 32.0), said.number("beta_slow", 1.0)
    if fast < slow:
        said.refuse("beta_fast", fast, f"at least beta_slow ({slow:g})", "beta_slow")
        fast = slow
    return YarnRopeConfig(
        theta=theta, factor=factor, beta_fast=fast, beta_slow=slow, original_context=original,
        attention_factor=attention or ratio, truncate=said.get("truncate") is None or said.flag("truncate"),
    )  # fmt: skip


def _ratio(said: Keys, factor: float) -> float | None:
    """What queries and keys are multiplied with where the checkpoint states two scales, as DeepSeek's do."""
    of_turned, of_all = said.number("mscale", 0.0), said.number("mscale_all_dim", 0.0)
    if not (of_turned and of_all):
        return None
    return (0.1 * of_turned * math.log(factor) + 1.0) / (0.1 * of_all * math.log(factor) + 1.0)


def rope_keys(rope: RopeSection, head_dim: int, **more: Any) -> dict[str, Any]:
    """Both spellings: readers that know only the other one would fall back to 10000 without a word.

    ``more`` goes beside what the rotation itself says.
    """
    rope = plain_rope(rope, head_dim)
    said = {"rope_type": "default", **_said(rope), **more}
    keys: dict[str, Any] = {"rope_parameters": {"rope_theta": rope.theta, **said}, "rope_theta": rope.theta}
    return keys if said["rope_type"] == "default" else {**keys, "rope_scaling": said}


def _said(rope: RopeSection) -> dict[str, Any]:
    match rope:
        case RopeConfig() | NTKRopeConfig():
            return {}
        case LinearRopeConfig():
            return {"rope_type": "linear", "factor": rope.factor}
        case Llama3RopeConfig():
            return {
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": rope.original_context,
            }
        case YarnRopeConfig():
            return {
                "rope_type": "yarn",
                "factor": rope.factor,
                "beta_fast": rope.beta_fast,
                "beta_slow": rope.beta_slow,
                "original_max_position_embeddings": rope.original_context,
                **({} if rope.attention_factor is None else {"attention_factor": rope.attention_factor}),
                "truncate": rope.truncate,
            }
