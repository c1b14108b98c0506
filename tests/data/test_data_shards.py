"""Token shards: what is written is read, damage is noticed, and a killed run leaves nothing that looks finished."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.rows import Document, held_out
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.data.shards import Encoded, ShardIndex, TokenShards, write_shard
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent

DOCUMENTS = [[5, 6], [7], [8, 9, 10], [], [11], [12, 13], [14]]


def test_what_was_written_is_read(make_shards: Callable[..., TokenShards]) -> None:
    shards = make_shards(DOCUMENTS)
    assert (shards.n_documents, shards.n_tokens) == (7, 10)
    assert [shards.document(i).tolist() for i in range(7)] == DOCUMENTS
    assert shards.lengths.tolist() == [2, 1, 3, 0, 1, 2, 1]
    assert all(shards.counted(i).all() for i in range(7))


def test_files_looked_at_whole_leave_the_memory_that_documents_are_read_from(
    make_shards: Callable[..., TokenShards],
) -> None:
    shards = make_shards([[1, 2, 3], [4], [5, 6]])
    seen = list(shards.files())
    assert np.concatenate(seen).tolist() == [1, 2, 3, 4, 5, 6]
    assert not any(np.shares_memory(ids, shards.document(n)) for ids in seen for n in range(3))


def test_masks_are_read(make_shards: Callable[..., TokenShards]) -> None:
    documents = [([5, 6, 7], [False, True, False]), ([8], [True]), ([9, 9], [False, False]), ([1, 2], [True, True])]
    shards = make_shards(documents, kind="chat")
    assert [shards.counted(i).tolist() for i in range(4)] == [mask for _, mask in documents]
    assert sum(info.trained for info in shards.index.splits["train"]) == 4


@pytest.mark.parametrize(("vocab_size", "dtype", "largest"), [(65_536, "<u2", 65_535), (65_537, "<u4", 65_536)])
def test_ids_are_stored_in_the_narrowest_kind_that_holds_them(
    make_shards: Callable[..., TokenShards], vocab_size: int, dtype: str, largest: int
) -> None:
    shards = make_shards([[0, largest]], vocab_size=vocab_size)
    assert shards.document(0).tolist() == [0, largest]
    raw = (shards.folder / "train-00000.bin").read_bytes()
    assert np.frombuffer(raw, dtype).tolist() == [0, largest]


@pytest.mark.parametrize("start", [0, 1, 4, 9])
@pytest.mark.parametrize("count", [1, 5, 10, 23])
def test_reading_across_documents_shards_and_the_end(
    make_shards: Callable[..., TokenShards], start: int, count: int
) -> None:
    shards = make_shards(DOCUMENTS)
    flat = [(token, n) for n, document in enumerate(DOCUMENTS) for token in document]
    expected = [(flat[i % 10][0], flat[i % 10][1] + 7 * (i // 10)) for i in range(start, start + count)]
    ids, documents = shards.read(start, count)
    assert [*zip(ids.tolist(), documents.tolist(), strict=True)] == expected


def test_an_absent_split_is_empty(make_shards: Callable[..., TokenShards]) -> None:
    empty = TokenShards.open(make_shards(DOCUMENTS).folder, "val")
    assert (empty.n_documents, empty.n_tokens, empty.lengths.tolist()) == (0, 0, [])


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ids cut short": ("train-00001.bin", lambda p: os.truncate(p, 2)),
    "ids missing": ("train-00001.bin", lambda p: p.unlink()),
    "ids of another kind": ("train-00000.bin", lambda p: p.write_bytes(p.read_bytes() * 2)),
    "ends cut short": ("train-00001.idx.npy", lambda p: os.truncate(p, 40)),
    "ends missing": ("train-00001.idx.npy", lambda p: p.unlink()),
    "ends of another shard": ("train-00001.idx.npy", lambda p: np.save(p, np.array([1, 2, 3], np.uint64))),
    "mask cut short": ("train-00000.mask", lambda p: os.truncate(p, 1)),
    "mask missing": ("train-00000.mask", lambda p: p.unlink()),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named(
    make_shards: Callable[..., TokenShards], name: str, damage: Callable[[Path], Any]
) -> None:
    documents = [([t + 1, t], [False, True]) for t in range(5)]
    folder = make_shards(documents, kind="chat").folder
    damage(folder / name)
    with pytest.raises(CirillaError, match=f"{name}.*the shard is damaged"):
        TokenShards.open(folder)


def test_no_index_means_no_shards(make_shards: Callable[..., TokenShards]) -> None:
    folder = make_shards(DOCUMENTS).folder
    data = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**data, "version": 99}))
    with pytest.raises(CirillaError, match="shard format version 99"):
        TokenShards.open(folder)
    (folder / "index.json").unlink()
    with pytest.raises(CirillaError, match=r"no index\.json, so no finished token shards"):
        TokenShards.open(folder)


def test_an_empty_shard_is_whole(tmp_path: Path) -> None:
    info = write_shard(tmp_path, "train-00000", [], 100)
    assert (info.tokens, info.documents) == (0, 0)
    assert write_shard(tmp_path, "train-00001", [Encoded([])], 100).documents == 1


# The verb


@pytest.fixture
def rows(tmp_path: Path, wiki: str) -> Path:
    """Sixty pages, forty chats and ten preferences."""
    lines = [line for line in wiki.split("\n") if len(line) > 60]
    rows: list[dict[str, Any]] = [
        {"id": f"p{n}", "title": f"t{n}", "text": "\n".join(lines[n : n + 4])} for n in range(60)
    ]
    base = {"source": "test", "generator": {"strategy": "rules"}}
    for n in range(50):
        turns = [{"role": "user", "content": f"What of {n}?"}, {"role": "assistant", "content": lines[n][:80]}]
        answers = {"kind": "preference", "chosen": lines[n][:40], "rejected": "No."} if n >= 40 else {"kind": "chat"}
        rows.append({**base, **answers, "id": f"s{n}", "split_key": f"p{n}", "messages": turns[: 1 if n >= 40 else 2]})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path: Path, rows: Path, tokenizer: SentencePieceTokenizer) -> TokenizeConfig:
    """Small shards, a fifth held out."""
    tokenizer.save(tmp_path / "tokenizer")
    return TokenizeConfig(
        inputs=(rows,), tokenizer=LoadTokenizerConfig(path=tmp_path / "tokenizer"), val=0.2, shard_tokens=3000
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pages_and_samples_end_in_shards_of_their_kind(
    config: TokenizeConfig, tmp_path: Path, rows: Path, tokenizer: SentencePieceTokenizer
) -> None:
    report = tokenize(config, tmp_path / "out", Silent())
    assert report.rows == 110
    assert report.round_trip_failures == 0
    counts = {(kind, split): n["documents"] for kind, splits in report.kinds.items() for split, n in splits.items()}
    assert counts["text", "train"] + counts["text", "val"] == 60
    assert counts["chat", "train"] + counts["chat", "val"] == 40
    assert counts["preference", "train"] + counts.get(("preference", "val"), 0) == 20
    assert len(ShardIndex.read(tmp_path / "out" / "shards" / "text").splits["train"]) > 3
    texts = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()[:60]]
    wanted = [t for n, t in enumerate(texts) if not held_out(f"p{n}", frac=0.2)]
    shards = TokenShards.open(tmp_path / "out" / "shards" / "text")
    assert [tokenizer.decode(shards.document(i).tolist()) for i in range(shards.n_documents)] == wanted


def test_nothing_about_a_held_out_page_is_trained_on(config: TokenizeConfig, tmp_path: Path) -> None:
    """Chats carry the split key of their page: each side holds both, or neither."""
    tokenize(config, tmp_path / "out", Silent())
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    for split, on_this_side in (("train", False), ("val", True)):
        shards = TokenShards.open(tmp_path / "out" / "shards" / "chat", split)
        found = [tokenizer.decode(shards.document(i).tolist()) for i in range(shards.n_documents)]
        numbers = {int(text.split("What of ")[1].split("?")[0]) for text in found}
        assert numbers == {n for n in range(40) if held_out(f"p{n}", frac=0.2) is on_this_side}


def test_a_preference_is_two_documents_that_share_the_prompt(config: TokenizeConfig, tmp_path: Path) -> None:
    tokenize(config, tmp_path / "out", Silent())
    tokenizer, shards = (
        load_tokenizer(tmp_path / "tokenizer"),
        TokenShards.open(tmp_path / "out" / "shards" / "preference"),
    )
    assert shards.n_documents % 2 == 0
    for i in range(0, shards.n_documents, 2):
        ids, masks = ([*map(read, (i, i + 1))] for read in (shards.document, shards.counted))
        firsts = [int(mask.argmax()) for mask in masks]
        assert firsts[0] == firsts[1]
        assert ids[0][: firsts[0]].tolist() == ids[1][: firsts[0]].tolist()
        assert tokenizer.decode(ids[1][masks[1]].tolist()) == "No."


def test_several_processes_write_the_same_bytes_as_one(config: TokenizeConfig, tmp_path: Path) -> None:
    tokenize(config, tmp_path / "one", Silent())
    tokenize(config.model_copy(update={"workers": 2}), tmp_path / "two", Silent())
    assert files(tmp_path / "one" / "shards") == files(tmp_path / "two" / "shards")


KILLED_AFTER = """
import os, signal, sys
from pathlib import Path
from cirilla_cli.data.config import TokenizeConfig
from cirilla_cli.data.run import tokenize

