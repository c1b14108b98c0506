"""`--dry-run`: what a training command would do or refuse, found out without writing anything."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cirilla_cli.data.config import (
    ConversationsConfig,
    LoadTokenizerConfig,
    MaskedTextConfig,
    PackedTextConfig,
    SentencePieceConfig,
    TextSourceConfig,
)
from cirilla_cli.engine.config import AdamWConfig, CheckpointingConfig, TrainConfig
from cirilla_cli.engine.run import Job, Plan, TrainReport, plan, train
from cirilla_cli.errors import CirillaError
from cirilla_cli.loading import load_model
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.progress import Silent

BATCH = {"batch_tokens": 256, "micro_batch_tokens": 128}


def snapshot(*folders: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below the folders, with its time of change and its bytes."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*")) if path.exists()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in found}


@pytest.fixture
def look(tiny: ModuleType, data: Path, started: Path, out: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Plans a verb's tiny job; nothing anywhere may change."""

    def go(
        verb: str = "pretrain", progress: Any = None, *, restart: bool = False, insist: bool = False, **changes: Any
    ) -> Plan:
        start = changes.pop("start", None if verb == "pretrain" else started)
        job: Job = tiny.job(verb, out, changes.pop("data_from", data), start=start, **changes)
        before = snapshot(out.parent, data, started, tmp_path)
        try:
            return plan(job, progress or Silent(), restart=restart, insist=insist)
        finally:
            assert snapshot(out.parent, data, started, tmp_path) == before

    return go


@pytest.mark.parametrize("verb", ["pretrain", "sft", "dpo"])
@pytest.mark.parametrize("length", [{"steps": 5}, {"tokens": 1000}, {"epochs": 2.0}, {"steps": 100, "max_epochs": 1.0}])
def test_the_plan_is_what_happens(
    verb: str, length: dict[str, Any], look: Callable[..., Plan], tiny: ModuleType, data: Path, started: Path, out: Path
) -> None:
    lasting = TrainConfig(**length, **BATCH)
    planned = look(verb, train=lasting)
    start = None if verb == "pretrain" else started
    report = train(tiny.job(verb, out, data, start=start, train=lasting), Silent())
    assert (planned.action, planned.step, planned.steps) == ("begin", 0, report.step)
    assert (
        planned.parameters
        == report.parameters
        == sum(p.numel() for p in load_model(out, progress=Silent()).model.parameters())
    )
    assert (planned.compute, planned.device) == ("float32", "cpu")
    saved = sum(file.stat().st_size for file in tiny.saved(out)[report.step].glob("*.safetensors"))
    assert planned.checkpoint_bytes is not None
    assert saved < planned.checkpoint_bytes * 1.2 + 4096
    after = look(verb, train=lasting)
    assert (after.action, after.step, after.steps) == ("nothing", report.step, report.step)


def test_a_stopped_run_would_go_on_and_may_start_over(
    look: Callable[..., Plan], run: Callable[..., TrainReport], tiny: ModuleType
) -> None:
    with pytest.raises(CirillaError, match="stopped after step 2"):
        run(tiny.interrupt_after(2))
    planned = look()
    assert (planned.action, planned.step, planned.steps) == ("continue", 2, 6)
    assert next(planned.lines()).endswith("after step 2")
    assert look(insist=True).action == "continue"
    anew = look(restart=True)
    assert (anew.action, anew.step) == ("start over", 0)
    assert "forget" in next(anew.lines())
    with pytest.raises(CirillaError, match=r"`optim.kind` was 'muon', is 'adamw'"):
        look(optim=AdamWConfig())
    assert look(optim=AdamWConfig(), restart=True).action == "start over"


