"""cirilla: a language model's whole life on a budget GPU.

The names in `__all__` are the library's door. They are imported when first asked for, so that importing this package
costs nothing and needs no torch, network or GPU.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cirilla_cli.data.shards import TokenShards
    from cirilla_cli.data.tokenizer import Tokenizer
    from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy
    from cirilla_cli.engine.objectives.dpo import DPO
    from cirilla_cli.engine.trainer import Trainer
    from cirilla_cli.hub.write import write_folder as export_hf
    from cirilla_cli.infer.run import generate
    from cirilla_cli.loading import load_model
    from cirilla_cli.model.config import DecoderConfig as ModelConfig
    from cirilla_cli.model.decoder import Decoder

__version__ = "0.1.0"

__all__ = [
    "DPO", "CrossEntropy", "Decoder", "ModelConfig", "TokenShards", "Tokenizer", "Trainer", "export_hf", "generate",
    "load_model",
]  # fmt: skip

_HOMES = {
    "DPO": ("engine.objectives.dpo", "DPO"),
    "CrossEntropy": ("engine.objectives.cross_entropy", "CrossEntropy"),
    "Decoder": ("model.decoder", "Decoder"),
    "ModelConfig": ("model.config", "DecoderConfig"),
    "TokenShards": ("data.shards", "TokenShards"),
    "Tokenizer": ("data.tokenizer", "Tokenizer"),
    "Trainer": ("engine.trainer", "Trainer"),
    "export_hf": ("hub.write", "write_folder"),
    "generate": ("infer.run", "generate"),
    "load_model": ("loading", "load_model"),
}
"""Where each name of the door is defined: module and name there."""

if not TYPE_CHECKING:  # a checker sees the imports above, and so knows every type and every misspelt name

    def __getattr__(name: str) -> Any:
        """A name of the door, imported now (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, own = _HOMES[name]
        return getattr(import_module(f"{__name__}.{module}"), own)


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted([*__all__, "__version__"])
