"""A bundled wiki's pages, samples, shards, and run folders as training leaves them, without any training."""

from pathlib import Path

import pytest

from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.fs import hash_json, write_json
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import DumpConfig, LicenseConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.synth.config import FandomConfig, SynthConfig
from cirilla_cli.synth.run import synthesize

WIKI = Path(__file__).parents[2] / "recipes" / "quickstart" / "wiki.xml"
PAGES = 24


def write_run(run: Path, kind: str, data: Path, model: dict[str, str], weights: str, base: str | None) -> None:
    """A run's lock and one checkpoint's manifest; ``weights`` is the hash of its file."""
    index = ShardIndex.read(data)
    section = {"kind": kind, "path": [str(data)]}
    if kind == "packed_text":
        section = {"kind": kind, "sources": {"part0": {"path": str(data)}}}  # type: ignore[dict-item]
    recipe = {"name": run.name, "data": section, "model": model}
    lock = {"data": {"part0": index.fingerprint()}, "files": {"part0": index.stamps(data)}, "base": base}
    write_json(run / "lock.json", {"version": 2, "resolved": recipe, **lock})
    checkpoint = run / "checkpoints" / "step-000002"
    write_json(checkpoint / "MANIFEST.json", {"files": {"model.safetensors": {"sha256": weights, "bytes": 0}}})


def make_workshop(root: Path) -> Path:
    """scrape, synth and tokenize for real; a pretraining run and a fine-tuning run of folders alone."""
    terms = LicenseConfig(name="CC BY 4.0", url="https://creativecommons.org/licenses/by/4.0/")
    scrape(ScrapeConfig(source=DumpConfig(path=WIKI), limit=PAGES, license=terms), root / "wiki", Silent())
    synth = SynthConfig(inputs=(root / "wiki" / "documents.jsonl",), source=FandomConfig())
    synthesize(synth, root / "pages", Silent())
    made = SentencePieceConfig(vocab_size=700)
    tokenize(TokenizeConfig(inputs=(root / "wiki",), tokenizer=made), root / "tokens", Silent())
    loaded = LoadTokenizerConfig(path=root / "tokens" / "tokenizer")
    tokenize(TokenizeConfig(inputs=(root / "pages" / "samples.jsonl",), tokenizer=loaded), root / "chats", Silent())
    write_run(root / "runs" / "pre", "packed_text", root / "tokens" / "shards" / "text", {"kind": "decoder"}, "a", None)
    began = hash_json([["model.safetensors", "a"]])
    start = {"kind": "checkpoint", "path": str(root / "runs" / "pre")}
    write_run(root / "runs" / "sft", "conversations", root / "chats" / "shards" / "chat", start, "b", began)
    return root


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))
