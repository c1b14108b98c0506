"""`--nproc`: one run in several processes, started and ended as one."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from program import call, good, spawn

from cirilla_cli.cli.launch import _arguments
from cirilla_cli.cli.options import Flags, takes

pytestmark = pytest.mark.slow

REFUSED = {"verify_resume": ("--verify-resume", "--nproc", "2")}
"""Flags that mean nothing to several processes, and the call that says so."""


def test_two_processes_train_what_one_does_and_speak_once(lab: Path) -> None:
    words = ("pretrain", "tiny.yaml", "precision.compute=float32", "--json")
    alone = json.loads(good(*words, "--out", "alone").out)
    done = spawn(*words, "--out", "shared", "--nproc", "2", cwd=lab)
    assert done.code == 0, done
    shared = json.loads(done.out)
    assert shared["step"] == 2
    assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    lines = (lab / "shared" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines][-1] == 2
    assert json.loads((lab / "shared" / "lock.json").read_text(encoding="utf-8"))["machine"]["processes"] == 2
    again = json.loads(good(*words, "--out", "shared").out)
    assert again["already_done"]


def test_a_mistake_is_said_by_one_process_alone(lab: Path) -> None:
    done = spawn("pretrain", "tiny.yaml", "--out", "new", "--nproc", "3", "train.batch_tokens=128", cwd=lab)
    assert done.code == 1
    assert done.err.count("error:") == 1
    assert "3 processes share a step of 2 rows" in done.err
    assert "Traceback" not in done.err
    assert not (lab / "new" / "lock.json").exists()


def test_a_dry_run_refuses_what_the_processes_would(lab: Path) -> None:
    done = call("pretrain", "tiny.yaml", "--nproc", "5", "--dry-run", "--out", "new")
    assert done.code == 1
    assert "5 processes share a step of 4 rows" in done.err
    assert "--nproc 4" in done.err


def test_processes_are_not_started_by_processes(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("pretrain", "tiny.yaml", "--nproc", "0").code == 2
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = call("pretrain", "tiny.yaml", "--nproc", "2")
    assert done.code == 2
    assert "leave --nproc out" in done.err
    monkeypatch.setenv("WORLD_SIZE", "two")
    done = call("pretrain", "tiny.yaml")
    assert done.code == 1
    assert "WORLD_SIZE is 'two', must be a whole number" in done.err


def test_every_flag_of_training_is_passed_on_to_the_processes_or_refused(lab: Path) -> None:
    """All flags there are, read again by the program that the processes run."""
    kinds = {field.name: field.type for field in fields(Flags)}
    heard: list[Flags] = []

    def verb(*, flags: Flags) -> None:
        heard.append(flags)

    app = typer.Typer()
    app.command()(takes(*kinds)(verb))
    for name, kind in kinds.items():
        if name == "nproc":
            continue
        given: dict[str, Any] = {name: "some where" if kind == str | None else True}
        app(_arguments(Flags(**given, nproc=2)), standalone_mode=False)
        assert heard[-1] == Flags(**given), name
    for words in REFUSED.values():
        before = sorted(path for path in lab.rglob("*"))
        done = call("pretrain", "tiny.yaml", "train.steps=4", "--out", "runs/pre", *words)
        assert done.code == 2, done
        assert "one process" in done.err
        assert sorted(path for path in lab.rglob("*")) == before


def test_a_proof_and_a_dry_run_contradict_each_other(lab: Path) -> None:
    done = call("pretrain", "tiny.yaml", "--out", "runs/pre", "--verify-resume", "--dry-run")
    assert done.code == 2
    assert "leave --dry-run out" in done.err
