"""Classifiers of public architectures: the trunk of a family, and in place of its head a matrix to the labels."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cirilla_cli.checkpoint import Config
from cirilla_cli.hub.families.base import Family, Shape
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import Rule, rule
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, Pooling

_SUFFIX = "ForSequenceClassification"
_POOLINGS: Mapping[str, Pooling] = {"cls": "first", "mean": "mean"}
"""What ModernBERT calls how a document becomes one vector; a decoder's is its last token's, without a word."""


_MOST_LABELS = 1_000_000


def trunk_of(config: Config) -> Shape:
    """The decoder or encoder that a model is, or reads with."""
    return config.base if isinstance(config, ClassifierConfig) else config


def architecture_of(family: Family, config: Config) -> str:
    """The class in transformers."""
    if not isinstance(config, ClassifierConfig):
        return family.architecture
    return re.sub(r"(For[A-Z]\w+|LMHeadModel)$", _SUFFIX, family.architecture)


def is_classifier(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is a classifier's."""
    named = values.get("architectures")
    return isinstance(named, list) and any(str(name).endswith(_SUFFIX) for name in named)


def read_classifier(base: Shape, keys: Keys) -> Config:
    """The classifier a config.json describes, whose trunk has been read; what stands in the way goes to ``keys``."""
    keys.only("problem_type", (None, "single_label_classification"), "single_label_classification: one label a text")
    labels, pooling = _labels(keys), _pooling(base, keys)
    return base if keys.wrong else ClassifierConfig(base=base, labels=labels, pooling=pooling)


def _labels(keys: Keys) -> tuple[str, ...]:
    named = keys.get("id2label")
    if named is None:
        count = keys.count("num_labels", optional=True, most=_MOST_LABELS)
        named = {str(number): f"LABEL_{number}" for number in range(count or 2)}
    numbers = sorted(named, key=str) if isinstance(named, Mapping) else []
    if len(numbers) < 2 or {*map(str, numbers)} != {*map(str, range(len(numbers)))}:
        keys.refuse("id2label", named, "names of two labels or more, numbered from 0")
        return ()
    by_number = {int(number): str(named[number]) for number in numbers}
    labels = tuple(by_number[number] for number in range(len(by_number)))
    if len({*labels}) < len(labels) or not all(label.strip() for label in labels):
        keys.refuse("id2label", named, "names that differ, none of them empty")
    return labels


def _pooling(base: Shape, keys: Keys) -> Pooling:
    if isinstance(base, DecoderConfig):
        return "last"
    return "first" if keys.get("classifier_pooling") is None else keys.choice("classifier_pooling", _POOLINGS, "first")


def classifier_keys(config: ClassifierConfig) -> dict[str, Any]:
    """What config.json says of a classifier beside its trunk."""
    words = [word for word, pooling in _POOLINGS.items() if pooling == config.pooling]
    return {
        "id2label": {str(number): label for number, label in enumerate(config.labels)},
        "label2id": {label: number for number, label in enumerate(config.labels)},
        "problem_type": "single_label_classification",
        **({} if isinstance(config.base, DecoderConfig) else {"classifier_pooling": words[0]}),
    }


def classifier_layout(family: Family, config: ClassifierConfig) -> Sequence[Rule]:
    """The rules of a classifier's tensors."""
    there = "score" if isinstance(config.base, DecoderConfig) else "classifier"
    return (rule("classifier.{own}", f"{there}.{{own}}"), *family.layout(config.base))


def against_classifier(family: Family, config: Config) -> list[str]:
    """Why a model, whose trunk is this family's, is no classifier of it; empty if it is none at all or fits."""
    if not isinstance(config, ClassifierConfig):
        return []
    if not family.classifies:
        return ["transformers has no classifier of this architecture"]
    public = ["last"] if isinstance(config.base, DecoderConfig) else list(_POOLINGS.values())
    if config.pooling in public:
        return []
    remedy = f"train with objective.pooling={public[-1]}"
    return [f"`pooling` is {config.pooling!r}, there {' or '.join(map(repr, public))}: {remedy}"]
