"""The card and the lineage: what a run's own files say, nothing more, and no path or secret of this machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from cirilla_cli.checkpoint import Checkpoint, Loaded, load_checkpoint, write_checkpoint
from cirilla_cli.curate.config import CurateConfig, LengthConfig, SourceConfig
from cirilla_cli.curate.run import curate
from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_json, write_json
from cirilla_cli.hub.card import find_scores, last_metrics
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.read import read_folder
from cirilla_cli.hub.run import push
from cirilla_cli.lineage.gather import Lineage, gather, sample_lines
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import DumpConfig, LicenseConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape

from .conftest import make_config, make_model

WIKI = Path(__file__).parents[2] / "recipes" / "quickstart" / "wiki.xml"


def resolved(**sections: Any) -> dict[str, Any]:
    return {"recipe": 1, "seed": 7, "optim": {"kind": "muon", "lr": 0.02}, "train": {"batch_tokens": 512}, **sections}


def write_run(run: Path, verb: str, recipe: dict[str, Any], steps: tuple[int, ...], tokenizer: Path) -> None:
    """A run directory as training leaves it."""
    loaded = load_tokenizer(tokenizer)
    for step in steps:
        model = make_model(make_config(vocab_size=loaded.vocab_size), seed=step)
        optimizer = torch.optim.AdamW(model.parameters())
        state = {"step": step, "verb": verb}
        texts = {"resolved.yaml": yaml.safe_dump(recipe)}
        write_checkpoint(run, step, model, tokenizer=loaded, optimizer=optimizer, state=state, texts=texts)
    write_json(run / "lock.json", {"version": 1, "resolved": recipe, "data": {}})
    lines = [
        {"step": s, "loss": 1.0 / s, "tokens": 512 * s, "tokens_per_second": 100.0} for s in range(1, steps[-1] + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "lo')


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scraped wiki, its shards, a pretraining run and a fine-tuning run on top of it."""
    root = tmp_path_factory.mktemp("workshop")
    terms = LicenseConfig(name="CC BY-SA 4.0", url="https://creativecommons.org/licenses/by-sa/4.0/")
    scrape(ScrapeConfig(source=DumpConfig(path=WIKI), limit=6, license=terms), root / "wiki", Silent())
    data = TokenizeConfig(inputs=(root / "wiki",), tokenizer=SentencePieceConfig(vocab_size=400))
    tokenize(data, root / "tokens", Silent())
    pretrain = resolved(
        name="first", model={"kind": "decoder"},
        data={"kind": "packed_text", "sources": {"wiki": {"path": str(root / "tokens")}}},
    )  # fmt: skip
    write_run(root / "runs" / "pre", "pretrain", pretrain, (3, 5), root / "tokens" / "tokenizer")
    samples = root / "samples.jsonl"
    samples.write_text("{}\n")
    sft = resolved(
        name="second", model={"kind": "checkpoint", "path": str(root / "runs" / "pre")},
        data={"kind": "conversations", "path": [str(samples)]}, objective={"kind": "cross_entropy"},
    )  # fmt: skip
    write_run(root / "runs" / "sft", "sft", sft, (2, 4), root / "tokens" / "tokenizer")
    # It began from the earlier of the two, as a lock says it: by the weights.
    weights = root / "runs" / "pre" / "checkpoints" / "step-000003" / "model.safetensors"
    lock = json.loads((root / "runs" / "sft" / "lock.json").read_text())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    compact = json.dumps([["model.safetensors", digest]], separators=(",", ":"))
    write_json(root / "runs" / "sft" / "lock.json", lock | {"base": hashlib.sha256(compact.encode()).hexdigest()})
    return root


def loaded(workshop: Path, step: int = 4) -> Loaded:
    checkpoint = Checkpoint.at(workshop / "runs" / "sft" / "checkpoints" / f"step-{step:06d}")
    assert checkpoint is not None
    return load_checkpoint(checkpoint)


def lineage_of(model: Loaded) -> Lineage:
    return gather(model.path, model.run, model.step, model.verb)


