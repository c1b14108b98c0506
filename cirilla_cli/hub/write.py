"""A model as a Hugging Face folder that transformers, vLLM, llama.cpp's converter and Ollama read as it is."""

import json
import shutil
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirilla_cli import __version__
from cirilla_cli.checkpoint import save_tensors
from cirilla_cli.data.chat import CHAT_TEMPLATE
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import as_object, hash_file, write_json, write_text
from cirilla_cli.hub.card import CardFacts, find_scores, last_metrics, render_card
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import family_of, plan_of, to_disk, to_hf
from cirilla_cli.hub.framing import document_ids, frame_documents
from cirilla_cli.hub.read import INDEX, LINEAGE, Published
from cirilla_cli.lineage.data import rows_of
from cirilla_cli.lineage.gather import PAGES, Lineage, gather
from cirilla_cli.model.decoder import Decoder

WEIGHTS = "model.safetensors"
SHARD_BYTES = 5 * 10**9
"""Weights in more than this are cut into several files, as other programs expect of large models."""
_TEMPLATE = "chat_template.jinja"
_UNHASHED = "0" * 64
_ST_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

_GO_TEMPLATE = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
"""Our chat format in Ollama's template language; Ollama puts <s> before it."""


@dataclass(frozen=True, slots=True)
class Written:
    """One file of an export."""

    name: str
    bytes: int
    sha256: str


def write_folder(loaded: Published, folder: Path, config: PushConfig, *, scores: Path | None = None) -> list[Written]:
    """Fill ``folder``, which must not exist, with the published form of a model; returns its files.

    Raises:
        CirillaError: the model has no public architecture, or its weights do not fit ``config.dtype``.
    """
    tensors = published(loaded, getattr(torch, config.dtype))
    lineage = _write_texts(loaded, folder, config, scores)
    for name, part in _write_index(tensors, folder).items():
        save_tensors(part, folder / name)
        (folder / name).chmod(0o644)  # safetensors lets only the owner read
    return _write_lineage(loaded, folder, config, lineage, {})


def plan_folder(loaded: Published, folder: Path, config: PushConfig, *, scores: Path | None = None) -> list[Written]:
    """The files `write_folder` would write, with their exact sizes; all but the weights are written to ``folder``.

    Raises:
        CirillaError: as `write_folder`.
    """
    tensors = published(loaded, getattr(torch, config.dtype))
    lineage = _write_texts(loaded, folder, config, scores)
    parts = _write_index(tensors, folder)
    weights = {name: Written(name, _safetensors_size(part), _UNHASHED) for name, part in parts.items()}
    return _write_lineage(loaded, folder, config, lineage, weights)


def published(loaded: Published, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights as they stand on disk: under the public architecture's names, in its layout.

    Raises:
        CirillaError: as `write_folder`.
    """
    family, tensors = family_of(loaded.config), cast_weights(loaded, dtype)
    return to_disk(plan_of(family, loaded.config, tensors), tensors)


def cast_weights(loaded: Published, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights as they are published, under our names: on the CPU, in ``dtype``; a tied head is left out.

    Buffers keep their format: they are states such as a router's balance, not weights that tolerate rounding.

    Raises:
        CirillaError: a finite weight is too large for ``dtype``.
    """
    states = {name for name, _ in loaded.model.named_buffers()}
    cast = {
        name: tensor.detach().to("cpu", None if name in states else dtype)
        for name, tensor in loaded.model.state_dict().items()
    }
    lost = [name for name, tensor in cast.items() if not bool(torch.isfinite(tensor).all())]
    if lost:
        raise CirillaError(
            f"{loaded.path}: weights that are not finite in {str(dtype).removeprefix('torch.')}: {', '.join(lost[:5])}",
            hint="push.dtype=bfloat16 or float32; if they are not finite in float32 either, the training diverged",
        )
    return cast


def _write_texts(loaded: Published, folder: Path, config: PushConfig, scores: Path | None) -> Lineage:
    """Everything but the weights and the record of lineage."""
    shape = to_hf(loaded.config)
    measured = find_scores(loaded, scores)
    lineage = gather(loaded.path, loaded.run, loaded.step, loaded.verb)
    folder.mkdir(parents=True)
    writes = isinstance(loaded.model, Decoder)
    ids = _special_ids(loaded.tokenizer) if writes else document_ids(loaded.tokenizer)
    write_json(folder / "config.json", {**shape, **ids, "dtype": config.dtype, "torch_dtype": config.dtype})
    ours = False
    if loaded.tokenizer is not None and writes:
        ours = _write_tokenizer(loaded.tokenizer, folder, ids)
    elif loaded.tokenizer is not None:
        loaded.tokenizer.save(folder)
        frame_documents(loaded.tokenizer, folder, loaded.config.context_length)
    pages = _write_attribution(lineage, folder / "ATTRIBUTION.md")
    if known := lineage.pages():
        write_text(folder / PAGES, "".join(f"{page.line()}\n" for page in known))
    _write_license(config, lineage, folder)
    facts = CardFacts(loaded, config, lineage, pages, ours, measured, last_metrics(loaded))
    write_text(folder / "README.md", render_card(facts))
    return lineage


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Token ids for config.json; null without a tokenizer, because transformers would fill in its own."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    # The end of a turn has a higher id than the end of a document in every vocabulary we know; it comes first.
    stops = sorted(tokenizer.stop_ids, reverse=True)
    return {
        "bos_token_id": next(iter(tokenizer.bos_ids), None),
        "eos_token_id": stops if len(stops) != 1 else stops[0],
        "pad_token_id": tokenizer.pad_id,
    }


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, ids: Mapping[str, Any]) -> bool:
    """Tokenizer files, generation_config.json and Modelfile; whether the chat format is our own."""
    tokenizer.save(folder)
    generation = folder / "generation_config.json"
    kept = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    write_json(generation, {**kept, **ids})
    template = folder / _TEMPLATE
    ours = template.is_file() and template.read_text(encoding="utf-8") == CHAT_TEMPLATE
    write_text(folder / "Modelfile", modelfile(ours, _stop_texts(tokenizer, folder)))
    return ours


