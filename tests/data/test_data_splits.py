"""Nothing about a held-out page is trained on, whatever way the rows take; the hash of the split is recomputed here."""

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest

from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.labelled import shard_labelled
from cirilla_cli.data.parts import Share
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.data.shards import Kind, ShardIndex, TokenShards
from cirilla_cli.data.shared import tokenize_merge, tokenize_share
from cirilla_cli.engine.shards import prepare
from cirilla_cli.progress import SILENT
from cirilla_cli.scrape.config import DumpConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.synth.config import FactKind, FandomConfig, SynthConfig
from cirilla_cli.synth.run import synthesize

WIKI = Path(__file__).parents[2] / "recipes" / "quickstart" / "wiki.xml"
VAL = 0.25
REASON = "names a held-out page"

Row = dict[str, Any]


def is_held(page: str) -> bool:
    """By hand: the first eight bytes of a hash, as a share of all there are."""
    return int(sha256(b"\0" + page.encode()).hexdigest()[:16], 16) / 16**16 < VAL


def pages_of(row: Row) -> set[str]:
    """Every page that a row names."""
    return {*row.get("parents", []), row.get("split_key", row["id"] if "parents" not in row else row["parents"][0])}


def key_of(row: Row) -> str:
    return str(row.get("split_key") or (row.get("parents") or [row["id"]])[0])


def by_teacher(pages: list[str]) -> Iterator[Row]:
    """What teachers make of pages: conversations that go from page to page, texts in other words, pairs, problems."""
    for n, (one, two, three) in enumerate(zip(pages, pages[1:], pages[2:], strict=False)):
        made = {"source": "test", "generator": {"strategy": "multi_turn", "teacher": "m"}}
        turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} of {n}"} for i in range(4)]
        yield {**made, "kind": "chat", "id": f"c{n}", "messages": turns, "split_key": one, "parents": [one, two, three]}
        pair = {"kind": "preference", "messages": turns[:1], "chosen": f"Yes {n}.", "rejected": f"No {n}."}
        yield {**made, **pair, "id": f"p{n}", "split_key": f"{one}/weapon", "parents": [one, three]}
        task = {"kind": "task", "messages": turns[:1], "answer": str(n)}
        yield {**made, **task, "id": f"t{n}", "split_key": f"leg_counting:{n}"}
        text = {"id": f"d{n}", "title": f"{n}", "text": f"Text {n} in other words.", "generator": made["generator"]}
        yield {**text, "parents": [one, two]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages, what every rule makes of them, and what teachers make."""
    out = tmp_path_factory.mktemp("rows")
    scrape(ScrapeConfig(source=DumpConfig(path=WIKI), limit=30), out, SILENT)
    config = FandomConfig(makes=get_args(FactKind), preferences=True, pairs_per_fact=2, phrasings=1)
    synthesize(SynthConfig(inputs=(out / "documents.jsonl",), source=config), out / "synth", SILENT)
    lines = [*lines_of(out / "documents.jsonl"), *lines_of(out / "synth" / "samples.jsonl")]
    lines += map(json.dumps, by_teacher([json.loads(line)["id"] for line in lines_of(out / "documents.jsonl")]))
    path = out / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in lines_of(path)] if path.is_file() else []


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tokenizer: SentencePieceTokenizer) -> LoadTokenizerConfig:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return LoadTokenizerConfig(path=folder)


@pytest.fixture(scope="module")
def config(rows: Path, loaded: LoadTokenizerConfig) -> TokenizeConfig:
    """Shards of a few thousand tokens."""
    return TokenizeConfig(inputs=(rows,), tokenizer=loaded, val=VAL, shard_tokens=4000)


def ids_in(shards: Path, split: str) -> list[str]:
    """The rows that stand in a split's shards, each of which has as many documents as its list says."""
    found = []
    for folder in sorted(path.parent for path in shards.glob("*/index.json")):
        index = ShardIndex.read(folder)
        listed = [[row["id"] for row in read(folder / info.rows)] for info in index.splits.get(split, [])]
        each = 2 if index.kind == "preference" else 1
        assert sum(map(len, listed)) * each == TokenShards.open(folder, split).n_documents
        found += [id_ for some in listed for id_ in some]
    return found


def assert_nothing_leaks(rows: list[Row], shards: Path) -> int:
    """Every row is in the part that a reading of its fields by hand says; returns how many are left out."""
    held = [row for row in rows if is_held(key_of(row))]
    named = [row for row in rows if not is_held(key_of(row)) and any(map(is_held, pages_of(row)))]
    clean = [row for row in rows if not any(map(is_held, pages_of(row)))]
    assert Counter(ids_in(shards, "val")) == Counter(row["id"] for row in held)
    assert Counter(ids_in(shards, "train")) == Counter(row["id"] for row in clean)
    wanted = [{"id": r["id"], "reason": REASON, "pages": [*filter(is_held, r["parents"])]} for r in named]
    assert read(shards / "left_out.jsonl") == wanted
    return len(wanted)


def test_no_row_in_a_training_shard_names_a_held_out_page(config: TokenizeConfig, rows: Path, tmp_path: Path) -> None:
    report = tokenize(config, tmp_path, SILENT)
    left_out = assert_nothing_leaks(read(rows), tmp_path / "shards")
    assert report.rejected == {REASON: left_out}
    assert report.rows == len(read(rows))
    ids = {row["id"] for row in read(tmp_path / "shards" / "left_out.jsonl")}
    gone = [row for row in read(rows) if row["id"] in ids]
    rules = {row["generator"]["strategy"] for row in gone}
    named = {"fandom/true_false", "fandom/unanswerable", "fandom/unmentioned", "fandom/list", "multi_turn"}
    assert rules >= named, "not every rule that names several pages was tried"
    assert {row.get("kind", "document") for row in gone} == {"chat", "preference", "document"}


def test_rows_left_out_are_told_and_an_earlier_list_is_removed(config: TokenizeConfig, tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            """Not of interest."""

    heard = Heard()
    tokenize(config, tmp_path, heard)
    path = tmp_path / "shards" / "left_out.jsonl"
    told = f"{len(read(path)):,} rows are left out of training: each names a held-out page ({path})"
    assert told in heard.lines
    report = tokenize(config.model_copy(update={"val": 0.0}), tmp_path, heard)
    assert report.rejected == {}
    assert not path.exists()
    assert not ids_in(tmp_path / "shards", "val")


@pytest.mark.parametrize("kind", get_args(Kind)[:3])
def test_training_runs_that_are_given_rows_leave_the_same_out(
    kind: Kind, rows: Path, loaded: LoadTokenizerConfig, tmp_path: Path
) -> None:
    """Running and masked text are of documents, sft of chats and tasks, dpo of preferences."""
    of_kind = {"text": None, "chat": ("chat", "task"), "preference": ("preference",)}[kind]
    mine = [row for row in read(rows) if (row.get("kind") in of_kind if of_kind else "messages" not in row)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in mine))
    prepared = prepare(
        {"it": path}, (kind,), formats={}, val=VAL, section=loaded, model_folder=None, made=tmp_path / "made",
        progress=SILENT,
    )  # fmt: skip
    assert prepared.folders["it"].name == kind
    assert assert_nothing_leaks(mine, tmp_path / "made" / "it" / "shards") > 5


def test_parts_leave_the_same_rows_out_and_the_merge_has_the_same_bytes(config: TokenizeConfig, tmp_path: Path) -> None:
    whole = tokenize(config, tmp_path / "whole", SILENT)
    for number in (1, 2, 3):
        tokenize_share(config, tmp_path / "parts", Share(number, 3), SILENT)
    merged = tokenize_merge(config, tmp_path / "parts", SILENT)
    assert (merged.rejected, merged.rows, merged.kinds) == (whole.rejected, whole.rows, whole.kinds)
    one, other = (
        {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "shards").rglob("*")) if p.is_file()}
        for out in (tmp_path / "whole", tmp_path / "parts")
    )
    assert one == other
    assert "shards/left_out.jsonl" in one


