"""A trace goes up to every page, and says what is no longer what it was."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from cirilla_cli.curate.config import CurateConfig, LengthConfig, SourceConfig, SplitConfig
from cirilla_cli.curate.export import Layout
from cirilla_cli.curate.run import curate
from cirilla_cli.curate.split import sides_of
from cirilla_cli.data.config import LoadTokenizerConfig, TokenizeConfig
from cirilla_cli.data.rows import Document, Origin
from cirilla_cli.data.run import tokenize
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_json, hash_path, write_json
from cirilla_cli.lineage.data import behind, described
from cirilla_cli.lineage.trace import trace
from cirilla_cli.progress import Silent

from .conftest import PAGES


def kinds(path: Path) -> set[str]:
    return {node["kind"] for node in trace(path).as_dict(pages=False)["nodes"]}


@pytest.mark.parametrize(
    "artefact",
    [
        "runs/sft", "runs/sft/checkpoints/step-000002", "runs/pre", "tokens", "chats/shards/chat", "pages",
        "pages/samples.jsonl", "wiki", "wiki/documents.jsonl",
    ],
)  # fmt: skip
def test_every_artefact_leads_to_every_page_with_revision_and_licence(workshop: Path, artefact: str) -> None:
    found = trace(workshop / artefact)
    rows = [json.loads(line) for line in (workshop / "wiki" / "documents.jsonl").read_text().splitlines()]
    assert {(page.title, page.revision, page.license) for page in found.pages} == {
        (row["title"], row["revision"], row["license"]["name"]) for row in rows
    }
    assert len(found.pages) == PAGES
    assert found.problems == []
    assert "source" in kinds(workshop / artefact)


def test_a_run_names_its_parent_its_samples_and_what_made_them(workshop: Path) -> None:
    nodes = trace(workshop / "runs" / "sft").as_dict(pages=False)["nodes"]
    by_kind = {kind: [node for node in nodes if node["kind"] == kind] for kind in ("run", "shards", "samples")}
    assert [node["facts"]["verb"] for node in by_kind["run"]] == ["sft", "pretrain"]
    assert by_kind["run"][1]["path"].endswith("pre/checkpoints/step-000002")  # the one whose weights it began from
    lines = [json.loads(line) for line in (workshop / "pages" / "samples.jsonl").read_text().splitlines()]
    made = by_kind["samples"][0]["facts"]["strategies"]
    assert sum(made.values()) == len(lines)
    assert made["fandom/lead"] == sum(line["generator"]["strategy"] == "fandom/lead" for line in lines)
    assert {node["state"] for node in nodes} == {"same"}


def tokens_of(rows: Path, out: Path, workshop: Path) -> Path:
    """Shards of some rows, by the workshop's tokenizer."""
    loaded = LoadTokenizerConfig(path=workshop / "tokens" / "tokenizer")
    tokenize(TokenizeConfig(inputs=(rows,), tokenizer=loaded), out, Silent())
    return out


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add_line(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("wiki/documents.jsonl", add_line, "has changed since it was read"),
        ("pages/samples.jsonl", add_line, "has changed since it was read"),
        ("pages/samples.jsonl", Path.unlink, "is not there"),
        ("chats/shards/chat/train-00000.bin", cut, "is not as it was tokenized"),
        ("chats/shards/chat/train-00000.rows.jsonl", cut, "is missing or not as it was written"),
        ("tokens/shards/text/index.json", Path.unlink, "is gone"),
        ("runs/pre/checkpoints/step-000002/MANIFEST.json", Path.unlink, "no checkpoint in"),
    ],
)
def test_a_parent_that_changed_or_is_missing_is_named(
    workshop: Path, tmp_path: Path, file: str, harm: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(workshop, tmp_path / "copy")
    for lock in (tmp_path / "copy").glob("**/*.json"):
        lock.write_text(lock.read_text().replace(str(workshop), str(tmp_path / "copy")))
    harm(tmp_path / "copy" / file)
    problems = trace(tmp_path / "copy" / "runs" / "sft").problems
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize("value", [5, "x", [5], {"a": 5}, None])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("cirilla.json", "files"), ("cirilla.json", "step"), ("cirilla.json", "data"), ("lock.json", "resolved"),
        ("lock.json", "data"), ("lock.json", "files"),
    ],
)  # fmt: skip
def test_a_note_with_strange_values_is_traced_as_far_as_it_goes(
    workshop: Path, tmp_path: Path, file: str, key: str, value: Any
) -> None:
    lock = json.loads((workshop / "runs" / "sft" / "lock.json").read_text(encoding="utf-8"))
    record = {"name": "far", "step": 2, "recipe_sha256": hash_json(lock["resolved"]), "files": {}, "data": []}
    for name, note in (("model/cirilla.json", record), ("run/lock.json", lock)):
        path = tmp_path / name
        write_json(path, {**note, key: value} if path.name == file else note)
    assert trace(tmp_path / "model").root.kind == "model"
    assert trace(tmp_path / "run").root.kind == "run"


