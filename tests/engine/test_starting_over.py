"""`--fresh`: the earlier run goes only once nothing can refuse the new one."""

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.data.config import (
    ConversationsConfig,
    LoadTokenizerConfig,
    PackedTextConfig,
    SentencePieceConfig,
    TextSourceConfig,
)
from cirilla_cli.engine.config import ConstantConfig, EarlyStoppingConfig, EvaluationConfig, TrainConfig, WSDConfig
from cirilla_cli.engine.run import Job, TrainReport, train
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.progress import Silent
from cirilla_cli.report.run import report

OWN_TOKENIZER = SentencePieceConfig(vocab_size=340)
LASTING = {"steps": 6, "batch_tokens": 256, "micro_batch_tokens": 128}


def files(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stop_after_2() -> Silent:
    """A listener that ends a run after its second training step, and nothing else's."""

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if what == "pretrain" and done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    return Listener()


def text(**sources: Any) -> PackedTextConfig:
    return PackedTextConfig(sources={name: TextSourceConfig(**source) for name, source in sources.items()})


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A file of rows."""

    def make(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
        return path

    return make


DOCUMENTS = [{"id": f"d{i}", "title": "t", "text": f"silver sword {i} moon"} for i in range(30)]
CHAT = {"messages": [{"role": "user", "content": "moon " * 90}, {"role": "assistant", "content": "sword"}]}


def refusals(job: Job, write: Callable[..., Path], tmp_path: Path) -> dict[str, tuple[Job, str]]:
    """Jobs that cannot begin, and what is said of each."""

    def of(rows: Path) -> Job:
        return replace(job, data=text(wiki={"path": rows}), tokenizer=OWN_TOKENIZER)

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{")
    chats = ConversationsConfig(path=(write(CHAT, CHAT, name="long.jsonl"),))
    unused = {"path": write(*DOCUMENTS, name="some.jsonl")}
    return {
        "data that are not there": (of(tmp_path / "nope.jsonl"), "no such file"),
        "rows of another kind": (
            replace(of(tmp_path), verb="sft", data=ConversationsConfig(path=(write(*DOCUMENTS, name="docs.jsonl"),))),
            "nothing that can be read as chat",
        ),
        "a half-written row at the end": (of(write(*DOCUMENTS, '{"text": "a', name="torn.jsonl")), "torn.jsonl:31"),
        "conversations that are too long": (replace(of(tmp_path), verb="sft", data=chats), "is empty"),
        "everything held out": (
            replace(of(tmp_path), data=PackedTextConfig(sources={"wiki": TextSourceConfig(**unused)}, val=1.0)),
            "there is no text to train a tokenizer on",
        ),
        "a vocabulary that is too small": (
            replace(job, model=job.model.model_copy(update={"vocab_size": 20})), "`model.vocab_size` is 20"
        ),
        "a base that is not there": (
            replace(job, model=CheckpointConfig(path=str(tmp_path / "nope"))), "there is no such folder"
        ),
        "a tokenizer that is damaged": (replace(job, tokenizer=LoadTokenizerConfig(path=broken)), "not a tokenizer"),
        "a tokenizer of other shards": (
            replace(job, tokenizer=LoadTokenizerConfig(path=tmp_path / "other" / "tokenizer")), "another tokenizer"
        ),
        "no validation to stop early by": (
            replace(job, train=TrainConfig(early_stopping=EarlyStoppingConfig(), **LASTING)), "early_stopping"
        ),
    }  # fmt: skip


CASES = (
    "data that are not there", "rows of another kind", "a half-written row at the end",
    "conversations that are too long", "everything held out", "a vocabulary that is too small",
    "a base that is not there", "a tokenizer that is damaged", "a tokenizer of other shards",
    "no validation to stop early by",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_costs_the_earlier_run_nothing(
    name: str, tiny: ModuleType, data: Path, started: Path, out: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(started, out)
    (tmp_path / "other").mkdir()
    shutil.copytree(data / "tokenizer", tmp_path / "other" / "tokenizer")
    with (tmp_path / "other" / "tokenizer" / "tokenizer.model").open("ab") as file:
        file.write(b"\x0a\x00")
    before = files(out)
    job, says = refusals(tiny.job("pretrain", out, data), write, tmp_path)[name]
    with pytest.raises(CirillaError, match=says):
        train(job, Silent(), restart=True)
    assert files(out) == before
    assert {path.name for path in out.iterdir()} == {path.name for path in started.iterdir()}


def test_rows_tokenized_beside_the_earlier_run_become_the_new_ones(
    run: Callable[..., TrainReport], tiny: ModuleType, out: Path, write: Callable[..., Path]
) -> None:
    rows = {"data": text(wiki={"path": write(*DOCUMENTS)}), "tokenizer": OWN_TOKENIZER}
    run(**rows)
    first = tiny.curve(out)
    with pytest.raises(CirillaError, match="stopped after step 2"):
        run(stop_after_2(), restart=True, **rows)
    assert not (out / ".fresh").exists()
    assert (out / "shards" / "wiki" / "shards" / "text" / "index.json").is_file()
    assert run(**rows).continued_from == 2
    assert tiny.curve(out) == first


def test_rows_of_standard_input_are_read_once_when_a_run_starts_over(
    run: Callable[..., TrainReport], tiny: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in DOCUMENTS)
    rows = {"data": text(wiki={"path": Path("-")}), "tokenizer": OWN_TOKENIZER}

    def pipe() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="utf-8"))

    pipe()
    with pytest.raises(CirillaError, match="stopped after step 2"):
        run(stop_after_2(), restart=True, **rows)
    pipe()
    assert run(**rows).continued_from == 2


@pytest.mark.parametrize("below", ["", "shards", "shards/text"])
def test_a_run_that_reads_what_it_would_remove_is_refused(
    below: str, run: Callable[..., TrainReport], tiny: ModuleType, out: Path
) -> None:
    """The output of `cirilla tokenize` in the same folder; continuing there is no harm."""
    tiny.make_data(out)
    with pytest.raises(CirillaError, match="stopped after step 2"):
        run(stop_after_2(), data_from=out / below)
    before = files(out)
    with pytest.raises(CirillaError, match=r"shards.text: this is read, and starting over in .* would remove it"):
        run(data_from=out / below, restart=True)
    assert files(out) == before
    assert run(data_from=out / below).continued_from == 2


def test_rows_and_tokenizers_within_the_run_are_kept_too(
    run: Callable[..., TrainReport], tiny: ModuleType, data: Path, out: Path
) -> None:
    run()
    shutil.copy(data / "rows.jsonl", out / "samples.jsonl")
    before = files(out)
    with pytest.raises(CirillaError, match=r"samples.jsonl: this is read"):
        run(data=text(wiki={"path": out}), tokenizer=OWN_TOKENIZER, restart=True)
    with pytest.raises(CirillaError, match=r"step-000006: this is read"):
        run(tokenizer=LoadTokenizerConfig(path=tiny.saved(out)[6]), restart=True)
    assert files(out) == before


def test_pages_about_the_earlier_run_go_with_it(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path
) -> None:
    run(train=TrainConfig(**{**LASTING, "steps": 2}))
    report([out], out / "report.html", png=True, compare=lambda a, b: [], version="0")
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert "report-loss.png" in pictures
    (out / "notes.png").write_bytes(b"mine")
    run(restart=True, train=TrainConfig(**{**LASTING, "steps": 2}))
    assert not (out / "report.html").exists()
    assert [path.name for path in out.glob("*.png")] == ["notes.png"]


@pytest.mark.parametrize(
    ("sources", "schedule", "says"),
    [
        ({"a": {"decay_weight": 1.0}}, ConstantConfig(), "`data.sources.a.decay_weight` is given, but only"),
        ({"a": {"weight": 0.0}, "b": {"weight": 0.0}}, ConstantConfig(), "every `weight` in `data.sources` is 0"),
        (
            {"a": {"weight": 1.0, "decay_weight": 0.0}, "b": {"weight": 0.0}},
            WSDConfig(),
            "while the learning rate decays",
        ),
    ],
)
def test_weights_without_effect_or_without_rows_are_refused(
    sources: dict[str, Any], schedule: Any, says: str, run: Callable[..., TrainReport], data: Path, out: Path
) -> None:
    mixed = text(**{name: {"path": data, **keys} for name, keys in sources.items()})
    with pytest.raises(CirillaError, match=says):
        run(data=mixed, schedule=schedule, eval=EvaluationConfig())
    assert not out.exists()