def test_a_tokenizer_is_trained_on_what_is_trained_on(rows: Path, tmp_path: Path) -> None:
    """It is that of the other rows alone, also of the texts that only the tokenizer reads."""
    clean = tmp_path / "clean.jsonl"
    clean.write_text(
        "".join(f"{line}\n" for line in lines_of(rows) if not any(map(is_held, pages_of(json.loads(line)))))
    )
    made = SentencePieceConfig(vocab_size=700)
    for path, val in ((rows, VAL), (clean, 0.0)):
        config = TokenizeConfig(inputs=(path,), tokenizer_inputs=(path,), tokenizer=made, val=val)
        tokenize(config, tmp_path / path.stem, SILENT)
    one, other = ((tmp_path / stem / "tokenizer" / "tokenizer.model").read_bytes() for stem in ("rows", "clean"))
    assert one == other


def test_texts_with_labels_that_name_a_held_out_page_are_left_out(
    tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    pages = [f"page {n}" for n in range(30)]
    texts = [
        {"text": f"of {one} and {two}", "label": n % 2, "split_key": one, "parents": [one, two]}
        for n, (one, two) in enumerate(zip(pages, pages[1:], strict=False))
    ]
    path, folder = tmp_path / "texts.jsonl", tmp_path / "labelled"
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    shard_labelled([path], tokenizer, folder, SILENT, val=VAL)
    trained, held = (TokenShards.open(folder, split) for split in ("train", "val"))
    named = [t for t in texts if not is_held(t["split_key"]) and is_held(t["parents"][1])]
    assert trained.n_documents == sum(not any(map(is_held, t["parents"])) for t in texts)
    assert held.n_documents == sum(is_held(t["split_key"]) for t in texts)
    wanted = [{"text": t["text"], "reason": REASON, "pages": t["parents"][1:]} for t in named]
    assert read(folder / "left_out.jsonl") == wanted
    assert wanted