class Killing:
    def say(self, text): pass
    def step(self, what, done, total=None, **figures):
        if done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

tokenize(TokenizeConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Killing())
"""


def killed_after(shards: int, config: TokenizeConfig, out: Path) -> None:
    """Run the verb in a process of its own that is killed once that many shards are written."""
    call = [sys.executable, "-c", KILLED_AFTER, config.model_dump_json(), str(out), str(shards)]
    assert subprocess.run(call, check=False).returncode == -signal.SIGKILL


def test_a_killed_run_looks_unfinished_and_ends_in_the_same_bytes(config: TokenizeConfig, tmp_path: Path) -> None:
    tokenize(config, tmp_path / "whole", Silent())
    for shards in (2, 5):
        killed_after(shards, config, tmp_path / "out")
        assert len([*(tmp_path / "out" / "shards").rglob("*.bin")]) >= shards
        with pytest.raises(CirillaError, match=r"no index\.json"):
            TokenShards.open(tmp_path / "out" / "shards" / "text")
    tokenize(config, tmp_path / "out", Silent())
    assert files(tmp_path / "out" / "shards") == files(tmp_path / "whole" / "shards")


def test_a_killed_run_over_other_rows_does_not_pass_for_the_one_before(
    config: TokenizeConfig, tmp_path: Path, rows: Path
) -> None:
    """The index of the first run must not vouch for shards of the second."""
    tokenize(config, tmp_path / "out", Silent())
    rows.write_text(
        "".join(line + "\n" for line in rows.read_text(encoding="utf-8").splitlines()[::-1]), encoding="utf-8"
    )
    killed_after(1, config, tmp_path / "out")
    with pytest.raises(CirillaError, match=r"no index\.json"):
        TokenShards.open(tmp_path / "out" / "shards" / "text")


def test_a_second_run_encodes_nothing_again(config: TokenizeConfig, tmp_path: Path) -> None:
    tokenize(config, tmp_path / "out", Silent())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "shards").rglob("*.bin")}
    tokenize(config, tmp_path / "out", Silent())
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "shards").rglob("*.bin")}


def test_changed_rows_are_encoded_again(config: TokenizeConfig, tmp_path: Path, rows: Path) -> None:
    tokenize(config, tmp_path / "out", Silent())
    rows.write_text(rows.read_text(encoding="utf-8").replace("witcher", "hunter"), encoding="utf-8")
    tokenize(config, tmp_path / "out", Silent())
    tokenize(config, tmp_path / "clean", Silent())
    names = {str(p.relative_to(tmp_path / "clean")) for p in (tmp_path / "clean" / "shards").rglob("*.bin")}
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "clean" / n).read_bytes() for n in names)


@pytest.fixture
def many(tmp_path: Path, wiki: str) -> Path:
    """Two thousand pages of a line."""
    lines = [line for line in wiki.split("\n") if len(line) > 60]
    path = tmp_path / "many.jsonl"
    texts = [f"Page {n}. {lines[7 * n % len(lines)]}" for n in range(2000)]
    path.write_text("".join(Document(id=f"p{n}", title="", text=text).line() + "\n" for n, text in enumerate(texts)))
    return path


def stamps(folder: Path) -> dict[str, int]:
    """Shards by what they hold, and when each was written."""
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path.stat().st_mtime_ns for path in folder.rglob("*.bin")}


def without(path: Path, number: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:number] + lines[number + 1 :]), encoding="utf-8")


@pytest.mark.parametrize("killed", [(), (1,)])
def test_a_row_that_leaves_changes_the_shards_near_it_and_others_are_not_made_again(
    config: TokenizeConfig, tmp_path: Path, many: Path, killed: tuple[int, ...]
) -> None:
    config = config.model_copy(update={"inputs": (many,), "shard_tokens": 20_000})
    tokenize(config, tmp_path / "out", Silent())
    before = stamps(tmp_path / "out" / "shards")
    assert len(before) > 20
    without(many, 0)
    for shards in killed:
        killed_after(shards, config, tmp_path / "out")
    tokenize(config, tmp_path / "out", Silent())
    tokenize(config, tmp_path / "clean", Silent())
    assert files(tmp_path / "out" / "shards") == files(tmp_path / "clean" / "shards")
    after = stamps(tmp_path / "out" / "shards")
    kept = [digest for digest in after if before.get(digest) == after[digest]]
    assert len(kept) >= len(after) - 4 - len(killed)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 30, 66])
def test_stopped_while_files_are_renamed_the_next_run_ends_in_the_same_bytes(
    config: TokenizeConfig, tmp_path: Path, rows: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(config, tmp_path / "out", Silent())
    without(rows, 0)
    renamed = count()

    def rename(source: Path, target: Path) -> None:
        if next(renamed) == at:
            raise KeyboardInterrupt
        os.replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("cirilla_cli.data.aside.rename", rename)
        with pytest.raises(KeyboardInterrupt):
            tokenize(config, tmp_path / "out", Silent())
    tokenize(config, tmp_path / "out", Silent())
    tokenize(config, tmp_path / "clean", Silent())
    assert files(tmp_path / "out" / "shards") == files(tmp_path / "clean" / "shards")


def test_the_index_says_where_the_tokens_come_from(tmp_path: Path) -> None:
    license = {"name": "CC-BY-SA 3.0"}
    page = Document.model_validate({"id": "1", "title": "Ciri", "text": "Ciri is a witcher.", "license": license})
    (tmp_path / "x.jsonl").write_text(page.line() + "\n")
    config = TokenizeConfig(inputs=(tmp_path / "x.jsonl",), tokenizer=SentencePieceConfig(vocab_size=300))
    report = tokenize(config, tmp_path / "out", Silent())
    index = ShardIndex.read(tmp_path / "out" / "shards" / "text")
    assert index.licenses == report.licenses == {"CC-BY-SA 3.0": 1}
    assert [source["path"] for source in index.sources] == [str(tmp_path / "x.jsonl")]
    assert index.tokenizer_hash == load_tokenizer(tmp_path / "out").hash
    assert index.vocab_size == report.vocab_size


@pytest.mark.parametrize("content", ["", "\n\n"], ids=["empty", "blank"])
def test_no_rows_are_said(
    tmp_path: Path, content: str, tokenizer: SentencePieceTokenizer, config: TokenizeConfig
) -> None:
    (tmp_path / "none.jsonl").write_text(content)
    with pytest.raises(CirillaError, match="no rows, so nothing to tokenize"):
        tokenize(config.model_copy(update={"inputs": (tmp_path / "none.jsonl",)}), tmp_path / "out", Silent())
    with pytest.raises(CirillaError, match="nothing to tokenize"):
        tokenize(config.model_copy(update={"inputs": ()}), tmp_path / "out", Silent())


# Hashes of every file


def masked(make_shards: Callable[..., TokenShards]) -> TokenShards:
    return make_shards([([5, 6, 7], [False, True, True]), ([8, 9], [True, False]), ([1], [True]), ([2, 3], [True] * 2)])


def test_an_index_records_the_hash_of_every_file(make_shards: Callable[..., TokenShards]) -> None:
    import hashlib

    folder = masked(make_shards).folder
    recorded = {name: digest for info in ShardIndex.read(folder).splits["train"] for name, digest in info.hashes()}
    on_disk = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "index.json"}
    assert recorded == on_disk
    assert len(recorded) == 6


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.idx.npy", "train-00001.mask"])
def test_a_file_that_changed_is_found_by_its_time_and_named_by_its_bytes(
    name: str, make_shards: Callable[..., TokenShards]
) -> None:
    folder = masked(make_shards).folder
    index = ShardIndex.read(folder)
    stamps = index.stamps(folder)
    path, before = folder / name, (folder / name).stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert index.altered(folder, stamps) == [path]
    assert index.altered(folder, {}) == [path]
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.altered(folder, stamps) == [], "what keeps size and time is not read"


def test_where_rows_came_from_is_no_part_of_what_shards_hold(make_shards: Callable[..., TokenShards]) -> None:
    index = masked(make_shards).index
    assert replace(index, sources=[{"path": "elsewhere"}]).fingerprint() == index.fingerprint()
    other = [replace(info, mask_sha256="0") for info in index.splits["train"]]
    assert replace(index, splits={"train": other}).fingerprint() != index.fingerprint()


def test_indexes_without_the_newer_hashes_are_read(make_shards: Callable[..., TokenShards]) -> None:
    folder = masked(make_shards).folder
    path = folder / "index.json"
    index = json.loads(path.read_text())
    for info in index["splits"]["train"]:
        del info["ends_sha256"], info["mask_sha256"]
    path.write_text(json.dumps(index))
    assert TokenShards.open(folder).counted(0).tolist() == [False, True, True]


def test_a_stray_mask_is_not_read(make_shards: Callable[..., TokenShards]) -> None:
    folder = make_shards([[5, 6, 7]]).folder
    (folder / "train-00000.mask").write_bytes(bytes(3))
    assert TokenShards.open(folder).counted(0).all()


@pytest.mark.parametrize("key", ["kind", "splits", "tokenizer_hash"])
def test_an_index_that_lacks_a_key_is_damaged(key: str, make_shards: Callable[..., TokenShards]) -> None:
    path = make_shards(DOCUMENTS).folder / "index.json"
    index = json.loads(path.read_text())
    del index[key]
    path.write_text(json.dumps(index))
    with pytest.raises(CirillaError, match="index.json: keys are missing or strange"):
        TokenShards.open(path.parent)
