"""Public architectures: which one a model is, its config.json both ways, its tensors both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from cirilla_cli.checkpoint import Config
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.hub.families.base import Family, Shape
from cirilla_cli.hub.families.classifiers import (
    against_classifier,
    architecture_of,
    classifier_keys,
    classifier_layout,
    is_classifier,
    read_classifier,
    trunk_of,
)
from cirilla_cli.hub.families.deepseek_v3 import DeepseekV3
from cirilla_cli.hub.families.gpt2 import GPT2
from cirilla_cli.hub.families.granite_hybrid import GraniteHybrid
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.llama import Llama
from cirilla_cli.hub.families.mistral import Mistral
from cirilla_cli.hub.families.mixtral import Mixtral
from cirilla_cli.hub.families.modernbert import ModernBert
from cirilla_cli.hub.families.qwen3 import Qwen3
from cirilla_cli.hub.families.qwen3_moe import Qwen3Moe
from cirilla_cli.hub.families.rules import Move, moves, to_disk, to_ours
from cirilla_cli.model.config import ClassifierConfig

__all__ = [
    "FAMILIES",
    "Family",
    "Shape",
    "architecture_of",
    "family_in",
    "family_of",
    "from_hf",
    "plan_of",
    "to_disk",
    "to_hf",
    "to_ours",
    "trunk_of",
    "types",
]

FAMILIES: tuple[Family, ...] = (
    Llama(), Mistral(), Qwen3(), Mixtral(), Qwen3Moe(), DeepseekV3(), GraniteHybrid(), GPT2(), ModernBert(),
)  # fmt: skip
"""In the order in which a model is tried on them."""

_DAMAGED = "the file is damaged, or was changed by hand: download the model again"
_FOREIGN = "cirilla has no such part; docs/model/families.md says what can be read of this architecture"

_MOST_SHOWN = 3
"""Near misses that are explained, and reasons of each."""


def types() -> list[str]:
    """Every `model_type` that can be read."""
    return [name for family in FAMILIES for name in family.types]


def family_in(config: Mapping[str, Any], file: Path) -> Family:
    """The architecture that a config.json names; ``file`` is named in complaints.

    Raises:
        CirillaError: it is none of ours.
    """
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in family.types:
            return family
    known = ", ".join(types())
    wrong = Where(key="model_type", value=model_type, expected=f"one of {known}")
    raise _refusal(file, [wrong], f"models of these types can be read: {known}")


def from_hf(config: Mapping[str, Any], file: Path) -> Config:
    """The model a config.json describes; ``file`` is named in complaints.

    Raises:
        CirillaError: a model we have no shape for; every key in the way is named.
    """
    family = family_in(config, file)
    keys = Keys(config, family.defaults)
    try:
        read = family.read(keys)
        found = read_classifier(read, keys) if is_classifier(config) else read
    except ValidationError as error:
        if not keys.wrong:
            details = "; ".join(str(e.get("ctx", {}).get("error", e["msg"])) for e in error.errors())
            raise CirillaError(f"{file}: no model has this shape: {details}", hint=_DAMAGED) from None
    if keys.wrong:
        raise _refusal(file, keys.wrong, _FOREIGN if keys.foreign else _DAMAGED)
    return found


def family_of(config: Config) -> Family:
    """The public architecture that computes what this model computes.

    Raises:
        CirillaError: there is none; what keeps it from the nearest ones is given.
    """
    trunk = trunk_of(config)
    against = {family: family.against(trunk) or against_classifier(family, config) for family in FAMILIES}
    for family, reasons in against.items():
        if not reasons:
            return family
    # Whoever has words for all the parts is nearer than others, however few those name.
    near = {family: reasons for family, reasons in against.items() if not family.unknown(trunk)}
    raise _native_only(config, near or against)


def to_hf(config: Config) -> dict[str, Any]:
    """The config.json of a model: shape only, no token ids and no number format.

    Raises:
        CirillaError: no public architecture has this shape.
    """
    family = family_of(config)
    named = {"architectures": [architecture_of(family, config)], "model_type": family.model_type}
    own = classifier_keys(config) if isinstance(config, ClassifierConfig) else {}
    return {**named, **family.write(trunk_of(config)), **own}


def plan_of(family: Family, config: Config, tensors: Mapping[str, Tensor]) -> list[Move]:
    """What becomes of each of our ``tensors`` on disk, and back."""
    rules = classifier_layout(family, config) if isinstance(config, ClassifierConfig) else family.layout(config)
    return moves(rules, {name: tensor.shape for name, tensor in tensors.items()})


def _refusal(file: Path, wrong: list[Where], hint: str) -> CirillaError:
    where = [Where(str(file), None, w.key, w.value, w.expected) for w in wrong]
    lines = [f"{file}: `{w.key}` is {_short(w.value)}: expected {w.expected}" for w in wrong]
    return CirillaError("\n".join(lines), hint=hint, where=where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _native_only(config: Config, against: Mapping[Family, list[str]]) -> CirillaError:
    fewest = min(len(reasons) for reasons in against.values())
    nearest = [family for family, reasons in against.items() if len(reasons) == fewest][:_MOST_SHOWN]
    lines = [f"{architecture_of(family, config)}: {'; '.join(against[family][:_MOST_SHOWN])}" for family in nearest]
    return CirillaError(
        "\n".join(["this model has no public architecture; the nearest:", *lines]),
        hint="it can be used with cirilla only (`cirilla generate`); docs/publishing.md lists the shapes that can be "
        "published",
    )