def modelfile(ours: bool, stops: list[str]) -> str:
    """The file `ollama create NAME -f Modelfile` reads in the exported folder."""
    head = "# ollama create my-model -f Modelfile\nFROM .\n"
    if ours:
        return f'{head}TEMPLATE """{_GO_TEMPLATE}"""\nPARAMETER stop "<|im_end|>"\n'
    note = "# Ollama recognises the chat template of known models by itself; for others write a TEMPLATE here.\n"
    return head + note + "".join(f"PARAMETER stop {json.dumps(stop)}\n" for stop in stops)


def _stop_texts(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """What the stop ids of an imported tokenizer are called."""
    path = folder / "tokenizer.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", []) if path.is_file() else []
    return [token["content"] for token in added if token["id"] in tokenizer.stop_ids]


def _write_attribution(lineage: Lineage, path: Path) -> int:
    """Bring the lists of pages behind the data into one file; returns their number, 0 where there is no file."""
    left_out = lineage.left_out()
    parts = [_without(file.read_text(encoding="utf-8"), left_out) for file in lineage.attributions()]
    listed = left_out | {_address(line) for part in parts for line in part.splitlines()}
    parts += filter(None, (_listed(file, listed) for file in lineage.unlisted()))
    pages = sum(line.startswith("- ") for part in parts for line in part.splitlines())
    if pages:
        write_text(path, "\n\n".join(parts) + "\n")
    return pages


def _without(text: str, left_out: Container[str]) -> str:
    """A list of pages without some, which is said."""
    lines = text.strip().splitlines()
    kept = [line for line in lines if not line.startswith("- ") or _address(line) not in left_out]
    if len(kept) == len(lines):
        return text.strip()
    first = next((n for n, line in enumerate(kept) if line.startswith("- ")), len(kept))
    said = f"Those of them that the model was made from: {len(kept) - first}."
    return "\n".join([*kept[:first], said, "", *kept[first:]])


def _address(line: str) -> str:
    """The address in a line of a list of pages: `- TITLE: ADDRESS`, and in brackets its authors or licence."""
    return line.partition(" (authors: ")[0].rpartition(": ")[2].partition(" (")[0]


def _listed(documents: Path, but: Container[str]) -> str:
    """A list of the pages in a file of documents that has none beside it; empty where no row has another address."""
    lines = []
    for row in rows_of(documents):
        address = row.get("permalink") or row.get("url")
        if address and str(address) not in but:
            name = as_object(row.get("license")).get("name")
            title = " ".join(str(row.get("title")).split())
            lines.append(f"- {title}: {address}{f' ({name})' if name else ''}")
    return "\n".join(["# Attribution", "", *lines]) if lines else ""


def _write_license(config: PushConfig, lineage: Lineage, folder: Path) -> None:
    if config.license:
        sources = "\nThe texts it was trained on keep their own terms: see ATTRIBUTION.md and README.md.\n"
        write_text(folder / "LICENSE", f"This model is published under: {config.license}\n{sources}")
    if lineage.base_license is not None:
        shutil.copyfile(lineage.base_license, folder / "LICENSE-base-model")


def _write_lineage(
    loaded: Published, folder: Path, config: PushConfig, lineage: Lineage, planned: Mapping[str, Written]
) -> list[Written]:
    """Write cirilla.json, last; returns every file of the folder, itself included."""
    files = {p.name: Written(p.name, p.stat().st_size, hash_file(p)) for p in folder.iterdir()} | dict(planned)
    own = lineage.stages[0].record() if lineage.stages else {"verb": loaded.verb, "step": loaded.step}
    record = {
        "version": 1,
        "cirilla": __version__,
        **own,
        "dtype": config.dtype,
        "base_model": lineage.base,
        "parents": [stage.record() for stage in lineage.stages[1:]],
        "data": [data.record() for data in lineage.data],
        "files": {name: {"bytes": files[name].bytes, "sha256": files[name].sha256} for name in sorted(files)},
    }
    path = folder / LINEAGE
    write_json(path, record)
    files[LINEAGE] = Written(LINEAGE, path.stat().st_size, hash_file(path))
    return [files[name] for name in sorted(files)]


def _write_index(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors by the file they go into, in order; where there are several files, the index is written."""
    parts: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if parts[-1] and tensor.nbytes > room:
            parts.append({})
            room = SHARD_BYTES
        parts[-1][name] = tensor
        room -= tensor.nbytes
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    named = {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}
    total = sum(tensor.nbytes for tensor in tensors.values())
    where = {name: file for file, part in named.items() for name in part}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return named


def _safetensors_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file these tensors make: eight for the header's length, the header padded to eight, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    # The library lays out by descending width of number, then by name.
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor, start = tensors[name], offset
        offset += tensor.numel() * tensor.element_size()
        spans = [start, offset]
        header[name] = {"dtype": _ST_DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": spans}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + (length + 7) // 8 * 8 + offset
