"""What a run began with: its data, the model it starts from, the lock that remembers both."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cirilla_cli.data.config import (
    ConversationsConfig,
    PackedTextConfig,
    PreferencesConfig,
    SentencePieceConfig,
    TextSourceConfig,
    TokenizeConfig,
)
from cirilla_cli.data.run import tokenize
from cirilla_cli.engine.build import build, open_inputs
from cirilla_cli.engine.config import CrossEntropyConfig, DPOConfig, EvaluationConfig, MemoryConfig, TrainConfig
from cirilla_cli.engine.hooks import Log
from cirilla_cli.engine.lock import weights_hash
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.engine.run import TrainReport, plan, train, verify_resume
from cirilla_cli.engine.saving import Sitting
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent


@pytest.fixture
def base(started: Path, memory: Path) -> Path:
    """A copy of the starting model that a test may change."""
    return shutil.copytree(started, memory / "base")


@pytest.fixture
def mine(data: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may change."""
    return shutil.copytree(data, tmp_path / "mine")


@pytest.fixture
def go(tiny: ModuleType, data: Path, out: Path) -> Callable[..., TrainReport]:
    """A run of a verb from the beginning or where it stopped; ``stop`` interrupts it after a step."""

    def run(verb: str, start: Path, *, stop: int = 0, data_from: Path = data, **changes: Any) -> TrainReport:
        class Listener(Silent):
            def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
                if what == verb and done == stop:
                    os.kill(os.getpid(), signal.SIGTERM)

        return train(tiny.job(verb, out, data_from, start=start, **changes), Listener())

    return run


def stopped(go: Callable[..., TrainReport], verb: str, start: Path, **changes: Any) -> None:
    with pytest.raises(CirillaError, match="stopped after step 2"):
        go(verb, start, stop=2, **changes)


# The model a run starts from


def test_a_reference_that_was_trained_again_is_refused(
    go: Callable[..., TrainReport], tiny: ModuleType, base: Path, data: Path, started: Path
) -> None:
    stopped(go, "dpo", base)
    train(tiny.job("pretrain", base, data, seed=5), Silent(), restart=True)
    with pytest.raises(CirillaError, match=r"the weights in .*base.* are not those that this run began from") as caught:
        go("dpo", base)
    assert "--fresh" in (caught.value.hint or "")
    shutil.rmtree(base)
    shutil.copytree(started, base)
    assert go("dpo", base).continued_from == 2


@pytest.mark.parametrize("verb", ["sft", "pretrain"])
def test_a_run_with_a_checkpoint_of_its_own_needs_its_base_no_more(
    verb: str, go: Callable[..., TrainReport], tiny: ModuleType, base: Path, out: Path
) -> None:
    go(verb, base)
    straight = tiny.final_digests(out)
    shutil.rmtree(out)
    stopped(go, verb, base)
    shutil.rmtree(base)
    assert go(verb, base).continued_from == 2
    assert tiny.final_digests(out) == straight


def test_the_hash_of_weights_covers_all_their_files_and_no_others(tmp_path: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "optimizer.safetensors"):
        (tmp_path / name).write_bytes(b"a")
    first = weights_hash(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"b")
    assert weights_hash(tmp_path) == first
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"b")
    assert weights_hash(tmp_path) != first


# Its rows


@pytest.mark.parametrize("verb", ["sft", "dpo"])
def test_rows_that_could_be_two_things_are_what_format_says(
    verb: str, go: Callable[..., TrainReport], started: Path, tmp_path: Path
) -> None:
    """They could be a chat of Alpaca's (the key `output`) or of a prompt and its completion; or a pair."""
    both = {"instruction": "the griffin", "output": "silver", "prompt": "the moon", "completion": "gold"}
    row = {**both, "chosen": "gold", "rejected": "rain"} if verb == "dpo" else both
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "id": n}) + "\n" for n in range(40)), encoding="utf-8")
    kind, name = (PreferencesConfig, "preference") if verb == "dpo" else (ConversationsConfig, "alpaca")
    with pytest.raises(CirillaError, match=r"rows.jsonl:1: could be .*`format` says which"):
        go(verb, started, data=kind(path=(path,), val=0.2))
    go(verb, started, data=kind(path=(path,), val=0.2, format=name), train=TrainConfig(steps=2, batch_tokens=64))


# Its shards


def change_mask(folder: Path) -> Path:
    path = folder / "train-00000.mask"
    flags = np.fromfile(path, np.uint8)
    flags[np.flatnonzero(flags)[0]] = 0
    path.write_bytes(flags.tobytes())
    return path


def change_ends(folder: Path) -> Path:
    path = folder / "train-00000.idx.npy"
    ends = np.load(path)
    ends[3] += 1
    np.save(path, ends)
    return path


def change_ids(folder: Path) -> Path:
    path = folder / "train-00000.bin"
    ids = np.fromfile(path, "<u2")
    ids[5] ^= 1
    path.write_bytes(ids.tobytes())
    return path


