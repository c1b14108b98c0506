"""What a bare training verb works on: the newest fitting data and model under ``runs/``, which is said on stderr."""

import json
from pathlib import Path
from typing import Any

from cirilla_cli.cli.render import tell
from cirilla_cli.cli.words import Reading
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import newest

RUNS = Path("runs")


def training_inputs(verb: str, reading: Reading) -> dict[str, Any]:
    """Overrides that name data and the model to start from, each unless the call did."""
    found: dict[str, Any] = {}
    given = bool(reading.inputs) or any(override.startswith("data.") for override in reading.overrides)
    has_model = any(override.startswith("model.") for override in reading.overrides)
    if verb == "pretrain" and not given:
        found["data.sources.wiki.path"] = _said("data", _tokenized())
    if verb != "pretrain" and not given:
        found["data.path"] = [_said("data", _samples("chat" if verb == "sft" else "preference"))]
    if verb != "pretrain" and not has_model:
        found["model.path"] = _said("model", _run_of("pretrain" if verb == "sft" else "sft"))
    return found


def _said(what: str, path: Path) -> str:
    tell(f"{what}: {path}")
    return str(path)


def _tokenized() -> Path:
    found = newest(RUNS.glob("**/shards/text/index.json"))
    if found is None:
        raise CirillaError(
            "no tokenized text under runs/", hint="cirilla tokenize documents.jsonl, or cirilla run quickstart"
        )
    return found.parents[2]


def _samples(kind: str) -> Path:
    marks = ('"kind": "chat"', '"kind": "task"') if kind == "chat" else ('"kind": "preference"',)
    found = newest(path for path in RUNS.glob("**/samples.jsonl") if _mentions(path, marks))
    if found is None:
        raise CirillaError(
            f"no samples of kind {kind} under runs/", hint="cirilla synth --source fandom, or cirilla run quickstart"
        )
    return found


def _mentions(path: Path, marks: tuple[str, ...]) -> bool:
    with path.open(encoding="utf-8") as file:
        return any(line.startswith("{" + mark) for line in file for mark in marks)


def _run_of(verb: str) -> Path:
    states = RUNS.glob("**/checkpoints/step-*/state.json")
    found = newest(path for path in states if json.loads(path.read_text(encoding="utf-8")).get("verb") == verb)
    if found is None:
        raise CirillaError(
            f"no run of `cirilla {verb}` under runs/ to start from", hint=f"cirilla {verb}, or cirilla run quickstart"
        )
    return found.parents[2]
