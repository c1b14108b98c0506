"""`cirilla run`, `init`, `runs`: what is skipped, what is done again, what survives a kill."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import CIRILLA, RECIPE, call, environment, spawn

from cirilla_cli.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

PIPELINE = """\
recipe: 1
name: toy
stages:
  scrape: {verb: scrape, recipe: scrape.yaml}
  notes: {verb: scrape, recipe: scrape.yaml, with: {scrape.source.path: notes}}
  synth: {verb: synth, with: {synth.inputs: ["{scrape}/documents.jsonl"]}}
  tokenize: {verb: tokenize, recipe: tokenize.yaml, with: {tokenize.inputs: ["{scrape}/documents.jsonl"]}}
  pretrain: {verb: pretrain, recipe: pretrain.yaml, with: {data.sources.wiki.path: "{tokenize}"}}
  sft: {verb: sft, recipe: sft.yaml, with: {model.path: "{pretrain}", data.path: ["{synth}/samples.jsonl"]}}
"""
FILES = {
    "p.yaml": PIPELINE,
    "scrape.yaml": "recipe: 1\nscrape: {source: {kind: files, path: corpus}}\n",
    "tokenize.yaml": "recipe: 1\ntokenize: {tokenizer: {kind: sentencepiece, vocab_size: 400}, val: 0.0}\n",
    "pretrain.yaml": RECIPE.replace("steps: 2", "steps: 4"),
    "sft.yaml": "recipe: 1\nextends: base/sft\nmodel: {kind: checkpoint, path: x}\ndata: {path: [x]}\n"
    "train: {steps: 2, batch_tokens: 256}\neval: null\n",
}
STAGES = ["scrape", "notes", "synth", "tokenize", "pretrain", "sft"]


@pytest.fixture
def toy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of six stages over a small corpus and a few notes, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    for folder in ("corpus", "notes"):
        Path(folder).mkdir()
    shutil.copy(made / "documents.jsonl", "corpus")
    Path("notes/one.txt").write_text(
        "A note that is long enough to be kept as a document of its own.", encoding="utf-8"
    )
    return tmp_path


def run(*words: str) -> list[str]:
    """Run the pipeline; the stages that were not skipped."""
    done = call("run", "p.yaml", "--json", *words)
    assert done.code == 0, done
    stages = json.loads(done.out)["stages"]
    assert list(stages) == STAGES
    return [name for name, stage in stages.items() if not stage["skipped"]]


def weights(run: str) -> bytes:
    newest = Checkpoint.newest(Path(run))
    assert newest is not None
    return (newest.path / "model.safetensors").read_bytes()


def replace(name: str, before: str, after: str) -> None:
    text = Path(name).read_text(encoding="utf-8")
    assert text.count(before) == 1
    Path(name).write_text(text.replace(before, after), encoding="utf-8")


def test_only_what_has_changed_and_what_needs_it_runs_again(toy: Path) -> None:
    assert run() == STAGES
    first = weights("runs/toy-run/sft")
    assert run() == []

    os.utime("corpus/documents.jsonl")
    os.utime("p.yaml")
    assert run() == [], "times are not content"

    with Path("notes/one.txt").open("a", encoding="utf-8") as file:
        file.write("One more line.")
    assert run() == ["notes"]

    replace("sft.yaml", "steps: 2", "steps: 3")
    assert run() == ["sft"]
    assert weights("runs/toy-run/sft") != first
    replace("sft.yaml", "steps: 3", "steps: 2")
    assert run() == ["sft"]
    assert weights("runs/toy-run/sft") == first, "the same recipe over the same inputs gives the same weights"

    replace("tokenize.yaml", "vocab_size: 400", "vocab_size: 420")
    assert run() == ["tokenize", "pretrain", "sft"]

    rows = Path("corpus/documents.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("corpus/documents.jsonl").write_text("".join(rows[:-1]), encoding="utf-8")
    assert run() == ["scrape", "synth", "tokenize", "pretrain", "sft"]

    Path("runs/toy-run/sft/stage.json").write_text('{"hash": "', encoding="utf-8")
    assert run() == ["sft"], "a damaged note of a stage is no note"

    shutil.rmtree("runs/toy-run/tokenize")
    assert run() == ["tokenize"], "what was removed is made again, and is the same, so nothing else is"

    assert run("seed=1") == ["scrape", "notes", "synth", "tokenize", "pretrain", "sft"]
    assert run("seed=1", "--fresh") == STAGES


def test_a_stage_that_would_be_refused_does_not_cost_the_earlier_run(toy: Path) -> None:
    run()
    before = weights("runs/toy-run/sft")
    replace("sft.yaml", "path: [x]}", "path: [x], val: 0.0}")
    replace("sft.yaml", "steps: 2", "steps: 2, early_stopping: {patience: 1}")
    done = call("run", "p.yaml")
    assert (done.code, "early_stopping" in done.err) == (1, True), done
    assert weights("runs/toy-run/sft") == before


def test_a_dry_run_names_every_stage_and_does_nothing(toy: Path) -> None:
    before = sorted(toy.rglob("*"))
    shown = call("run", "p.yaml", "--dry-run")
    assert shown.code == 0
    assert [line.split(":")[0] for line in shown.out.splitlines()] == STAGES
    data = json.loads(call("run", "p.yaml", "--dry-run", "--json").out)
    assert data["sft"]["model"]["path"] == "runs/toy-run/pretrain"
    assert sorted(toy.rglob("*")) == before


def test_a_mistake_in_the_last_stage_stops_the_first(toy: Path) -> None:
    replace("sft.yaml", "steps: 2", "steps: many")
    done = call("run", "p.yaml")
    assert (done.code, "sft.yaml:5: `train.steps` is 'many'" in done.err) == (1, True)
    assert not Path("runs").exists()


def test_killed_at_any_stage_the_same_command_ends_with_the_same_weights(toy: Path) -> None:
    replace("pretrain.yaml", "steps: 4, batch_tokens: 256}", "steps: 40, batch_tokens: 256}\ncheckpoint: {every: 5}")
    assert spawn("run", "p.yaml", "--out", "whole", "-q").code == 0
    for place in ("runs/killed/synth/stage.json", "runs/killed/pretrain/checkpoints/step-000005/MANIFEST.json"):
        process = subprocess.Popen([str(CIRILLA), "run", "p.yaml", "--out", "runs/killed", "-q"], env=environment())
        deadline = time.monotonic() + 60
        while not Path(place).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    assert not json.loads(Path("runs/killed/pretrain/stage.json").read_text(encoding="utf-8"))["done"]
    done = spawn("run", "p.yaml", "--out", "runs/killed", "--json")
    stages = json.loads(done.out)["stages"]
    assert [name for name in STAGES if stages[name]["skipped"]] == ["scrape", "notes", "synth", "tokenize"]
    for stage in ("pretrain", "sft"):
        assert weights(f"runs/killed/{stage}") == weights(f"whole/{stage}")


def test_killed_while_it_starts_over_a_stage_does_not_continue_the_other_recipe(toy: Path) -> None:
    assert run() == STAGES
    replace("pretrain.yaml", "d_ff: 64", "d_ff: 96")
    # As a kill right after the old result was given up leaves it: no mark, and what was not removed yet.
    mark = Path("runs/toy-run/pretrain/stage.json")
    order = []
    from cirilla_cli.cli import execute

    whole = execute.forget

    def forget(resolved: Any) -> None:
        order.append(mark.exists())
        whole(resolved)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "forget", forget)
        assert run() == ["pretrain", "sft"]
    assert order[0] is False, "the mark goes before what it vouched for"


def shrink(folder: Path) -> None:
    """Make the recipes that `init` wrote small enough for a test."""
    tasks = {
        "seen_facts": {"kind": "questions", "path": "x", "limit": 4},
        "corpus": {"kind": "text", "path": "x", "max_documents": 2},
    }
    tasks.pop("corpus" if (folder / "dpo.yaml").exists() else "seen_facts")
    for name, changes in {
        "tokenize": {"tokenize": {"tokenizer": {"kind": "sentencepiece", "vocab_size": 400}, "val": 0.3}},
        "pretrain": {
            "model": {
                "kind": "decoder", "d_model": 32, "n_layers": 1, "context_length": 128,
                "mixers": {"A": {"kind": "attention", "n_heads": 2, "qk_norm": True}},
                "mlp": {"kind": "swiglu", "d_ff": 64},
            },
            "train": {"steps": 2, "batch_tokens": 256, "max_epochs": 40, "early_stopping": {"patience": 3}},
        },
        "sft": {"train": {"steps": 2, "batch_tokens": 256}},
        "dpo": {"train": {"steps": 2, "batch_tokens": 256}},
        "eval": {"eval": {"untrained": True, "tasks": tasks}},
    }.items():  # fmt: skip
        path = folder / f"{name}.yaml"
        if not path.exists():
            continue
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False), encoding="utf-8")


def test_the_time_that_a_new_project_names_is_that_of_its_steps(made: Path, tmp_path: Path) -> None:
    for number, budget in enumerate(("cpu,1s", "cpu,2h", "24GiB,8h")):
        folder = str(tmp_path / f"p{number}")
        told = json.loads(call("init", folder, "--files", str(made), "--budget", budget, "--json").out)
        seconds = 6 * told["parameters"] * told["most_tokens"] / told["assumed_flops_per_second"]
        assert told["most_seconds"] == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize("form", ["files", "dump", "wiki", "address"])
def test_a_new_project_is_good_and_runs(form: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    shutil.copy(made / "documents.jsonl", "corpus")
    wiki = Path(__file__).parents[2] / "recipes/quickstart/wiki.xml"
    addresses = {"wiki": "https://wiki.example.org/w/api.php", "address": "https://example.org/wiki.xml.bz2"}
    source = {"files": "corpus", "dump": str(wiki), **addresses}[form]
    flag = "--dump" if form == "address" else f"--{form}"
    contact = ["--contact", "me@example.org"] if form in addresses else []
    told = call("init", "mine", flag, source, *contact, "--budget", "16GiB,8h", "--json")
    assert told.code == 0, told
    plan = json.loads(told.out)
    assert plan["pipeline"] == "mine/pipeline.yaml"
    for recipe in sorted(Path("mine").glob("*.yaml")):
        checked = call("recipe", "check", str(recipe))
        assert (checked.code, "a good recipe" in checked.out) == (0, True), checked
    assert call("run", "mine/pipeline.yaml", "--dry-run").code == 0
    assert "cirilla run other/pipeline.yaml" in call("init", "other", flag, source, *contact).out
    if form in addresses:
        return  # they have servers of their own in the tests of scraping
    shrink(Path("mine"))
    done = call("run", "mine/pipeline.yaml", "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert Path(report["model"], "config.json").is_file()
    if form == "files":  # plain text has no facts to ask for, and nothing to align with
        assert set(report["scores"]) == {"bits_per_byte"}
        assert not Path("mine/dpo.yaml").exists()
    else:
        assert report["scores"]["seen_facts_untrained"] == 0.0
    assert report["peak_memory_bytes"] > 0
    again = json.loads(call("run", "mine/pipeline.yaml", "--json").out)
    assert all(stage["skipped"] for stage in again["stages"].values())
    assert again["scores"] == report["scores"]


def test_the_summary_shows_curves_scores_and_places(toy: Path) -> None:
    done = call("run", "p.yaml")
    assert done.code == 0
    assert done.out.startswith("toy: 6 stages in ")
    assert "Training loss, first step to last\n  pretrain " in done.out
    assert "  sft        runs/toy-run/sft\n" in done.out + "\n"
    assert "(6 were up to date)" in call("run", "p.yaml").out


def test_runs_lists_what_lies_there(lab: Path) -> None:
    listed = {run["path"]: run for run in json.loads(call("runs", "--json").out)}
    assert {path: (run["verb"], run["step"], run["steps"]) for path, run in listed.items()} == {
        "runs/pre": ("pretrain", 2, 2), "runs/sft": ("sft", 1, 1),
    }  # fmt: skip
    files = [path for path in Path("runs/pre").rglob("*") if path.is_file()]
    assert listed["runs/pre"]["bytes"] == sum(path.stat().st_size for path in files)
    assert call("runs").out.splitlines()[0].split() == ["run", "verb", "step", "score", "age", "size"]
    everything = {run["path"]: run["verb"] for run in json.loads(call("runs", ".", "--json").out)}
    assert everything == {
        "runs/pre": "pretrain", "runs/sft": "sft", "tok": "tokenize", "synth": "synth", ".": "scrape",
    }  # fmt: skip


def test_cleaning_keeps_the_last_and_the_best_and_a_dry_run_keeps_all(lab: Path) -> None:
    assert (
        call(
            "pretrain",
            "tiny.yaml",
            "train.steps=4",
            "checkpoint.every=1",
            "checkpoint.keep=4",
            "--out",
            "runs/many",
            "-q",
        ).code
        == 0
    )
    Path("runs/many/checkpoints/.step-000009.tmp").mkdir()
    all_of_them = sorted(path.name for path in Path("runs/many/checkpoints").iterdir())
    index = json.loads(Path("runs/many/checkpoints/index.json").read_text(encoding="utf-8"))
    would = json.loads(call("runs", "--clean", "--dry-run", "--json").out)
    assert sorted(path.name for path in Path("runs/many/checkpoints").iterdir()) == all_of_them
    did = json.loads(call("runs", "--clean", "--json").out)
    assert (did["removed"], did["bytes"]) == (would["removed"], would["bytes"])
    kept = {path.name for path in Path("runs/many/checkpoints").iterdir()}
    assert kept == {"index.json", index["last"], index.get("best") or index["last"]}
    assert call("generate", "runs/many", "-p", "x", "-n", "1").code == 0


def test_cleaning_leaves_a_run_alone_whose_index_is_damaged(lab: Path) -> None:
    Path("runs/pre/checkpoints/index.json").write_text("{", encoding="utf-8")
    before = sorted(Path("runs/pre").rglob("*"))
    assert call("runs", "--clean").code == 0
    assert sorted(Path("runs/pre").rglob("*")) == before
    assert call("runs").code == 0