@pytest.fixture(scope="module")
def published(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "out"
    scores = workshop / "elsewhere.json"
    write_json(scores, {"wiki": {"accuracy": 0.8125, "interval": [0.75, 0.875], "file": "/home/me/secret.jsonl"}})
    config = PushConfig(to=f"dir:{out}", license="cc-by-sa-4.0", language="en", scores=scores)
    push(config, loaded(workshop), progress=Silent())
    return out


def front(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = ModelCard.load(folder / "README.md").data.to_dict()
    return data


def test_the_front_matter_is_what_the_hub_reads(published: Path) -> None:
    assert front(published) == {
        "license": "cc-by-sa-4.0",
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["cirilla", "llama", "pretrain", "sft"],
    }


def test_the_card_tells_the_stages_their_settings_and_the_last_metrics(published: Path) -> None:
    card = (published / "README.md").read_text()
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| pretrain", "| sft"))]
    assert [(row[0].strip("| "), row[1]) for row in rows][:2] == [("pretrain", "first"), ("sft", "second")]
    assert [row[2] for row in rows] == ["3", "4"]  # of the first, the step that the second began from
    assert "muon" in rows[1]
    assert "0.02" in rows[1]
    assert "step 4, loss 0.25, tokens 2048, tokens_per_second 100" in card


def test_the_card_names_sources_licences_and_pages(published: Path) -> None:
    card = (published / "README.md").read_text()
    assert "CC BY-SA 4.0 (6 documents)" in card
    assert "ATTRIBUTION.md lists the 6 pages" in card
    attribution = (published / "ATTRIBUTION.md").read_text()
    assert sum(line.startswith("- ") for line in attribution.splitlines()) == 6
    assert "Geralt of Rivia" in attribution
    assert "CC BY-SA 4.0" in attribution
    assert "cc-by-sa-4.0" in (published / "LICENSE").read_text()


def test_the_card_shows_scores_as_numbers_and_intervals(published: Path) -> None:
    card = (published / "README.md").read_text()
    assert "| wiki.accuracy | 0.8125 |" in card
    assert "| wiki.interval | 0.75 to 0.875 |" in card
    assert "secret" not in card


def test_the_card_shows_how_to_use_it_and_what_to_mind(published: Path) -> None:
    card = (published / "README.md").read_text()
    for text in ("AutoModelForCausalLM", "ollama create", "cirilla generate", "apply_chat_template"):
        assert text in card
    assert "Raw-prompt APIs of other programs do not guard against control tokens in user text" in card


def test_no_path_of_this_machine_leaves_with_the_model(published: Path, workshop: Path) -> None:
    for file in published.iterdir():
        assert str(workshop.parent).strip("/").encode() not in file.read_bytes(), file.name
        assert str(Path.home()).encode() + b"/" not in file.read_bytes(), file.name


def test_the_record_of_lineage_leads_back_to_the_first_run(published: Path, workshop: Path) -> None:
    record = json.loads((published / "cirilla.json").read_text())
    assert (record["verb"], record["name"], record["step"]) == ("sft", "second", 4)
    lock = json.loads((workshop / "runs" / "sft" / "lock.json").read_text())
    assert record["recipe_sha256"] == hash_json(lock["resolved"])
    assert [p["name"] for p in record["parents"]] == ["first"]
    assert {"pretrain", "sft"} == {d["used_by"] for d in record["data"]}
    assert set(record["files"]) == {p.name for p in published.iterdir()} - {"cirilla.json"}


def test_a_pushed_folder_keeps_its_lineage_when_it_is_pushed_again(published: Path, tmp_path: Path) -> None:
    again = read_folder(published)
    assert (again.verb, again.step) == ("sft", 4)
    push(PushConfig(to=f"dir:{tmp_path / 'again'}"), again, progress=Silent())
    before, after = (json.loads((p / "cirilla.json").read_text()) for p in (published, tmp_path / "again"))
    for key in ("verb", "name", "step", "recipe_sha256", "parents", "data"):
        assert after[key] == before[key], key
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "ATTRIBUTION.md").read_bytes() == (published / "ATTRIBUTION.md").read_bytes()


def test_what_is_not_known_is_said_to_be_so(tmp_path: Path) -> None:
    config = make_config()
    bare = Loaded(make_model(config), config, None, tmp_path / "nowhere")
    push(PushConfig(to=f"dir:{tmp_path / 'out'}"), bare, progress=Silent())
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "No record of the training came",
        "No record of the training data",
        "None were measured",
        "No licence was chosen",
    ):
        assert text in card
    assert not {"license", "language", "datasets"} & front(tmp_path / "out").keys()
    assert not (tmp_path / "out" / "LICENSE").exists()
    assert not (tmp_path / "out" / "ATTRIBUTION.md").exists()


