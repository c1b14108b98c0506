"""Models in Hugging Face's layout: a folder with config.json and safetensors, or a name on the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirilla_cli.checkpoint import AnyFound, Config, Found, build_model, read_tensors, refuse_misfit
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import read_json
from cirilla_cli.hub.earlier import refuse_earlier
from cirilla_cli.hub.families import Family, family_in, from_hf, plan_of, to_disk, to_ours, trunk_of
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.config import ClassifierConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.units import show_count

INDEX = "model.safetensors.index.json"
LINEAGE = "cirilla.json"
Published = AnyFound
"""A model that has, or may have, the layout of a public architecture."""
_MOST_TIMES = 16
"""Times what is on disk that a model may have before its tensors are compared one by one."""
_FLOATS = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
_EMBEDDING = "model.embed_tokens.weight"
"""Our name of it."""


def read_folder(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Published:
    """The model in a Hugging Face folder, in float32 unless ``dtype`` says otherwise, and its tokenizer if it has one.

    Raises:
        CirillaError: not such a folder, a model we have no shape for, or weights that are missing, foreign or damaged.
    """
    values = _config_of(folder)
    family, config = family_in(values, folder / "config.json"), from_hf(values, folder / "config.json")
    files = weight_files(folder)
    tensors = read_tensors(files, device)
    config = _settled(family, config, tensors)
    tensors = _known(family, config, tensors)
    config = _tie(family, config, tensors)
    _refuse_numbers(tensors, folder)
    own = _translated(family, config, tensors, files[0])
    model: Model = build_model(config, own, files[0], device=device, dtype=dtype)
    lineage = _json_object(folder / LINEAGE) if (folder / LINEAGE).is_file() else {}
    return Found(
        model=model,
        config=config,
        tokenizer=read_tokenizer(folder, config),
        path=folder,
        step=lineage.get("step"),
        verb=lineage.get("verb"),
    )


def read_config(folder: Path) -> Config:
    """The shape that a Hugging Face folder's config.json describes, without looking at its weights.

    Raises:
        CirillaError: a model we have no shape for.
    """
    return from_hf(_config_of(folder), folder / "config.json")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or those its index names.

    Raises:
        CirillaError: there are none, or some that the index names are missing.
    """
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted({str(name) for name in _json_object(index).get("weight_map", {}).values()})
        # Names from outside: a file of this folder or nothing.
        lost = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if lost or not names:
            what = ", ".join(lost) or "no files"
            raise CirillaError(f"{index}: names {what}, not in this folder", hint="download the model again")
        return [folder / name for name in names]
    raise CirillaError(f"{folder}: no weights: looked for model.safetensors and {INDEX}{_other_formats(folder)}")


def read_tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """A folder's tokenizer, or None where it has none: the model then takes and gives ids.

    Raises:
        CirillaError: it has more ids than the model has embeddings.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        return None
    tokenizer = load_tokenizer(folder)
    if config.vocab_size is not None and tokenizer.vocab_size > config.vocab_size:
        raise CirillaError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model embeds {config.vocab_size}",
            hint="the tokenizer belongs to another model",
        )
    return tokenizer


def _other_formats(folder: Path) -> str:
    """What to say about weights in formats that are not read."""
    if any(folder.glob("*.gguf")):
        return "; GGUF files are not read: take the model in safetensors"
    if any(any(folder.glob(pattern)) for pattern in ("*.bin", "*.pt*", "*.ckpt")):
        return "; pickled weights (.bin, .pt, .ckpt) can run code and are never loaded: take the model in safetensors"
    return ""


def _config_of(folder: Path) -> dict[str, Any]:
    values = _json_object(folder / "config.json")
    refuse_earlier(values, folder / "config.json")
    return values


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CirillaError(f"{path.parent}: no {path.name}, so not a Hugging Face model")
    try:
        value = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CirillaError(f"{path}: not JSON: {error}", hint="the file is damaged or half-written") from None
    if not isinstance(value, dict):
        raise CirillaError(f"{path}: holds {type(value).__name__}, expected an object")
    return value


def _settled(family: Family, config: Config, tensors: Mapping[str, Tensor]) -> Config:
    """The configuration, in agreement with what stands on disk."""
    base = family.settled(trunk_of(config), tensors)
    return config.model_copy(update={"base": base}) if isinstance(config, ClassifierConfig) else base


def _known(family: Family, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors as if saved with a head, without those that are not wanted."""
    headless = not any(name.startswith(family.prefix) for name in tensors)
    named = {f"{family.prefix}{n}" if headless and n != family.head else n: tensor for n, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not family.passes_over(name, trunk_of(config))}


def _tie(family: Family, config: Config, tensors: dict[str, Tensor]) -> Config:
    """Settle a tied head that stands on disk all the same: a copy is dropped, a head that differs is one of its own."""
    if isinstance(config, ClassifierConfig) or not config.tie_embeddings or family.head not in tensors:
        return config
    embedding = tensors.get(family.disk_name(_EMBEDDING))
    if embedding is not None and not torch.equal(embedding, tensors[family.head]):
        return config.changed(tie_embeddings=False)
    del tensors[family.head]
    return config


def _translated(family: Family, config: Config, tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names; ``tensors`` is empty afterwards."""
    _refuse_size(config, tensors, file)
    with torch.device("meta"):
        own = config.build().state_dict()
    plan = plan_of(family, config, own)
    refuse_misfit(to_disk(plan, own), tensors, file)
    return to_ours(plan, tensors)


def _refuse_size(config: Config, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises: CirillaError: the model is so much larger than its weights that laying it out might not end."""
    held, described = sum(tensor.numel() for tensor in tensors.values()), parameters(config)
    if described > _MOST_TIMES * held:
        raise CirillaError(
            f"{file}: holds {show_count(held)} numbers, config.json describes a model of {show_count(described)}",
            hint="weights or config.json belong to another model: download both again",
        )


def _refuse_numbers(tensors: dict[str, Tensor], folder: Path) -> None:
    odd = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.dtype not in _FLOATS}
    if odd:
        raise CirillaError(f"{folder}: weights in {', '.join(sorted(odd))}: quantised models are not read")
