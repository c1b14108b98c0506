"""The model card: filled from a run's own files, and plain about what they do not say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cirilla_cli import __version__
from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import architecture_of, family_of, trunk_of
from cirilla_cli.hub.families.blocks import windows_of
from cirilla_cli.hub.read import Published
from cirilla_cli.lineage.data import Data
from cirilla_cli.lineage.gather import Lineage
from cirilla_cli.lineage.stages import Stage
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.units import show_count

_MOST_SCORES = 80
_MOST_SOURCES = 40

_SHOWN_KEYS = {
    "objective": "objective.kind",
    "optimizer": "optim.kind",
    "learning rate": "optim.lr",
    "schedule": "schedule.kind",
    "tokens a step": "train.batch_tokens",
    "context": "model.context_length",
    "seed": "seed",
}
"""What the table of stages shows, by key of the resolved recipe."""

_SHOWN_METRICS = ("step", "loss", "val_loss", "val_accuracy", "tokens", "tokens_per_second", "epoch")


@dataclass(frozen=True)
class CardFacts:
    """Everything a card is made of."""

    loaded: Published
    config: PushConfig
    lineage: Lineage
    pages: int
    """Pages that ATTRIBUTION.md lists."""
    has_template: bool
    """Whether the exported Modelfile and chat template are of our own format."""
    scores: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None


def render_card(facts: CardFacts) -> str:
    """README.md: YAML front matter for the Hub, then what a reader wants to know."""
    sections = [
        _about(facts), _use(facts), _training(facts), _data(facts), _scores(facts), _limits(facts), _licence(facts),
    ]  # fmt: skip
    front = yaml.safe_dump(_front(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def find_scores(loaded: Published, given: Path | None) -> Mapping[str, Any] | None:
    """What `cirilla eval` measured: the file given, else `scores.json` in the checkpoint or its run.

    Raises:
        CirillaError: the file given is missing or holds no scores.
    """
    places = [given] if given is not None else [f / "scores.json" for f in (loaded.path, loaded.run) if f is not None]
    for path in places:
        if not path.is_file():
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CirillaError(f"{path}: not JSON: {error}") from None
        if isinstance(value, dict):
            return value
        raise CirillaError(f"{path}: holds no scores: an object is expected")
    if given is not None:
        raise CirillaError(f"{given}: no such file", hint="`cirilla eval` writes scores.json")
    return None


def last_metrics(loaded: Published) -> Mapping[str, Any] | None:
    """The last line of the run's metrics up to the step that is published."""
    path = loaded.run / "metrics.jsonl" if loaded.run is not None else None
    if path is None or not path.is_file():
        return None
    # A torn last line, of a run that is going on, goes to the complaints.
    lines = (row.data for row in read_rows(path, Complaints()))
    last: Mapping[str, Any] | None = None
    for line in lines:
        step = line.get("step")
        if loaded.step is None or (isinstance(step, int) and step <= loaded.step):
            last = line
    return last


def title_of(loaded: Published, config: PushConfig, lineage: Lineage) -> str:
    """The heading: as configured, else the run's name, else the folder's."""
    if config.title:
        return config.title
    name = lineage.stages[0].name if lineage.stages else None
    return name or loaded.path.resolve().name


def _front(facts: CardFacts) -> dict[str, Any]:
    """The Hub's metadata; keys we know nothing for are left out."""
    config, lineage = facts.config, facts.lineage
    front: dict[str, Any] = {}
    if config.license:
        front["license"] = config.license
    if config.language:
        front["language"] = [config.language]
    front["library_name"] = "transformers"
    front["pipeline_tag"] = _KINDS[facts.loaded.config.kind][1]
    front["tags"] = ["cirilla", family_of(facts.loaded.config).model_type, *_verbs(lineage)]
    datasets = list(dict.fromkeys(d.hub for d in lineage.data if d.hub))
    if datasets:
        front["datasets"] = datasets
    if lineage.base and "/" in lineage.base:
        front["base_model"] = lineage.base
    return front


def _verbs(lineage: Lineage) -> list[str]:
    return list(dict.fromkeys(s.verb for s in reversed(lineage.stages) if s.verb))