def test_documents_without_a_list_of_pages_are_listed(tmp_path: Path, workshop: Path) -> None:
    rows = [
        {
            "id": "1",
            "title": "One\n# Not a heading",
            "text": "x",
            "permalink": "https://w/1?oldid=5",
            "license": {"name": "CC0"},
        },
        {"id": "2", "title": "Two", "text": "y"},
    ]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = resolved(name="x", data={"kind": "packed_text", "sources": {"a": {"path": str(documents)}}})
    write_run(tmp_path / "run", "pretrain", recipe, (1,), workshop / "tokens" / "tokenizer")
    checkpoint = Checkpoint.newest(tmp_path / "run")
    assert checkpoint is not None
    push(PushConfig(to=f"dir:{tmp_path / 'out'}"), load_checkpoint(checkpoint), progress=Silent())
    lines = (tmp_path / "out" / "ATTRIBUTION.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("- ")] == ["- One # Not a heading: https://w/1?oldid=5 (CC0)"]


def test_pages_that_curation_left_out_are_named_nowhere(tmp_path: Path, workshop: Path) -> None:
    rows = [json.loads(line) for line in (workshop / "wiki" / "documents.jsonl").read_text().splitlines()]
    longer = LengthConfig(min_chars=sorted(len(row["text"]) for row in rows)[3])
    source = SourceConfig(path=workshop / "wiki")
    curate(CurateConfig(sources={"wiki": source}, filters={"long": longer}), tmp_path / "set", Silent())
    tokenizer = LoadTokenizerConfig(path=workshop / "tokens" / "tokenizer")
    tokenize(TokenizeConfig(inputs=(tmp_path / "set",), tokenizer=tokenizer), tmp_path / "tokens", Silent())
    recipe = resolved(name="x", data={"kind": "packed_text", "sources": {"a": {"path": str(tmp_path / "tokens")}}})
    write_run(tmp_path / "run", "pretrain", recipe, (1,), workshop / "tokens" / "tokenizer")
    checkpoint = Checkpoint.newest(tmp_path / "run")
    assert checkpoint is not None
    push(PushConfig(to=f"dir:{tmp_path / 'out'}"), load_checkpoint(checkpoint), progress=Silent())
    kept = {json.loads(line)["permalink"] for line in (tmp_path / "set" / "documents.jsonl").read_text().splitlines()}
    assert 0 < len(kept) < len(rows)
    attribution = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    listed = [line for line in attribution.splitlines() if line.startswith("- ")]
    assert len(listed) == len(kept)
    assert all(any(f": {address} (authors: " in line for line in listed) for address in kept)
    assert f"that the model was made from: {len(kept)}." in attribution
    pages = (tmp_path / "out" / "pages.jsonl").read_text().splitlines()
    assert {json.loads(line)["permalink"] for line in pages} == kept
    assert f"ATTRIBUTION.md lists the {len(kept)} pages" in (tmp_path / "out" / "README.md").read_text()


def test_metrics_are_those_of_the_published_step(workshop: Path) -> None:
    metrics = last_metrics(loaded(workshop, step=2))
    assert metrics is not None
    assert metrics["step"] == 2


def test_scores_are_found_beside_the_model_or_where_it_is_said(workshop: Path, tmp_path: Path) -> None:
    model = loaded(workshop)
    assert find_scores(model, None) is None
    write_json(tmp_path / "scores.json", {"x": 1})
    assert find_scores(Loaded(model.model, model.config, None, tmp_path), None) == {"x": 1}
    with pytest.raises(CirillaError, match="no such file"):
        find_scores(model, tmp_path / "none.json")
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(CirillaError, match="not JSON"):
        find_scores(model, tmp_path / "scores.json")


def test_a_model_that_names_itself_as_parent_does_not_hang(workshop: Path, tmp_path: Path) -> None:
    run = tmp_path / "loop"
    recipe = resolved(model={"kind": "checkpoint", "path": str(run)}, data={"kind": "conversations", "path": []})
    write_run(run, "sft", recipe, (1,), workshop / "tokens" / "tokenizer")
    checkpoint = Checkpoint.newest(run)
    assert checkpoint is not None
    assert 1 < len(lineage_of(load_checkpoint(checkpoint)).stages) < 20


@pytest.mark.parametrize("verb", ["pretrain", "sft"])
def test_the_python_in_the_card_runs(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    checkpoint = Checkpoint.newest(workshop / "runs" / {"pretrain": "pre", "sft": "sft"}[verb])
    assert checkpoint is not None
    push(PushConfig(to=f"dir:{tmp_path / 'out'}"), load_checkpoint(checkpoint), progress=Silent())
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert ("apply_chat_template" in code) == (verb == "sft")
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_lines_of_the_training_data_are_found_for_the_comparison_of_tokenizers(workshop: Path) -> None:
    lines = sample_lines(lineage_of(loaded(workshop)), 20)
    text = (workshop / "wiki" / "documents.jsonl").read_text()
    assert len(lines) == 10, "two files, one of which holds no text"
    assert all(json.dumps(line, ensure_ascii=False)[1:-1] in text for line in lines)
