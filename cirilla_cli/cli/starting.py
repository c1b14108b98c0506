"""`cirilla init`: a folder with a pipeline and its recipes for a corpus of one's own."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.cli.places import check_place
from cirilla_cli.errors import CirillaError, UsageError
from cirilla_cli.fs import write_text
from cirilla_cli.units import parse_bytes, parse_seconds, show_count, show_seconds

_LONGEST_S = 100 * 365.25 * 86400
_LEAST_STEPS = 50
"""Fewer would teach nothing, so a shorter budget is exceeded, which is said."""


@dataclass(frozen=True)
class Size:
    """A model that fits a machine, and the speed such machines have."""

    memory: int
    """Least memory, in bytes."""
    d_model: int
    n_layers: int
    context: int
    vocab: int
    batch_tokens: int
    micro_batch_tokens: int
    flops: float
    """Floating-point operations a second in training: an assumption, printed with the plan."""


_SIZES = (
    Size(0, 256, 6, 256, 4096, 8192, 8192, 5e10),
    Size(8 << 30, 512, 8, 512, 8192, 65536, 16384, 8e12),
    Size(16 << 30, 768, 12, 1024, 16384, 131072, 16384, 1.5e13),
    Size(24 << 30, 1024, 14, 1024, 32768, 262144, 16384, 4e13),
)
"""Small shapes that leave room for activations: 12, 12 and 16 bytes a parameter are weights, gradients and moments."""


def init_project(
    name: str,
    *,
    wiki: str | None,
    dump: str | None,
    files: Path | None,
    budget: str,
    contact: str | None,
    as_json: bool,
) -> None:
    """Write the folder and say what it will do.

    Raises:
        CirillaError: the folder exists, a source is missing, or the budget is not understood.
    """
    folder = Path(name)
    if not re.fullmatch(r"\w[\w.-]*", folder.name):
        raise CirillaError(
            f"`{name}`: the name must be letters, digits, `.`, `_` and `-`, and not begin with `.` or `-`"
        )
    check_place(folder, "NAME")
    if folder.exists() and any(folder.iterdir()):
        raise CirillaError(f"{folder}: exists already and is not empty", hint="choose another name")
    source = _source(wiki, dump, files, contact)
    size, seconds = _budget(budget)
    step_seconds = 6 * _parameters(size) * size.batch_tokens / size.flops
    steps = max(_LEAST_STEPS, round(seconds / step_seconds))
    seconds = max(seconds, steps * step_seconds)
    for file, text in _files(folder.name, source, size, steps, has_facts=files is None).items():
        write_text(folder / file, text)
    _show(folder, size, steps, seconds, as_json)


def _source(wiki: str | None, dump: str | None, files: Path | None, contact: str | None) -> str:
    """The source's lines of the scrape recipe, checked as that recipe will be."""
    import json

    from pydantic import ValidationError

    from cirilla_cli.scrape.config import ScrapeConfig
    from cirilla_cli.scrape.run import check_source

    if sum(given is not None for given in (wiki, dump, files)) != 1:
        raise UsageError("name one source: --wiki URL, --dump FILE|URL or --files DIR")
    kind, key, value = ("mediawiki", "api", wiki) if wiki is not None else _readable(dump, files)
    if contact is not None and "://" not in str(value):
        raise UsageError("--contact is said to a host: it goes with --wiki, or with --dump URL")
    given = {"source": {"kind": kind, key: value}, "contact": contact}
    try:
        check_source(ScrapeConfig.model_validate(given))
    except ValidationError as error:
        flag = "--contact" if "contact" in error.errors()[0]["loc"] else "--wiki" if wiki is not None else "--dump"
        shown = contact if flag == "--contact" else value
        raise CirillaError(f"`{flag}` is {shown!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    lines = f"{{kind: {kind}, {key}: {json.dumps(value)}}}"
    return lines if contact is None else f"{lines}\n  contact: {json.dumps(contact)}"


def _readable(dump: str | None, files: Path | None) -> tuple[str, str, str]:
    """(kind, key, value) of a source that lies here, or of a dump at an address."""
    if dump is not None and "://" in dump:
        return "dump", "path", dump
    path = Path(dump or files or "")
    if not path.exists():
        raise CirillaError(f"{path}: no such file or folder")
    if dump is not None and not path.is_file():
        raise CirillaError(f"{path}: is a folder, and a dump is one file", hint="--files reads a folder of texts")
    return "files" if dump is None else "dump", "path", str(path.resolve())


def _budget(text: str) -> tuple[Size, float]:
    """``16GiB,8h``, ``16GiB``, ``cpu`` or ``cpu,30min``."""
    card, _, time = text.partition(",")
    try:
        memory = 0 if card.strip() == "cpu" else int(parse_bytes(card.strip()))
        seconds = float(parse_seconds(time.strip())) if time else (3600.0 if memory == 0 else 8 * 3600.0)
        if memory < 0 or not 0 < seconds < _LONGEST_S:
            raise ValueError("memory and time must be more than 0, and the time less than 100 years")
    except (ValueError, OverflowError) as error:
        raise CirillaError(
            f"`--budget` is {text!r}: {error}", hint="--budget cpu, --budget 16GiB or --budget 16GiB,8h"
        ) from None
    if 0 < memory < _SIZES[1].memory:
        memory = 0
    return [size for size in _SIZES if size.memory <= memory][-1], seconds


def _parameters(size: Size) -> int:
    from cirilla_cli.model.count import parameters

    return parameters(_model(size))


def _model(size: Size) -> Any:
    from cirilla_cli.model.config import DecoderConfig

    return DecoderConfig.model_validate({
        "vocab_size": size.vocab, "d_model": size.d_model, "n_layers": size.n_layers, "context_length": size.context,
        "mixers": {"A": {"kind": "attention", "n_heads": size.d_model // 64, "qk_norm": True}},
        "mlp": {"kind": "swiglu", "d_ff": _d_ff(size)},
    })  # fmt: skip


def _d_ff(size: Size) -> int:
    """About 8/3 of the width, a multiple of 64."""
    return round(size.d_model * 8 / 3 / 64) * 64


def _files(name: str, source: str, size: Size, steps: int, *, has_facts: bool) -> dict[str, str]:
    """The recipes by file name; a corpus without labelled facts gets no alignment."""
    files = {
        "scrape.yaml": f"# The corpus.\nrecipe: 1\nname: {name}\nscrape:\n  source: {source}\n",
        "synth.yaml": f"# Questions and answers from the pages, by rules.\nrecipe: 1\nname: {name}\nsynth:\n"
        "  source: {kind: fandom, phrasings: 6}\n",
        "tokenize.yaml": f"# Tokenizer and shards.\nrecipe: 1\nname: {name}\ntokenize:\n"
        f"  tokenizer: {{kind: sentencepiece, vocab_size: {size.vocab}}}\n  val: 10%\n",
        "pretrain.yaml": f"# The model reads the pages.\nrecipe: 1\nname: {name}\nextends: base/pretrain\n"
        f"model:\n  kind: decoder\n  d_model: {size.d_model}\n"
        f"  n_layers: {size.n_layers}\n  context_length: {size.context}\n"
        f"  mixers: {{A: {{kind: attention, n_heads: {size.d_model // 64}, qk_norm: true}}}}\n"
        f"  mlp: {{kind: swiglu, d_ff: {_d_ff(size)}}}\ndata:\n  sources:\n    corpus: {{path: runs/{name}/tokenize}}\n"
        f"train:\n  steps: {steps}\n  batch_tokens: {size.batch_tokens}\n"
        f"  micro_batch_tokens: {size.micro_batch_tokens}\n"
        "  max_epochs: 40\n  early_stopping: {patience: 3}\n",
        "sft.yaml": f"# The model learns to answer.\nrecipe: 1\nname: {name}\nextends: base/sft\n"
        f"model: {{kind: checkpoint, path: runs/{name}/pretrain}}\n"
        f"data:\n  path: [runs/{name}/synth/samples.jsonl]\n  val: 5%\n"
        f"optim: {{lr: 3e-4}}\ntrain:\n  epochs: 4\n  batch_tokens: {max(4096, size.batch_tokens // 4)}\n"
        f"  micro_batch_tokens: {size.micro_batch_tokens}\n",
        "eval.yaml": f"# How well the model knows the corpus.\nrecipe: 1\nname: {name}\neval:\n"
        "  untrained: true\n  tasks:\n"
        f"    corpus: {{kind: text, path: runs/{name}/scrape/documents.jsonl, max_documents: 100}}\n",
        "push.yaml": f"# A folder for transformers and Ollama.\nrecipe: 1\nname: {name}\n"
        f"push:\n  to: dir:runs/{name}/model\n",
        "pipeline.yaml": _pipeline(name) + (_ALIGNED if has_facts else _PLAIN),
    }  # fmt: skip
    return {**files, **_fact_files(name, size)} if has_facts else files


def _fact_files(name: str, size: Size) -> dict[str, str]:
    """What only a wiki with labelled facts can use."""
    return {
        "dpo.yaml": f"# The model learns to prefer right answers.\nrecipe: 1\nname: {name}\nextends: base/dpo\n"
        f"model: {{kind: checkpoint, path: runs/{name}/sft}}\n"
        f"data:\n  path: [runs/{name}/synth/samples.jsonl]\n  val: 20%\n"
        f"objective: {{sft_weight: 0.2}}\noptim: {{lr: 1e-5}}\ntrain:\n  epochs: 1\n"
        f"  batch_tokens: {max(4096, size.batch_tokens // 8)}\n  micro_batch_tokens: {size.micro_batch_tokens}\n",
        "eval.yaml": f"# Facts the model was asked, in trained and in new phrasings.\nrecipe: 1\nname: {name}\neval:\n"
        "  untrained: true\n  tasks:\n"
        f"    seen_facts: {{kind: questions, path: runs/{name}/synth/questions.jsonl, val: 0.05, limit: 500}}\n",
    }  # fmt: skip


def _pipeline(name: str) -> str:
    return f"""# {name}: from the corpus to a published model.
recipe: 1
name: {name}
out: runs/{name}
stages:
  scrape: {{verb: scrape, recipe: scrape.yaml}}
  synth:
    verb: synth
    recipe: synth.yaml
    with: {{synth.inputs: ["{{scrape}}/documents.jsonl"]}}
  tokenize:
    verb: tokenize
    recipe: tokenize.yaml
    with: {{tokenize.inputs: ["{{scrape}}/documents.jsonl"], tokenize.tokenizer_inputs: ["{{synth}}/samples.jsonl"]}}
  pretrain:
    verb: pretrain
    recipe: pretrain.yaml
    with: {{data.sources.corpus.path: "{{tokenize}}"}}
  sft:
    verb: sft
    recipe: sft.yaml
    with: {{model.path: "{{pretrain}}", data.path: ["{{synth}}/samples.jsonl"]}}
"""


_ALIGNED = """  dpo:
    verb: dpo
    recipe: dpo.yaml
    with: {model.path: "{sft}", data.path: ["{synth}/samples.jsonl"]}
  eval:
    verb: eval
    recipe: eval.yaml
    with:
      eval.model: "{dpo}"
      eval.compare: {before: "{sft}"}
      eval.tasks.seen_facts.path: "{synth}/questions.jsonl"
  push:
    verb: push
    recipe: push.yaml
    with: {push.model: "{dpo}", push.scores: "{eval}/scores.json", push.to: "dir:{push}/model"}
"""

_PLAIN = """  # Plain text has no labelled facts, so there are no pairs to align with and no question set.
  eval:
    verb: eval
    recipe: eval.yaml
    with:
      eval.model: "{sft}"
      eval.tasks.corpus.path: ["{scrape}/documents.jsonl"]
  push:
    verb: push
    recipe: push.yaml
    with: {push.model: "{sft}", push.scores: "{eval}/scores.json", push.to: "dir:{push}/model"}
contamination: report  # the eval stage measures how well the model fits the very corpus it was trained on
"""


def _show(folder: Path, size: Size, steps: int, seconds: float, as_json: bool) -> None:
    from cirilla_cli.cli.render import show_json

    parameters, tokens = _parameters(size), steps * size.batch_tokens
    if as_json:
        show_json({
            "folder": str(folder), "pipeline": str(folder / "pipeline.yaml"), "parameters": parameters,
            "most_tokens": tokens, "most_seconds": seconds, "assumed_flops_per_second": size.flops,
        })  # fmt: skip
        return
    print(
        f"{folder}/pipeline.yaml: {show_count(parameters)} parameters, "
        f"at most {show_count(tokens)} tokens of pretraining\n"
        f"in about {show_seconds(seconds)} at {size.flops / 1e12:g} TFLOP/s, which is assumed, not measured; "
        "a small corpus ends\n"
        f"earlier (at 40 passes, or when validation stagnates). Look at it, change it, then:\n\n"
        f"  cirilla run {folder}/pipeline.yaml"
    )