def _about(facts: CardFacts) -> str:
    loaded, lineage = facts.loaded, facts.lineage
    architecture = architecture_of(family_of(loaded.config), loaded.config)
    lines = [f"# {_line(title_of(loaded, facts.config, lineage))}", ""]
    lines.append(
        f"{_KINDS[loaded.config.kind][0]} with {show_count(parameters(loaded.config))} parameters in the "
        f"{architecture} architecture, context {loaded.config.context_length} tokens, weights in {facts.config.dtype}."
    )
    if isinstance(loaded.config, ClassifierConfig):
        lines.append(f"It tells these labels apart: {_line(', '.join(loaded.config.labels))}.")
    verbs = ", then ".join(_verbs(lineage))
    start = f" starting from {_line(lineage.base)}" if lineage.base else ""
    if verbs:
        lines.append(f"Trained with cirilla{start}: {verbs}. Published with cirilla {__version__}.")
    else:
        origin = f"It comes from {_line(lineage.base)}; how" if lineage.base else "How"
        lines.append(f"{origin} it was trained is not recorded. Published with cirilla {__version__}.")
    return "\n".join(lines)


def _use(facts: CardFacts) -> str:
    name = facts.config.to if facts.config.to and not facts.config.to.startswith("dir:") else "."
    where = "" if name != "." else "Run these in this folder.\n\n"
    if facts.loaded.tokenizer is None:
        gives = {"decoder": "ids", "encoder": "vectors", "classifier": "a label"}[facts.loaded.config.kind]
        said = f"## Use\n\n{where}There is no tokenizer in this repository: the model takes ids and gives {gives}."
        if isinstance(facts.loaded.config, EncoderConfig):
            return said
        return f'{said}\n\n```bash\ncirilla generate {name} --prompt-ids "1 2 3"\n```'
    if not isinstance(facts.loaded.config, DecoderConfig):
        transformers, prompt = _whole_texts(facts)
        return (
            f"## Use\n\n{where}With transformers:\n\n{transformers.replace('NAME', name)}\n\n"
            f'With cirilla:\n\n```bash\ncirilla generate {name} --prompt "{prompt}"\n```'
        )
    talks = facts.has_template and not {"sft", "dpo"}.isdisjoint(_verbs(facts.lineage))
    transformers = _TRANSFORMERS_CHAT if talks else _TRANSFORMERS_PLAIN
    ollama = "" if name == "." else f"hf download {name} --local-dir model && cd model\n"
    flag, prompt = (" --chat", "Who are you?") if talks else ("", "Once")
    return (
        f"## Use\n\n{where}With transformers:\n\n```python\n{transformers.replace('NAME', name)}```\n\n"
        f"With Ollama:\n\n```bash\n{ollama}ollama create my-model -f Modelfile\nollama run my-model\n```\n\n"
        f'With cirilla:\n\n```bash\ncirilla generate {name}{flag} --prompt "{prompt}"\n```'
    )


_TRANSFORMERS_CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForCausalLM.from_pretrained("NAME")
messages = [{"role": "user", "content": "Who are you?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""

_TRANSFORMERS_PLAIN = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForCausalLM.from_pretrained("NAME")
inputs = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))
"""


_TRANSFORMERS_MASKED = """\
```python
from transformers import pipeline

fill = pipeline("fill-mask", model="NAME")  # AutoModelForMaskedLM
print(fill("PROMPT"))
```

One vector a text, the mean of its tokens:

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModel.from_pretrained("NAME")
inputs = tokenizer("The wolf is grey.", return_tensors="pt")
print(model(**inputs).last_hidden_state.mean(dim=1))
```"""

_TRANSFORMERS_LABELS = """\
```python
from transformers import pipeline

