"""What one page adds stays with it: without it, every row that does not name it is the same, byte for byte."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from cirilla_cli.fs import hash_file
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.synth.config import FactKind, FandomConfig, SynthConfig
from cirilla_cli.synth.run import synthesize

from .conftest import WIKI

NAMES = ("documents", "samples", "rejects")


def names(row: dict[str, Any], page: str) -> bool:
    """Whether a row says that it depends on a page."""
    key = str(row.get("split_key", ""))
    listed = [*row.get("parents", []), *row.get("pages", []), row["id"], key.partition("/")[0]]
    return page in listed


def made(documents: list[str], folder: Path) -> dict[str, list[str]]:
    """The lines of what is made of some documents, by every rule."""
    folder.mkdir()
    (folder / "documents.jsonl").write_text("".join(f"{line}\n" for line in documents))
    config = FandomConfig(makes=get_args(FactKind), pairs_per_fact=3, phrasings=1)
    synthesize(SynthConfig(inputs=(folder / "documents.jsonl",), source=config), folder, Silent())
    return {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in NAMES}


def lines_of(path: Path) -> list[str]:
    return (path / "documents.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wiki")
    scrape(ScrapeConfig(source=DumpConfig(path=WIKI), limit=20), out, Silent())
    return lines_of(out)


@pytest.mark.parametrize("number", [1, 6, 15])
def test_rows_that_do_not_name_a_page_do_not_change_without_it(
    documents: list[str], number: int, tmp_path: Path
) -> None:
    page = json.loads(documents[number])["id"]
    before = made(documents, tmp_path / "with")
    after = made(documents[:number] + documents[number + 1 :], tmp_path / "without")
    for name in NAMES:
        kept = [line for line in before[name] if not names(json.loads(line), page)]
        assert len(kept) < len(before[name]) or name == "rejects"
        assert [line for line in kept if line not in set(after[name])] == []


def test_a_page_less_in_a_dump_or_a_folder_changes_no_other_document(documents: list[str], tmp_path: Path) -> None:
    text = WIKI.read_text()
    start = text.index("  <page>\n    <title>Eskel</title>")
    (tmp_path / "less.xml").write_text(text[:start] + text[text.index("</page>\n", start) + len("</page>\n") :])
    scrape(ScrapeConfig(source=DumpConfig(path=tmp_path / "less.xml")), tmp_path / "less", Silent())
    after = set(lines_of(tmp_path / "less"))
    assert [json.loads(line)["title"] for line in documents if line not in after] == ["Eskel"]
    for name in ("one", "two", "three"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} wolf ran through the wood that night")
    files = ScrapeConfig(source=FilesConfig(path=tmp_path / "texts"))
    scrape(files, tmp_path / "all", Silent())
    (tmp_path / "texts" / "one.txt").unlink()
    scrape(files, tmp_path / "fewer", Silent())
    assert set(lines_of(tmp_path / "all")) - set(lines_of(tmp_path / "fewer")) == {
        line for line in lines_of(tmp_path / "all") if json.loads(line)["title"] == "one"
    }


def test_the_same_inputs_give_the_same_hashes(documents: list[str], tmp_path: Path) -> None:
    """In other folders: what is recorded of paths is not what is hashed."""
    from cirilla_cli.data.config import SentencePieceConfig, TokenizeConfig
    from cirilla_cli.data.run import tokenize
    from cirilla_cli.data.shards import ShardIndex

    prints = []
    for name in ("first", "second"):
        made(documents, tmp_path / name)
        config = TokenizeConfig(inputs=(tmp_path / name,), tokenizer=SentencePieceConfig(vocab_size=500))
        tokenize(config, tmp_path / f"{name}-tokens", Silent())
        folders = sorted((tmp_path / f"{name}-tokens" / "shards").iterdir())
        rows = [hash_file(tmp_path / name / f"{kind}.jsonl") for kind in NAMES]
        lists = [hash_file(list_) for folder in folders for list_ in sorted(folder.glob("*.rows.jsonl"))]
        prints.append([*rows, *lists, *(ShardIndex.read(folder).fingerprint() for folder in folders)])
    assert prints[0] == prints[1]
    assert len(prints[0]) >= 7