def test_rows_said_to_be_made_from_themselves_end_somewhere(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text("", encoding="utf-8")
    write_json(tmp_path / "report.json", {"out": "samples.jsonl", "inputs": [{"path": str(tmp_path)}]})
    assert len(list(behind(described(tmp_path, "sft", None)))) == 1
    assert trace(tmp_path).root.kind in ("samples", "documents")


@pytest.fixture(scope="module")
def curated(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About half of the workshop's pages, exported, and shards of both."""
    root = tmp_path_factory.mktemp("curated")
    lengths = sorted(len(json.loads(line)["text"]) for line in lines_of(workshop / "wiki" / "documents.jsonl"))
    longer = LengthConfig(min_chars=lengths[PAGES // 2])
    for layout in get_args(Layout):
        source = SourceConfig(path=workshop / "wiki")
        config = CurateConfig(sources={"wiki": source}, filters={"long": longer}, export=layout)
        curate(config, root / layout, Silent())
    tokens_of(root / "parquet", root / "tokens", workshop)
    tokens_of(root / "datasets" / "dataset", root / "tokens-of-export", workshop)
    tokens_of(root / "parquet" / "parquet" / "train.parquet", root / "tokens-of-file", workshop)
    return root


@pytest.mark.parametrize(
    "place",
    [
        "parquet", "parquet/documents.jsonl", "parquet/parquet", "parquet/parquet/train.parquet", "datasets/dataset",
        "datasets/dataset/data/train-00000-of-00001.parquet", "tokens", "tokens-of-export", "tokens-of-file",
    ],
)  # fmt: skip
def test_what_curation_left_out_is_no_source(curated: Path, place: str) -> None:
    kept = [json.loads(line) for line in lines_of(curated / "parquet" / "documents.jsonl")]
    assert PAGES // 4 < len(kept) < PAGES
    found = trace(curated / place)
    assert {(page.id, page.revision, page.license) for page in found.pages} == {
        (row["id"], row["revision"], row["license"]["name"]) for row in kept
    }
    assert found.problems == []
    nodes = found.as_dict(pages=False)["nodes"]
    assert {"documents", "source"} <= {node["kind"] for node in nodes}


def test_shards_without_their_list_of_rows_lead_to_all_that_was_read(curated: Path, tmp_path: Path) -> None:
    shutil.copytree(curated / "tokens", tmp_path / "tokens")
    for rows in (tmp_path / "tokens").glob("shards/*/*.rows.jsonl"):
        rows.unlink()
    kept = {json.loads(line)["id"] for line in lines_of(curated / "parquet" / "documents.jsonl")}
    assert {page.id for page in trace(tmp_path / "tokens").pages} == kept


def test_questions_and_rejects_are_no_documents_and_lead_on(workshop: Path) -> None:
    for kind in ("questions", "rejects"):
        found = trace(workshop / "pages" / f"{kind}.jsonl")
        assert (found.root.kind, len(found.pages)) == (kind, PAGES)


def made_of(page: str) -> str:
    origin = Origin(strategy="teacher/rephrase/easy", teacher="ollama:tiny")
    return Document(id="r", title="Odo", text="He, Odo, is a smith.", parents=(page,), generator=origin).line()


def test_texts_made_of_pages_lead_to_the_pages_and_are_none(tmp_path: Path) -> None:
    page = Document(id="1", title="Odo", text="Odo is a smith.", revision=7)
    other = Document(id="2", title="Eva", text="Nothing was made of this.")
    (tmp_path / "pages.jsonl").write_text(f"{page.line()}\n{other.line()}\n")
    rows = tmp_path / "made.jsonl"
    rows.write_text(made_of("1") + "\n")
    read = [{"path": str(tmp_path / "pages.jsonl"), "sha256": hash_path(tmp_path / "pages.jsonl")}]
    (tmp_path / "made.synth").mkdir()
    write_json(tmp_path / "made.synth" / "report.json", {"out": str(rows), "inputs": read})
    found = trace(rows)
    assert [(one.id, one.revision) for one in found.pages] == [("1", 7)]
    assert found.as_dict(pages=False)["nodes"][0]["facts"]["teachers"] == {"ollama:tiny": 1}
    both = tmp_path / "both.jsonl"
    both.write_text(f"{page.line()}\n{made_of('1')}\n")
    assert [one.id for one in trace(both).pages] == ["1"]


def test_pages_with_a_transcript_among_them_are_pages(workshop: Path, tmp_path: Path) -> None:
    rows = tmp_path / "pages.jsonl"
    pages = [Document(id=str(n), title="T", text="t", kind="transcript" if n else None) for n in range(3)]
    rows.write_text("".join(f"{page.line()}\n" for page in pages))
    found = trace(rows)
    assert (found.as_dict(pages=False)["nodes"][0]["kind"], len(found.pages)) == ("documents", 3)
    assert len(trace(tokens_of(rows, tmp_path / "tokens", workshop)).pages) == 3
    rows.write_text(pages[1].line())
    assert (trace(rows).root.kind, len(trace(rows).pages)) == ("documents", 1)


def test_a_text_made_of_a_page_falls_on_the_side_of_the_page() -> None:
    config = SplitConfig(test=0.5)
    for n in range(60):
        page, text = Document(id=str(n), title="x", text="y"), Document.model_validate_json(made_of(str(n)))
        assert text.split_key == page.split_key == str(n)
        assert sides_of(text, config) == sides_of(page, config)
    assert len({sides_of(Document(id=str(n), title="x", text="y"), config) for n in range(60)}) == 2


def test_a_place_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CirillaError):
            trace(path)


def test_a_published_folder_tells_its_pages_far_from_its_run(tmp_path: Path) -> None:
    """And notices a file that is not as it was published."""
    page = {"id": "7", "title": "Eskel", "revision": 1014, "license": "CC BY 4.0", "parents": []}
    (tmp_path / "pages.jsonl").write_text(json.dumps(page) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    known = {"config.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}}
    data = [{"name": "scrape/documents.jsonl", "used_by": "pretrain", "sha256": "1" * 64, "rows": 1}]
    record = {"verb": "dpo", "name": "far", "step": 4, "recipe_sha256": "0" * 64, "files": known, "data": data}
    (tmp_path / "cirilla.json").write_text(json.dumps(record), encoding="utf-8")
    found = trace(tmp_path)
    assert [(row.title, row.revision, row.license) for row in found.pages] == [("Eskel", 1014, "CC BY 4.0")]
    assert (found.root.state, found.problems) == ("same", [])
    assert [parent.path for parent in found.root.parents] == ["scrape/documents.jsonl"]
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert trace(tmp_path).problems == [f"{tmp_path}: config.json is not as it was published"]
