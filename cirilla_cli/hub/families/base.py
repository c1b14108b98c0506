"""What a public architecture is to us: keys of config.json both ways, names of tensors both ways."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import ValidationError

from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import SAME, Rule, is_named
from cirilla_cli.hub.families.shape import differences, shape_of
from cirilla_cli.model.config import DecoderConfig, EncoderConfig

Shape = DecoderConfig | EncoderConfig
"""Models that public architectures are of."""
FULL, SLIDING = "full_attention", "sliding_attention"

IDLE = frozenset({
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache",
    "return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "problem_type", "id2label",
    "label2id", "is_encoder_decoder", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout",
})  # fmt: skip
"""Keys that say nothing of what a model computes for a token; token ids are read from the tokenizer's files."""


class Family(ABC):
    """One public architecture.

    What it can hold is found by trying: a configuration written as config.json and read back must be the same shape.
    """

    types: ClassVar[tuple[str, ...]]
    """`model_type` of what is read; the first is written."""
    architecture: ClassVar[str]
    """The class in transformers, as `architectures` names it."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What leaving a key of config.json out means, where our reader does not say."""
    rules: ClassVar[tuple[Rule, ...]] = (SAME,)
    """Names and layout of its tensors."""
    leftovers: ClassVar[tuple[str, ...]] = ("{name}.rotary_emb.inv_freq",)
    """Tensors that stand on some disks and follow from the configuration."""
    prefix: ClassVar[str] = "model."
    """What names begin with, and do not in checkpoints saved without a head."""
    idle: ClassVar[frozenset[str]] = IDLE
    """Keys of config.json that make no difference."""
    head: ClassVar[str] = "lm_head.weight"
    """The head's matrix where it is not the embedding, here and on disk."""
    classifies: ClassVar[bool] = True
    """Whether transformers has a classifier of it."""
    whole: ClassVar[type] = DecoderConfig
    mixers: ClassVar[tuple[type, ...]]
    mlps: ClassVar[tuple[type, ...]]
    norms: ClassVar[tuple[type, ...]]
    """Sections it has words for."""
    first_mlps: ClassVar[tuple[type, ...]] = ()
    """Those besides for first layers that are unlike the rest."""

    @abstractmethod
    def read(self, keys: Keys) -> Shape:
        """The model a config.json describes; what stands in the way is noted in ``keys``.

        Raises:
            ValidationError: no model of ours has this shape.
        """

    @abstractmethod
    def write(self, config: Shape) -> dict[str, Any]:
        """The config.json of a model whose sections this family has words for: shape only."""

    @property
    def model_type(self) -> str:
        """The `model_type` that is written."""
        return self.types[0]

    def layout(self, config: Shape) -> Sequence[Rule]:
        """The rules for this very model; sizes may decide."""
        return self.rules

    def settled(self, config: Shape, names: Collection[str]) -> Shape:
        """The configuration, in agreement with what stands on disk."""
        return config

    def passes_over(self, name: str, config: Shape) -> bool:
        """Whether a tensor on disk is not wanted here."""
        return is_named(name, self.leftovers)

    def disk_name(self, name: str) -> str:
        """What one of our tensors that stands alone on disk is called there."""
        return next(move for r in self.rules if (move := r.moved(name, {name: torch.Size((1,))}))).disk[0]

    def against(self, config: Shape) -> list[str]:
        """Why a model is not of this architecture; empty if it is."""
        if unknown := self.unknown(config):
            return unknown
        keys = Keys(self.write(config), self.defaults)
        try:
            theirs = self.read(keys)
        except ValidationError as error:
            return [str(detail["msg"]) for detail in error.errors()]
        wrong = [f"`{where.key}` would be {where.value!r}, must be {where.expected}" for where in keys.wrong]
        return wrong or differences(shape_of(config), shape_of(theirs))

    def unknown(self, config: Shape) -> list[str]:
        """Sections it has no words for."""
        parts: dict[str, list[Any]] = {
            "model": [] if isinstance(config, self.whole) else [config],
            "mixers": [m for m in config.layer_mixers() if not isinstance(m, self.mixers)],
            "mlp": [] if isinstance(config.mlp, self.mlps) else [config.mlp],
            "mlp.dense": [m for m in config.layer_mlps() if not isinstance(m, (*self.mlps, *self.first_mlps))],
            "norm": [] if isinstance(config.norm, self.norms) else [config.norm],
        }
        return [f"`{name}` has the kind {_kinds(odd)}" for name, odd in parts.items() if odd]


def _kinds(sections: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(section.kind) for section in sections))
