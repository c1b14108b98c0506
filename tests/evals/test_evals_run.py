"""The whole of `cirilla eval` on tiny models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.data.rows import Origin, Sample
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import user_turn
from cirilla_cli.evals.config import EvalConfig
from cirilla_cli.evals.run import evaluate, table, untrained
from cirilla_cli.progress import Silent

from .conftest import Heard


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    asked = [
        {"question": f"Question {i}?", "answers": ["yes"], "choices": ["yes", "no"], "seen": i < 3, "split_key": str(i)}
        for i in range(5)
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    (tmp_path / "text.txt").write_text("Geralt rides Roach.", encoding="utf-8")
    pairs = [
        Sample(
            kind="preference", id=str(i), messages=user_turn(f"Question {i}?" + " long" * (80 if i == 0 else 0)),
            chosen="yes", rejected="no", split_key=str(i), source="test", generator=Origin(strategy="test"),
        )
        for i in range(6)
    ]  # fmt: skip
    (tmp_path / "samples.jsonl").write_text("".join(p.line() + "\n" for p in pairs), encoding="utf-8")
    tasks: dict[str, Any] = {
        "facts": {"kind": "questions", "path": tmp_path / "set.jsonl", "max_new_tokens": 4},
        "which": {"kind": "choices", "path": tmp_path / "set.jsonl"},
        "page": {"kind": "text", "path": tmp_path / "text.txt"},
        "pairs": {"kind": "preferences", "path": tmp_path / "samples.jsonl"},
    }
    return EvalConfig.model_validate({"tasks": tasks, "untrained": True, "dtype": "float64"})


def test_every_task_has_every_column_and_the_file_holds_the_same(
    load: Callable[..., Loaded], config: EvalConfig, tmp_path: Path
) -> None:
    loaded = load(context_length=64)
    heard = Heard()
    scores = evaluate(config, {"model": loaded, "untrained": untrained(loaded)}, tmp_path / "out", heard)
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8")) == scores.as_dict()
    assert scores.columns == ["model", "untrained"]
    assert {name: set(task) for name, task in scores.tasks.items()} == {
        name: {"kind", "model", "untrained"} for name in ("facts", "which", "page", "pairs")
    }
    assert {name: task["kind"] for name, task in scores.tasks.items()} == {
        "facts": "questions", "which": "choices", "page": "text", "pairs": "preferences"
    }  # fmt: skip
    assert scores.tasks["facts"]["model"]["seen"]["n"] == 3
    assert scores.tasks["facts"]["model"]["unseen"]["n"] == 2
    assert heard.said == ["pairs: 1 pairs longer than the model's context were left out"]
    lines = table(scores).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "task", "facts: seen", "facts: unseen", "which: seen", "which: unseen", "page: bits per byte",
        "page: perplexity per token", "pairs: chosen likelier", "pairs: margin, nats",
    ]  # fmt: skip
    column = lines[0].index("model")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines), "columns are aligned"
    assert table(scores).isascii()


def test_scores_are_the_same_each_time(load: Callable[..., Loaded], config: EvalConfig, tmp_path: Path) -> None:
    first, second = (evaluate(config, {"model": load()}, None, Silent()).tasks for _ in range(2))
    assert first == second


def test_the_untrained_model_has_the_shape_and_nothing_else(load: Callable[..., Loaded]) -> None:
    loaded = load(dtype=torch.float32)
    floor = untrained(loaded, seed=3)
    assert floor.config == loaded.config
    assert floor.tokenizer is loaded.tokenizer
    assert torch.equal(floor.model.model.embed_tokens.weight, untrained(loaded, seed=3).model.model.embed_tokens.weight)
    assert not torch.equal(floor.model.model.embed_tokens.weight, untrained(loaded).model.model.embed_tokens.weight)
    assert not torch.equal(floor.model.model.embed_tokens.weight, loaded.model.model.embed_tokens.weight)


def test_what_is_wrong_with_any_task_is_told_at_once(load: Callable[..., Loaded], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "q"}\nnot json\n', encoding="utf-8")
    tasks: dict[str, Any] = {
        "a": {"kind": "questions", "path": tmp_path / "missing.jsonl"},
        "b": {"kind": "questions", "path": tmp_path / "bad.jsonl"},
        "c": {"kind": "preferences", "path": tmp_path / "bad.jsonl"},
    }
    with pytest.raises(CirillaError) as caught:
        evaluate(EvalConfig.model_validate({"tasks": tasks}), {"model": load()}, tmp_path, Silent())
    said = str(caught.value)
    assert "`eval.tasks.a`: " in said
    assert "missing.jsonl: no such file" in said
    assert "bad.jsonl:1: `answers` is missing" in said
    assert "bad.jsonl:2: not JSON" in said
    assert "`eval.tasks.c`: " in said
    assert not (tmp_path / "scores.json").exists()


def test_a_column_may_not_take_the_name_of_another(load: Callable[..., Loaded]) -> None:
    with pytest.raises(CirillaError, match="named 'untrained'"):
        evaluate(EvalConfig(compare={"untrained": "runs/x"}), {"model": load()}, None, Silent())


def test_a_model_without_a_tokenizer_cannot_be_examined(load: Callable[..., Loaded], config: EvalConfig) -> None:
    loaded = load()
    bare = Loaded(loaded.model, loaded.config, None, Path("runs/bare"))
    with pytest.raises(CirillaError, match="runs/bare: no tokenizer"):
        evaluate(config, {"model": bare}, None, Silent())