@pytest.mark.parametrize("change", [change_mask, change_ends, change_ids])
def test_shards_that_were_changed_in_place_are_refused(
    change: Callable[[Path], Path], go: Callable[..., TrainReport], mine: Path, started: Path
) -> None:
    stopped(go, "sft", started, data_from=mine)
    folder = mine / "shards" / "chat"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    path = change(folder)
    with pytest.raises(CirillaError) as caught:
        go("sft", started, data_from=mine)
    assert str(caught.value) == f"{path}: its bytes are no longer those that were tokenized"
    path.write_bytes(kept[path])
    assert go("sft", started, data_from=mine).continued_from == 2


@pytest.mark.parametrize("verb", ["sft", "dpo"])
def test_shards_of_other_rows_and_another_tokenizer_have_changed_since_the_run_began(
    verb: str, go: Callable[..., TrainReport], tiny: ModuleType, mine: Path, started: Path, out: Path
) -> None:
    """Said before the tokenizer is compared: to tokenize them again with the model's would not be of help."""
    stopped(go, verb, started, data_from=mine)
    kept = mine.rename(mine.with_name("kept"))
    source = kept / "rows.jsonl"
    turned = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for row in turned:
        row.update({key: row[key][::-1] for key in ("text", "chosen", "rejected") if key in row})
    mine.mkdir()
    (mine / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned), encoding="utf-8")
    section = SentencePieceConfig(vocab_size=330)
    tokenize(TokenizeConfig(inputs=(mine / "rows.jsonl",), tokenizer=section, val=0.2), mine, Silent())
    for attempt in (train, plan, verify_resume):
        with pytest.raises(CirillaError, match="the data of .* has changed since this run began") as caught:
            attempt(tiny.job(verb, out, mine, start=started), Silent())
        assert "put back what it began with" in str(caught.value.hint)
    shutil.rmtree(mine)
    kept.rename(mine)
    assert go(verb, started, data_from=mine).continued_from == 2


def test_shards_that_were_only_copied_are_the_same(go: Callable[..., TrainReport], mine: Path, started: Path) -> None:
    stopped(go, "sft", started, data_from=mine)
    for path in mine.rglob("*"):
        os.utime(path, (1, 1))
    assert go("sft", started, data_from=mine).continued_from == 2


def test_pairs_that_are_cut_are_counted_and_said(tiny: ModuleType, data: Path, started: Path, out: Path) -> None:
    """The oracle counts pairs that are longer than a row together and have an answer within half of it."""
    folder = data / "shards" / "preference"
    ends = np.load(folder / "train-00000.idx.npy").astype(int)
    mask = np.fromfile(folder / "train-00000.mask", np.uint8)
    masks = np.split(mask, ends[:-1])
    pairs = list(zip(masks[::2], masks[1::2], strict=True))
    long = [pair for pair in pairs if sum(len(part) - 1 for part in pair) > 48]
    kept = [pair for pair in long if all(part[1:25].any() for part in pair)]
    listener = tiny.Listener()
    model = tiny.job("dpo", out, data, start=started).model.model_copy(update={"context_length": 48})
    train(tiny.job("dpo", out, data, model=model, train=TrainConfig(steps=1, batch_tokens=96)), listener)
    assert 0 < len(kept) < len(pairs)
    assert any(text.startswith(f"{len(kept)} pairs are longer than a row of 48 tokens") for text in listener.said)


# Its tokenizer


def test_a_tokenizer_section_that_is_not_used_is_said(run: Callable[..., TrainReport], tiny: ModuleType) -> None:
    listener = tiny.Listener()
    run(listener, tokenizer=SentencePieceConfig(vocab_size=999))
    assert sum("`tokenizer` of the recipe is not used" in text for text in listener.said) == 1


@pytest.mark.parametrize("first", ["rows", "shards"])
def test_rows_beside_finished_shards_take_the_shards_tokenizer(
    first: str, run: Callable[..., TrainReport], data: Path, out: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": f"{i}", "title": "", "text": f"moon {i} road"}) + "\n" for i in range(40))
    )
    sources = {"rows": TextSourceConfig(path=rows), "shards": TextSourceConfig(path=data)}
    ordered = {name: sources[name] for name in (first, *(sources.keys() - {first}))}
    assert run(data=PackedTextConfig(sources=ordered), tokenizer=SentencePieceConfig(vocab_size=300)).step == 6
    made = json.loads((out / "shards" / "rows" / "shards" / "text" / "index.json").read_text())
    theirs = json.loads((data / "shards" / "text" / "index.json").read_text())
    assert made["tokenizer_hash"] == theirs["tokenizer_hash"]


