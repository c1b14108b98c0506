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
    key, found = next(((k, v) for k in ("rope_scaling", "rope_parameters") if (v := keys.get(k))), ("", {}))
    theta = keys.number("rope_theta", theta)
    keys.only("partial_rotary_factor", (1, None), _WHOLE)
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        keys.refuse(key, found, "one rotation for all layers")
        return RopeConfig(theta=theta)
    return read_one_rope(keys, key, found, theta)


def read_one_rope(keys: Keys, key: str, found: Mapping[str, Any], theta: float) -> RopeSection:
    """One rotation, from the object under ``key``."""
    said = Keys(found)
    said.only("partial_rotary_factor", (1, None), _WHOLE)
    rope = _kind(said, said.number("rope_theta", theta), _original(keys, said))
    for wrong in said.wrong:
        keys.refuse(f"{key}.{wrong.key}", wrong.value, wrong.expected or "")
    return rope


def _original(keys: Keys, said: Keys) -> int:
    """The context trained on: named beside the rotation, in it, or the whole one."""
    beside = keys.count("original_max_position_embeddings", optional=True)
    within = said.count("original_max_position_embeddings", optional=True)
    return beside or within or keys.count("max_position_embeddings", optional=True) or 1


def _kind(said: Keys, theta: float, original: int) -> RopeSection:
    match kind := said.get("rope_type", "type") or "default":
        case "default":
            return RopeConfig(theta=theta)
        case "linear":
            return LinearRopeConfig(theta=theta, factor=said.number("factor"))
        case "llama3":
            return Llama3RopeConfig(
                theta=theta,
                factor=said.number("factor"),
                low_freq_factor=said.number("low_freq_factor"),
                high_freq_factor=said.number("high_freq_factor"),
                original_context=original,
            )
        case "yarn":
            return _yarn(said, theta, original)
    said.refuse("rope_type", kind, _KINDS)
    return RopeConfig(theta=theta)


def _yarn(said: Keys, theta: float, original: int) -> YarnRopeConfig:
    factor, truncate = said.number("factor"), said.get("truncate")
    return YarnRopeConfig(
        theta=theta,
        factor=factor,
        beta_fast=said.number("beta_fast", 32.0),
        beta_slow=said.number("beta_slow", 1.0),
        original_context=original,
        attention_factor=said.number("attention_factor", 0.0) or _ratio(said, factor),
        truncate=truncate is None or bool(truncate),
    )


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
