"""What `why` finds against `str.find` over every document, and whose page it says that is."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_path
from cirilla_cli.lineage.index import open_shards
from cirilla_cli.lineage.why import Searched, Why, open_model, why
from cirilla_cli.progress import Silent


@pytest.fixture(scope="module")
def searched(workshop: Path) -> Searched:
    return open_model(workshop / "runs" / "sft", Silent())


@pytest.fixture(scope="module")
def pages(workshop: Path) -> list[dict[str, str]]:
    lines = (workshop / "wiki" / "documents.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def ask(answer: str, searched: Searched, least: int = 8) -> Why:
    return why(answer, searched, min_tokens=least, top=20)


def test_planted_spans_are_found_with_their_page(
    searched: Searched, pages: list[dict[str, str]], workshop: Path
) -> None:
    """Spans cut at the tokens of their page, also inside words, between words that stand nowhere."""
    tokenizer, draw, found = load_tokenizer(workshop / "tokens"), random.Random(0), 0
    for _ in range(60):
        page = draw.choice(pages)
        ids = tokenizer.encode(page["text"])
        first, size = draw.randrange(len(ids) - 30), draw.randint(8, 30)
        planted = tokenizer.decode(ids[first : first + size])
        result = ask(f"Zqx vwq {planted} zqx vwq.", searched)
        holders = {other["permalink"] for other in pages if planted.strip() in other["text"]}
        assert page["permalink"] in holders
        spans = [span for span in result.spans if planted.strip() in span.text]
        found += any(holders & {source.permalink for source in span.sources} for span in spans)
    assert found >= 57


def test_a_span_stands_in_its_source_and_cannot_be_longer(searched: Searched, pages: list[dict[str, str]]) -> None:
    by_address = {page["permalink"]: page for page in pages}
    sentence = pages[0]["text"].splitlines()[2]
    answer = f"They say: {sentence[:90]} and nothing else."
    for span in ask(answer, searched).spans:
        read = answer.encode()
        assert read[span.start : span.start + len(span.text.encode())].decode() == span.text
        longer = [read[span.start - 1 : span.start + len(span.text.encode())].decode(), span.text + sentence[90]]
        for source in (source for source in span.sources if source.strategy is None):
            page = by_address[str(source.permalink)]
            assert span.text in page["text"]
            assert not any(piece in page["text"] for piece in longer if piece in answer)
            assert (source.revision, source.license) == (page["revision"], "CC BY 4.0")


def test_an_answer_learned_from_a_sample_leads_to_the_page_of_the_sample(searched: Searched, workshop: Path) -> None:
    """The question stands in no document: only the chat shards hold it."""
    rows = map(json.loads, (workshop / "pages" / "samples.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["generator"]["strategy"] == "fandom/lead")
    question = row["messages"][0]["content"]
    sources = ask(question, searched, 3).spans[0].sources
    assert [(source.permalink, source.strategy) for source in sources][:1] == [(row["source"], "fandom/lead")]
    assert sources[0].revision is not None
    assert sources[0].license == "CC BY 4.0"


def test_what_stands_nowhere_is_not_found(searched: Searched) -> None:
    result = ask("Quarterly budgets of hydroelectric cooperatives exceeded projections.", searched)
    assert (result.spans, result.covered) == ([], 0.0)


def test_characters_of_several_bytes_are_never_cut(searched: Searched, pages: list[dict[str, str]]) -> None:
    page = next(page for page in pages if not page["text"].isascii())
    at = next(i for i, character in enumerate(page["text"]) if not character.isascii())
    piece = page["text"][max(0, at - 60) : at + 60]
    for text in (piece, piece.replace(page["text"][at], "\u00e0"), f"\u00e9{piece}\u00e9"):
        assert all("\ufffd" not in span.text for span in ask(text, searched, 4).spans)


def test_the_index_is_made_once_and_named_by_its_shard(workshop: Path, searched: Searched) -> None:
    class Told(Silent):
        said: list[str] = []  # noqa: RUF012

        def say(self, text: str) -> None:
            self.said.append(text)

    kept = sorted(workshop.glob("*/shards/*/.cirilla-cache/*.suffixes-*.npy"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    open_model(workshop / "runs" / "sft", Told())
    assert Told.said == []
    assert stamps == [path.stat().st_mtime_ns for path in kept]
    marks = {shard.info.sha256[:16] for shard in searched.shards}
    assert {path.stem.rpartition("-")[2] for path in kept} == marks


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "no header": lambda raw: b"xx" + raw[2:],
    "cut": lambda raw: raw[:-4],
    "empty": lambda raw: b"",
    "places that are none": lambda raw: raw[:128] + b"\xff\xff\xff\x7f" * ((len(raw) - 128) // 4),
    "a hole": lambda raw: raw[:128] + bytes(len(raw) - 128),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_index_is_made_anew(harm: Callable[[bytes], bytes], searched: Searched, tmp_path: Path) -> None:
    shard = searched.shards[0]
    shutil.copytree(shard.folder, tmp_path / "shards")
    (file,) = (tmp_path / "shards" / ".cirilla-cache").glob("*.suffixes-*.npy")
    raw = file.read_bytes()
    file.write_bytes(harm(raw))
    (opened,) = open_shards(tmp_path / "shards", ShardIndex.read(tmp_path / "shards"), Silent())
    assert np.array_equal(opened.suffixes.order_N, shard.suffixes.order_N)
    assert file.read_bytes() == raw


def test_a_folder_that_takes_no_index_is_searched_all_the_same(searched: Searched, tmp_path: Path) -> None:
    shutil.copytree(searched.shards[0].folder, tmp_path / "shards", ignore=shutil.ignore_patterns(".cirilla-cache"))
    (tmp_path / "shards" / ".cirilla-cache").write_text("in the way")
    (opened,) = open_shards(tmp_path / "shards", ShardIndex.read(tmp_path / "shards"), Silent())
    assert np.array_equal(opened.suffixes.order_N, searched.shards[0].suffixes.order_N)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx.npy"])
@pytest.mark.parametrize("harm", [lambda raw: raw[::-1], lambda raw: b""], ids=["other bytes", "empty"])
def test_shards_that_changed_are_neither_indexed_nor_searched(
    workshop: Path, tmp_path: Path, name: str, harm: Callable[[bytes], bytes]
) -> None:
    """An index made of them would stay wrong when they are put back."""
    shutil.copytree(workshop, tmp_path / "copy", ignore=shutil.ignore_patterns(".cirilla-cache"))
    for note in (tmp_path / "copy").glob("**/*.json"):
        note.write_text(note.read_text().replace(str(workshop), str(tmp_path / "copy")))
    file = tmp_path / "copy" / "chats" / "shards" / "chat" / name
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(CirillaError, match=name):
        open_model(tmp_path / "copy" / "runs" / "sft", Silent())
    assert not list((tmp_path / "copy").glob("**/*.suffixes-*"))


def test_an_index_changes_no_hash_of_the_shards_it_belongs_to(workshop: Path, searched: Searched) -> None:
    """A pipeline that reads the folder stays up to date."""
    folder = searched.shards[0].folder
    own = sorted(path for path in folder.iterdir() if path.is_file())
    lines = [f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in own]
    assert any((folder / ".cirilla-cache").iterdir())
    assert hash_path(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_folder_without_runs_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CirillaError):
            open_model(path, Silent())