# The lock


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda lock: lock.pop("data"), "`data` missing or of the wrong type"),
        (lambda lock: lock.update(data=[], machine=3), "`data`, `machine` missing or of the wrong type"),
        (lambda lock: lock.pop("base"), "`base` missing or of the wrong type"),
        (lambda lock: lock.update(resolved=None), "`resolved` missing"),
        (lambda lock: lock.update(version=1), "lock format version 1, this program reads 2"),
        (lambda lock: lock.clear(), "lock format version None"),
    ],
)
def test_a_damaged_lock_is_one_clear_error(
    damage: Callable[[dict[str, Any]], Any], says: str, run: Callable[..., TrainReport], out: Path
) -> None:
    run()
    path = out / "lock.json"
    lock = json.loads(path.read_text())
    damage(lock)
    path.write_text(json.dumps(lock))
    with pytest.raises(CirillaError) as caught:
        run()
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "--fresh" in (caught.value.hint or "")
    assert run(restart=True).step == 6


def test_strange_stamps_in_a_lock_cost_only_a_reading(run: Callable[..., TrainReport], out: Path) -> None:
    run()
    path = out / "lock.json"
    lock = json.loads(path.read_text())
    for files in ({}, {"wiki": 3}, {"wiki": {"train-00000.bin": "x"}}):
        path.write_text(json.dumps({**lock, "files": files}))
        assert run().already_done


# What is built from it


def built(job: Any) -> Trainer:
    return build(job, None, None, open_inputs(job, None, job.out / "shards", Silent()), Sitting(), ALONE, Silent())


@pytest.mark.parametrize("verb", ["pretrain", "dpo"])
def test_the_limit_on_logits_reaches_the_objective(
    verb: str, tiny: ModuleType, data: Path, started: Path, out: Path
) -> None:
    start = None if verb == "pretrain" else started
    trainer = built(tiny.job(verb, out, data, start=start, memory=MemoryConfig(logits_bytes=54_321)))
    assert trainer.objective.logits_bytes == 54_321  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", [CrossEntropyConfig(), DPOConfig()])
def test_every_objectives_section_builds_it(config: Any) -> None:
    objective = config.build(logits_bytes=7)
    assert objective.logits_bytes == 7
    assert objective.main == {"cross_entropy": "nll", "dpo": "dpo"}[config.kind]


def test_mfu_counts_the_products_of_whole_rows(tiny: ModuleType, data: Path, out: Path) -> None:
    """By hand: projections 4 * 16 * 16, feed-forward 3 * 16 * 24, head 340 * 16; 2 heads of 8 that see 32 keys."""
    from dataclasses import replace

    sft = replace(tiny.job("sft", out, data), model=tiny.decoder(context_length=64))
    trainer = built(sft)
    hook = next(hook for hook in trainer.hooks if isinstance(hook, Log))
    weights = 4 * 16 * 16 + 3 * 16 * 24 + 340 * 16
    per_token = 3 * (2 * weights + 4 * 2 * 8 * 32)
    assert hook.flops_per_step == 4 * 64 * per_token
    counted = sum(trainer.objective.counts(batch)["tokens"] for batch in trainer.source.step(0))
    assert counted < 4 * 64 / 2, "most of a row is not trained on, and is computed all the same"
    hook.rate = 1e9
    out.mkdir(exist_ok=True)
    metrics = {"step": 1, "step_seconds": 0.5}
    hook.on_step(trainer, metrics)
    assert metrics["mfu"] == pytest.approx(4 * 64 * per_token / 0.5 / 1e9, abs=1e-4)


def test_only_early_stopping_counts_evaluations_without_gain(
    run: Callable[..., TrainReport], tiny: ModuleType, out: Path
) -> None:
    from cirilla_cli.engine.config import AdamWConfig, EarlyStoppingConfig

    changes = {"eval": EvaluationConfig(every=1, max_tokens=64), "optim": AdamWConfig(lr=0.2)}
    run(**changes)
    state = json.loads((tiny.saved(out)[6] / "state.json").read_text())
    assert state["evaluations_without_gain"] == 0
    assert state["best_step"] < 6
    picky = TrainConfig(steps=6, batch_tokens=256, early_stopping=EarlyStoppingConfig(patience=9, min_improvement=5.0))
    run(restart=True, train=picky, **changes)
    assert json.loads((tiny.saved(out)[6] / "state.json").read_text())["evaluations_without_gain"] == 5


def test_signals_are_taken_only_while_there_is_something_to_save(
    run: Callable[..., TrainReport], data: Path, out: Path
) -> None:
    """Before the first step and after the last, Ctrl-C ends the program as any other."""
    seen: dict[str, set[bool]] = {}
    usual = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    class Listener(Silent):
        def note(self, when: str) -> None:
            seen.setdefault(when, set()).add(
                (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == usual
            )

        def say(self, text: str) -> None:
            self.note("said")

        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            self.note(what)

    rows = PackedTextConfig(sources={"wiki": TextSourceConfig(path=data / "rows.jsonl")})
    run(Listener(), data=rows, tokenizer=SentencePieceConfig(vocab_size=340))
    assert seen == {"said": {True}, "tokenize": {True}, "pretrain": {False}}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == usual