def rows(tmp_path: Path, *made: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


DOCUMENTS = [{"id": f"d{i}", "title": "", "text": f"moon {i} road"} for i in range(40)]


def test_rows_are_counted_and_not_tokenized(look: Callable[..., Plan], tmp_path: Path) -> None:
    text = PackedTextConfig(sources={"wiki": TextSourceConfig(path=rows(tmp_path, *DOCUMENTS))})
    planned = look(data=text, tokenizer=SentencePieceConfig(vocab_size=300))
    assert planned.data["wiki"].endswith("rows.jsonl: 40 rows of kind text, to be tokenized")
    assert (planned.steps, planned.tokens_per_step, planned.passes, planned.parameters) == (6, 256, None, None)
    passes = look(data=text, tokenizer=SentencePieceConfig(vocab_size=300), train=TrainConfig(epochs=1, **BATCH))
    assert passes.steps is None
    assert any(line == "length: known once the rows are tokenized and the model is there" for line in passes.lines())


def test_rows_that_a_run_has_tokenized_are_not_counted_again(
    look: Callable[..., Plan], run: Callable[..., TrainReport], tmp_path: Path
) -> None:
    path = rows(tmp_path, *DOCUMENTS)
    changes = {
        "data": PackedTextConfig(sources={"w": TextSourceConfig(path=path)}),
        "tokenizer": SentencePieceConfig(vocab_size=300),
    }
    report = run(**changes)
    planned = look(**changes)
    assert (planned.action, planned.steps, planned.parameters) == ("nothing", 6, report.parameters)
    assert "tokens to train on" in planned.data["w"]
    rows(tmp_path, *DOCUMENTS, {"id": "more", "title": "", "text": "a further row"})
    assert "not the rows that the run began with" in look(**changes).data["w"]
    assert "not the rows" not in look(restart=True, **changes).data["w"]


@pytest.mark.parametrize("where", ["someone/model", "some-one/mo.del"])
def test_a_model_on_the_hub_is_not_fetched(where: str, look: Callable[..., Plan]) -> None:
    planned = look("sft", model=CheckpointConfig(path=where))
    assert planned.model == f"{where} on the Hub, not looked at"
    assert (planned.steps, planned.parameters) == (None, None)
    assert list(planned.lines())


def test_a_full_disk_is_foreseen(look: Callable[..., Plan]) -> None:
    planned = look(checkpoint=CheckpointingConfig(keep=3))
    assert planned.checkpoints == 4
    short = replace(planned, free_bytes=4 * (planned.checkpoint_bytes or 0) - 1)
    assert [line.endswith("may not be enough") for line in short.lines()][-1]
    assert not list(planned.lines())[-1].endswith("may not be enough")


def test_what_a_run_would_refuse_its_plan_refuses(
    look: Callable[..., Plan], tiny: ModuleType, data: Path, started: Path, out: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data / "tokenizer", other)
    with (other / "tokenizer.model").open("ab") as file:
        file.write(b"\x0a\x00")
    documents = rows(tmp_path, *DOCUMENTS)
    torn = tmp_path / "torn.jsonl"
    torn.write_text(documents.read_text() + '{"text": "a')
    wiki = {"tokenizer": SentencePieceConfig(vocab_size=300)}
    masked = MaskedTextConfig(sources={"wiki": TextSourceConfig(path=data)})
    both_ways = tiny.decoder(mixers={"A": {"kind": "attention", "n_heads": 2, "causal": False}})
    missing = "mps" if torch.cuda.is_available() else "cuda"
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("pretrain", {"data_from": tmp_path / "nope"}, "nope: no such file or folder"),
        ("pretrain", {"data_from": tmp_path / "nope", **wiki}, "nope: no such file or folder"),
        ("pretrain", {"data_from": torn, **wiki}, "torn.jsonl:41"),
        ("pretrain", {"data_from": documents}, "rows must be tokenized, and the recipe names no tokenizer"),
        ("sft", {"data": ConversationsConfig(path=(documents,))}, "nothing that can be read as chat"),
        ("pretrain", {"tokenizer": LoadTokenizerConfig(path=other)}, "another tokenizer"),
        ("pretrain", {"model": tiny.decoder(vocab_size=20)}, "`model.vocab_size` is 20"),
        ("sft", {"start": tmp_path / "gone"}, "there is no such folder"),
        ("sft", {"model": CheckpointConfig(path=str(started), context_length=1)}, "is empty"),
        ("pretrain", {"start": started, "tokenizer": None, "data": masked}, "a decoder cannot see what follows"),
        ("pretrain", {"model": both_ways}, "`model.mixers.A.causal` is false, must be true in a decoder"),
        ("pretrain", {"insist": True}, "no checkpoint to resume from"),
        ("pretrain", {"device": missing}, f"`device` is '{missing}'"),
    ]
    for verb, changes, says in refused:
        with pytest.raises(CirillaError, match=says):
            look(verb, **changes)
    assert not out.exists()


def test_changed_data_and_another_reference_are_foreseen(
    look: Callable[..., Plan], tiny: ModuleType, data: Path, started: Path, out: Path, tmp_path: Path
) -> None:
    mine, base = shutil.copytree(data, tmp_path / "mine"), shutil.copytree(started, tmp_path / "base")
    train(tiny.job("dpo", out, mine, start=base, train=TrainConfig(steps=1, **BATCH)), Silent())
    lasting = {"data_from": mine, "start": base, "train": TrainConfig(steps=1, **BATCH)}
    assert look("dpo", **lasting).action == "nothing"
    mask = mine / "shards" / "preference" / "train-00000.mask"
    kept = mask.read_bytes()
    mask.write_bytes(kept[:-1] + bytes([1 - kept[-1]]))
    with pytest.raises(CirillaError, match="its bytes are no longer those that were tokenized"):
        look("dpo", **lasting)
    mask.write_bytes(kept)
    train(tiny.job("pretrain", base, data, seed=5), Silent(), restart=True)
    with pytest.raises(CirillaError, match="are not those that this run began from"):
        look("dpo", **lasting)