tell = pipeline("text-classification", model="NAME")  # AutoModelForSequenceClassification
print(tell("PROMPT"))
```"""

_KINDS = {
    "decoder": ("A language model", "text-generation"),
    "encoder": ("An encoder", "fill-mask"),
    "classifier": ("A classifier", "text-classification"),
}
"""What a kind of model is called, and the Hub's name of what it does."""


def _whole_texts(facts: CardFacts) -> tuple[str, str]:
    """How transformers uses a model that reads whole texts, and a text for it."""
    mask = facts.loaded.tokenizer.mask if facts.loaded.tokenizer is not None else None
    hidden = "" if mask is None else f" {mask.text}"
    restores = isinstance(facts.loaded.config, EncoderConfig)
    code, text = (_TRANSFORMERS_MASKED, f"The wolf is{hidden}.") if restores else (_TRANSFORMERS_LABELS, "A good wolf.")
    return code.replace("PROMPT", text), text


def _training(facts: CardFacts) -> str:
    stages = list(reversed(facts.lineage.stages))
    if not stages:
        return "## Training\n\nNo record of the training came with these weights."
    columns = ["stage", "name", "step", *_SHOWN_KEYS, "recipe (SHA-256)"]
    rows = [_stage_row(stage) for stage in stages]
    lines = ["## Training", "", *_table(columns, rows), "", "`-`: not recorded."]
    if facts.metrics:
        shown = [f"{key} {_number(facts.metrics[key])}" for key in _SHOWN_METRICS if facts.metrics.get(key) is not None]
        lines += ["", f"Last metrics of the published step: {', '.join(shown)}."]
    else:
        lines += ["", "No metrics were found beside the run."]
    return "\n".join(lines)


def _stage_row(stage: Stage) -> list[str]:
    values = [_dig(stage.resolved, dotted) for dotted in _SHOWN_KEYS.values()]
    sha = stage.recipe_sha256[:12] if stage.recipe_sha256 else None
    return [_cell(value) for value in (stage.verb, stage.name, stage.step, *values, sha)]


def _data(facts: CardFacts) -> str:
    lineage = facts.lineage
    lines = ["## Data", ""]
    if not lineage.data:
        return "\n".join([*lines, "No record of the training data came with these weights."])
    rows = [_data_row(data) for data in lineage.data[:_MOST_SOURCES]]
    lines += _table(["source", "used by", "site", "documents", "licences (documents)", "SHA-256"], rows)
    if len(lineage.data) > _MOST_SOURCES:
        lines.append(f"\n... and {len(lineage.data) - _MOST_SOURCES} more, in cirilla.json.")
    licences = lineage.licenses
    stated = ", ".join(f"{_line(name)} ({n} documents)" for name, n in licences.most_common())
    lines += ["", f"Licences of the sources: {stated}." if stated else "No licence is recorded for the sources."]
    if facts.pages:
        lines.append(
            f"ATTRIBUTION.md lists the {facts.pages} pages the texts come from, with permanent links where known."
        )
    else:
        lines.append("No addresses of single pages are recorded.")
    return "\n".join(lines)


def _data_row(data: Data) -> list[str]:
    licences = ", ".join(f"{name} ({n})" for name, n in data.licenses.most_common())
    sha = data.sha256[:12] if data.sha256 else None
    return [_cell(v) for v in (data.hub or data.name, data.used_by, data.site, data.rows, licences or None, sha)]


def _scores(facts: CardFacts) -> str:
    if facts.scores is None:
        return "## Scores\n\nNone were measured, or none were found beside the run (`cirilla eval` writes scores.json)."
    rows = list(_flat(facts.scores))
    lines = ["## Scores", "", *_table(["measure", "value"], [[_cell(k), v] for k, v in rows[:_MOST_SCORES]])]
    if len(rows) > _MOST_SCORES:
        lines.append(f"\n... and {len(rows) - _MOST_SCORES} more in the scores of the run.")
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    lines = ["## Limitations", "", *(_of_writing(facts) if facts.loaded.config.kind == "decoder" else _OF_READING)]
    if not facts.scores:
        lines.append("- How good its answers are was not measured.")
    return "\n".join(lines)


_OF_READING = (
    "- It knows what its texts say, errors and prejudices included; its probabilities were not calibrated.",
    "- Texts longer than its context must be cut.",
)


def _of_writing(facts: CardFacts) -> list[str]:
    """The limits of a model that writes."""
    lines = [
        "- It repeats what its texts say, errors included, and makes up what they do not say. Check answers.",
        "- Nothing was done to keep it from harmful output beyond the choice of texts.",
        "- Raw-prompt APIs of other programs do not guard against control tokens in user text: where a program puts "
        "text into a prompt without the chat template, that text can end a turn or begin another.",
    ]
    if facts.has_template:
        lines.append(
            "- The jinja chat template breaks up turn markers in messages (`<|im_` becomes `<| im_`); the Modelfile's "
            "template does not, because Ollama's template language cannot."
        )
    window = next((window for window in windows_of(trunk_of(facts.loaded.config)) if window is not None), None)
    if window is not None:
        lines.append(
            f"- Attention sees {window} positions in windowed layers. A program that ignores `sliding_window` gives "
            "other results on longer texts."
        )
    return lines


def _licence(facts: CardFacts) -> str:
    if facts.config.license:
        return f"## Licence\n\n{_line(facts.config.license)}, as chosen by who published the model."
    return "## Licence\n\nNo licence was chosen for this model. The terms of its sources and of its base model stand."


# Rendering


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Numbers and intervals of nested scores by dotted key; texts (paths, answers) are left out."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _flat(child, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and len(value) == 2 and all(_is_number(v) for v in value):
        yield at, f"{_number(value[0])} to {_number(value[1])}"
    elif _is_number(value):
        yield at, _number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _dig(tree: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else _line(_number(value)).replace("|", "\\|")


def _line(text: Any) -> str:
    """Text from outside on one line, so that it cannot begin a heading, a table or a code block of its own."""
    return " ".join(str(text).split()).replace("`", "'").replace("<", "&lt;")
