"""Which recipe each verb reads, imported only when asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cirilla_cli.recipe.verbs.base import Recipe

_CLASSES = {
    "scrape": "scrape:ScrapeRecipe",
    "synth": "synth:SynthRecipe",
    "curate": "curate:CurateRecipe",
    "tokenize": "tokenize:TokenizeRecipe",
    "pretrain": "train:PretrainRecipe",
    "sft": "train:SftRecipe",
    "dpo": "train:DpoRecipe",
    "eval": "evaluate:EvalRecipe",
    "generate": "generate:GenerateRecipe",
    "push": "push:PushRecipe",
    "run": "pipeline:PipelineRecipe",
}
VERBS = tuple(_CLASSES)
TRAIN_VERBS = ("pretrain", "sft", "dpo")
_VERB_OF_DATA = {
    "packed_text": "pretrain", "masked_text": "pretrain", "conversations": "sft", "labelled_text": "sft",
    "preferences": "dpo",
}  # fmt: skip


def schema_for(verb: str) -> type[Recipe]:
    """The recipe model of a verb.

    Raises:
        KeyError: there is no such verb.
    """
    module, _, name = _CLASSES[verb].partition(":")
    found: type[Recipe] = getattr(import_module(f"cirilla_cli.recipe.verbs.{module}"), name)
    return found


def verb_of(data: Mapping[str, Any]) -> str | None:
    """The verb a recipe's sections belong to, None if they do not say.

    A train recipe is told by `data.kind`; `eval` alone means the verb, beside `data` or `train` the section of a run.
    """
    if "stages" in data:
        return "run"
    section = data.get("data")
    if isinstance(section, Mapping) and section.get("kind") in _VERB_OF_DATA:
        return _VERB_OF_DATA[section["kind"]]
    for verb in ("scrape", "synth", "curate", "tokenize", "generate", "push"):
        if verb in data:
            return verb
    training = {"model", "data", "objective", "train", "optim", "schedule"} & set(data)
    return "eval" if "eval" in data and not training else None
