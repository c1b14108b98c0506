"""The shards of labelled texts that a run reads, and the classifier that learns from them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cirilla_cli.checkpoint import Config
from cirilla_cli.data.config import DataSection, LabelledTextConfig, LoadTokenizerConfig, TokenizerSection
from cirilla_cli.data.labelled import label_names, read_labelled, shard_labelled
from cirilla_cli.data.rows import content_hash
from cirilla_cli.data.splits import is_trained_on
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.engine.config import ClassificationConfig, ObjectiveSection, blind_misfits, pairing_problem
from cirilla_cli.engine.shards import Prepared
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_path, read_json, write_json
from cirilla_cli.model.classifier import Classifier, Model
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Progress

NAME = "labelled"
"""What the one source of labelled texts is called among a run's shards."""


def prepare_labelled(
    data: LabelledTextConfig, section: TokenizerSection | None, model: Path | None, made: Path, progress: Progress
) -> Prepared:
    """The texts in ``made/labelled``, by the model's tokenizer, or that of the recipe.

    Raises:
        CirillaError: rows are missing or not understood, or no tokenizer is named.
    """
    if not data.path:
        raise CirillaError("`data` names no source", hint="data.path=rows.jsonl, with `text` and `label` in each row")
    tokenizer = load_tokenizer(_tokenizer_folder(data, section, model, made / "tokenizer"))
    folder = made / NAME
    shard_labelled(data.path, tokenizer, folder, progress, val=data.val)
    return Prepared(tokenizer, {NAME: folder})


def _tokenizer_folder(
    data: LabelledTextConfig, section: TokenizerSection | None, model_folder: Path | None, made: Path
) -> Path:
    """Where the tokenizer lies; one that is to be trained is, from the texts, into ``made``."""
    if model_folder is not None:
        if section is not None:
            raise CirillaError(
                "`tokenizer` is given, but the model is a checkpoint that has its own",
                hint="write `tokenizer: null`, or train a fresh model",
            )
        return model_folder
    if section is None:
        raise CirillaError(
            f"{data.path[0]}: rows must be tokenized, and the recipe names no tokenizer",
            hint="set `tokenizer: {kind: sentencepiece, vocab_size: 8192}`, or start from a checkpoint",
        )
    if isinstance(section, LoadTokenizerConfig):
        return section.path
    made_from = content_hash(section.model_dump(mode="json"), data.val, list(map(hash_path, data.path)))
    marker = made / "made_from.json"
    if not marker.is_file() or read_json(marker) != made_from:
        rows = (row for row in read_labelled(data.path) if is_trained_on(row.key, row.parents, frac=data.val))
        section.build(row.text for row in rows).save(made)
        write_json(marker, made_from)
    return made


def learner(
    model: Model, data: DataSection, objective: ObjectiveSection, prepared: Prepared, *, seed: int, device: torch.device
) -> Model:
    """The model that learns from this data: the given one, or a classifier made of it.

    Raises:
        CirillaError: it can learn nothing from such data.
    """
    check_teachable(model.config, data, objective)
    if not isinstance(objective, ClassificationConfig):
        return model
    return classifier_of(model, label_names(prepared.folders[NAME]), objective, seed=seed, device=device)


def check_teachable(config: Config, data: DataSection, objective: ObjectiveSection) -> None:
    """Raises: CirillaError: a model of this shape can learn nothing from such data."""
    if problem := pairing_problem(config.kind, data.kind, objective.kind):
        raise CirillaError(problem)
    if isinstance(objective, ClassificationConfig) or not isinstance(config, DecoderConfig):
        return
    if blind := blind_misfits(config):
        raise CirillaError("\n".join(f"`{key}` {said}" for key, said in blind.items()))


def learned(config: Config, labels: Sequence[str], objective: ObjectiveSection) -> Config:
    """The shape that learns: the given one, or that of a classifier of these labels made of it.

    Raises:
        CirillaError: it is a classifier of other labels, or judges by other hidden states than the objective names.
    """
    if not isinstance(objective, ClassificationConfig):
        return config
    if not isinstance(config, ClassifierConfig):
        return classifier_config(config, labels, objective)
    if tuple(labels) != config.labels:
        raise CirillaError(
            f"the model tells {_shown(config.labels)} apart, the data has {_shown(labels)}",
            hint="start from the encoder or decoder that the classifier was made of",
        )
    if objective.pooling not in (None, config.pooling):
        raise CirillaError(
            f"`objective.pooling` is {objective.pooling!r}, but the model is a classifier by {config.pooling!r}",
            hint="leave objective.pooling out",
        )
    return config


def classifier_of(
    model: Model, labels: Sequence[str], objective: ClassificationConfig, *, seed: int, device: torch.device
) -> Classifier:
    """The model as a classifier of these labels: itself if it is one, else its trunk under a fresh matrix of classes.

    Raises:
        CirillaError: it is a classifier of other labels.
    """
    config = learned(model.config, labels, objective)
    assert isinstance(config, ClassifierConfig)
    if isinstance(model, Classifier):
        return model
    made = fresh(config, seed=seed, device=device)
    own = made.state_dict()
    made.load_state_dict(own | {name: tensor for name, tensor in model.state_dict().items() if name in own})
    return made


def classifier_config(
    base: DecoderConfig | EncoderConfig, labels: Sequence[str], objective: ClassificationConfig
) -> ClassifierConfig:
    """The classifier's shape; a decoder's last token has seen the whole document, of an encoder all have."""
    if isinstance(base, DecoderConfig):
        return ClassifierConfig(base=base.changed(mtp=None), labels=tuple(labels), pooling=objective.pooling or "last")
    return ClassifierConfig(base=base, labels=tuple(labels), pooling=objective.pooling or "mean")


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
