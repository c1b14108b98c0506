"""Shards that runs share are taken, not made again, and never where they are damaged."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data import run
from cirilla_cli.data.config import LoadTokenizerConfig, TokenizeConfig
from cirilla_cli.data.parts import Share
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.data.shared import tokenize_merge, tokenize_share
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def config(tmp_path: Path, wiki: str, tokenizer: SentencePieceTokenizer) -> TokenizeConfig:
    """Sixty pages and twenty chats in small shards, a fifth held out."""
    lines = [line for line in wiki.split("\n") if len(line) > 60]
    rows: list[dict[str, Any]] = [
        {"id": f"p{n}", "title": f"t{n}", "text": "\n".join(lines[n : n + 4])} for n in range(60)
    ]
    for n in range(20):
        turns = [{"role": "user", "content": f"What of {n}?"}, {"role": "assistant", "content": lines[n][:80]}]
        made = {"source": "x", "generator": {"strategy": "rules"}, "split_key": f"p{n}"}
        rows.append({"kind": "chat", "id": f"s{n}", **made, "messages": turns})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer.save(tmp_path / "tokenizer")
    return TokenizeConfig(
        inputs=(tmp_path / "rows.jsonl",), tokenizer=LoadTokenizerConfig(path=tmp_path / "tokenizer"), val=0.2,
        shard_tokens=6000, cache=tmp_path / "cache",
    )  # fmt: skip


def alone(config: TokenizeConfig) -> TokenizeConfig:
    return config.model_copy(update={"cache": None})


def left(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data.replace(str(folder).encode(), b"OUT") for name, data in found.items()}


@pytest.fixture
def expected(config: TokenizeConfig, tmp_path: Path) -> dict[str, bytes]:
    """What a run leaves that knows of no other."""
    tokenize(alone(config), tmp_path / "alone", Silent())
    return left(tmp_path / "alone")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by a number with each shard that is encoded: that of its records."""
    made, encode = list[int](), run.encode_all
    monkeypatch.setattr(run, "encode_all", lambda records, by: (made.append(len(records)), encode(records, by))[1])
    return made


@pytest.mark.parametrize("linked", [True, False])
def test_another_run_takes_every_shard_and_leaves_the_same_bytes(
    linked: bool, config: TokenizeConfig, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    made = counting(monkeypatch)
    tokenize(config, tmp_path / "first", Silent())
    assert sum(made) == 80
    tokenize(config, tmp_path / "second", Silent())
    assert sum(made) == 80
    assert left(tmp_path / "first") == left(tmp_path / "second") == expected
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()], "no file of a name that nobody looks for"
    ours, theirs = (next((tmp_path / n / "shards" / "text").glob("val-*.bin")) for n in ("first", "second"))
    assert ours.samefile(theirs) is linked


def test_rows_that_leave_cost_the_shards_near_them_alone(
    config: TokenizeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(config, tmp_path / "first", Silent())
    lines = config.inputs[0].read_text().splitlines(keepends=True)
    config.inputs[0].write_text("".join(lines[:7] + lines[8:]))
    made = counting(monkeypatch)
    tokenize(config, tmp_path / "second", Silent())
    assert 0 < sum(made) < 30
    tokenize(alone(config), tmp_path / "clean", Silent())
    assert left(tmp_path / "second") == left(tmp_path / "clean")


DAMAGE = {
    "shard.bin": "bit",
    "shard.idx.npy": "bit",
    "shard.mask": "gone",
    "shard.rows.jsonl": "bit",
    "shard.json": "cut",
}


@pytest.mark.parametrize("file", DAMAGE)
def test_what_is_damaged_is_made_anew_and_mended(
    file: str, config: TokenizeConfig, expected: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokenize(config, tmp_path / "first", Silent())
    path = next((tmp_path / "cache").rglob(file))
    data, harm = path.read_bytes(), DAMAGE[file]
    path.unlink()  # not the run's own file, which is the same one
    if harm != "gone":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 64]) if harm == "bit" else data[:-3])
    made = counting(monkeypatch)
    for name, anew in (("second", 1), ("third", 1)):
        tokenize(config, tmp_path / name, Silent())
        assert (len(made), left(tmp_path / name)) == (anew, expected)


def test_parts_take_and_give_and_need_not_share_a_cache(
    config: TokenizeConfig, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize_share(config, tmp_path / "array", Share(1, 2), Silent())
    made = counting(monkeypatch)
    tokenize(config, tmp_path / "other", Silent())
    assert 0 < sum(made) < 80
    tokenize_share(alone(config), tmp_path / "array", Share(2, 2), Silent())
    tokenize_merge(config, tmp_path / "array", Silent())
    assert left(tmp_path / "array") == left(tmp_path / "other") == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_runs_at_once_give_each_other_whole_shards(
    config: TokenizeConfig, expected: dict[str, bytes], tmp_path: Path
) -> None:
    runs = [FORK.Process(target=tokenize, args=(config, tmp_path / f"run{n}", Silent())) for n in range(3)]
    for process in runs:
        process.start()
    for process in runs:
        process.join()
    assert [left(tmp_path / f"run{n}") == expected for n in range(3)] == [True] * 3
    assert not [p for p in (tmp_path / "cache").rglob(".*") if p.is_file()]


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is(config: TokenizeConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(CirillaError, match="`tokenize.cache` is .*must be a folder") as caught:
        tokenize(config, tmp_path / "out", Silent())
    assert "tokenize.cache=null" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
