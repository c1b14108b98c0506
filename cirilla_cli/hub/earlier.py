"""Published models of earlier tools, told by their config.json and refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirilla_cli.errors import CirillaError, Where

_CIRILLA = {"dim", "d_ff", "n_layers", "context_window", "num_experts", "k"}
"""What every `Args` of Cirilla has; its config.json holds them as one object under the first key."""


def refuse_earlier(values: Mapping[str, Any], file: Path) -> None:
    """Raises: CirillaError: the config.json is that of a model of the library Cirilla, which no shape here computes."""
    inner = next(iter(values.values()), None)
    if "model_type" in values or not isinstance(inner, Mapping) or not inner.keys() >= _CIRILLA:
        return
    key = next(iter(values))
    experts = inner["num_experts"]
    raise CirillaError(
        f"{file}: a model of the library Cirilla, whose weights are not read: its experts ({experts} a layer) and its "
        "router have biases, which experts here have not",
        hint="its tokenizer and its data are read (docs/formats.md): train a model of that size on them",
        where=[Where(str(file), None, f"{key}.num_experts", experts, "experts without biases")],
    )
