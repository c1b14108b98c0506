"""What a command imports before it runs, by module, in fresh interpreters; and the lazy door of the package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "numpy",
    "rich",
    "requests",
    "datasets",
    "matplotlib",
    "sentencepiece",
    "transformers",
    "huggingface_hub",
}
VERBS = [
    "run",
    "init",
    "runs",
    "scrape",
    "synth",
    "curate",
    "tokenize",
    "pretrain",
    "sft",
    "dpo",
    "eval",
    "generate",
    "push",
    "recipe",
]
CALLS = [
    ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS), ["recipe", "check", "quickstart/pretrain"],
    ["recipe", "check", "quickstart/pipeline"], ["recipe", "list"], ["recipe", "list", "--json"],
]  # fmt: skip

PROBE = """
import json, sys
sys.argv = ["cirilla", *json.loads(sys.argv[1])]
from cirilla_cli.cli.start import main
try:
    main()
except SystemExit as leaving:
    code = leaving.code
sys.stderr.write("\\n" + json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


def python(source: str, *arguments: str) -> Any:
    """The JSON that ``source`` writes as its last line of standard error, run by a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_nothing_heavy_is_imported_before_a_command_runs(words: list[str]) -> None:
    found = python(PROBE, json.dumps(words))
    assert found["code"] == 0
    assert not HEAVY & set(found["modules"])


@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["pretrain", "--nope"], 2), (["pretrain", "nonsense", "--json"], 1)]
)
def test_nothing_heavy_is_imported_to_say_what_is_wrong_with_a_call(words: list[str], code: int) -> None:
    found = python(PROBE, json.dumps(words))
    assert found["code"] == code
    assert not HEAVY & set(found["modules"])


def test_the_probe_sees_what_a_command_that_runs_imports() -> None:
    source = PROBE.replace("main()\nexcept", "import numpy; main()\nexcept")
    assert HEAVY & set(python(source, '["--help"]')["modules"]) == {"numpy"}


def test_importing_the_package_imports_none_of_its_dependencies() -> None:
    found = python("import json, sys, cirilla_cli; sys.stderr.write(json.dumps(sorted(sys.modules)))")
    ours = {name for name in found if name.startswith("cirilla_cli")}
    assert ours == {"cirilla_cli"}
    assert not (HEAVY | {"pydantic", "typer", "yaml"}) & set(found)


def test_the_door_has_the_ten_names_and_nothing_else() -> None:
    import cirilla_cli

    names = [
        "Decoder",
        "ModelConfig",
        "load_model",
        "generate",
        "Tokenizer",
        "TokenShards",
        "Trainer",
        "CrossEntropy",
        "DPO",
        "export_hf",
    ]
    assert sorted(cirilla_cli.__all__) == sorted(names)
    assert set(names) < set(dir(cirilla_cli))
    for name in names:
        assert callable(getattr(cirilla_cli, name)), name
    with pytest.raises(AttributeError, match="no attribute 'Decodr'"):
        cirilla_cli.Decodr  # type: ignore[attr-defined]  # noqa: B018


def test_what_the_door_hands_out_is_the_thing_itself() -> None:
    import cirilla_cli
    from cirilla_cli.engine.objectives.dpo import DPO
    from cirilla_cli.hub.write import write_folder
    from cirilla_cli.model.config import DecoderConfig

    assert cirilla_cli.ModelConfig is DecoderConfig
    assert cirilla_cli.DPO is DPO
    assert cirilla_cli.export_hf is write_folder


def test_a_name_of_the_door_imports_only_its_own_part() -> None:
    found = python(
        "import json, sys; from cirilla_cli import ModelConfig; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    assert "torch" not in found
    assert "pydantic" in found
