"""A working folder with a tiny trained model."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `program`, which the tests of this folder share

from program import CLASSIFIER, ENCODER, RECIPE, good  # noqa: E402


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Documents, samples, a tokenizer with shards, a pretrained and a fine-tuned model; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        good("scrape", "quickstart", "--limit", "8", "--out", "documents.jsonl", "-q")
        good("synth", "--source", "fandom", "documents.jsonl", "--out", "synth", "-q")
        lines = Path("synth/samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        Path("samples.jsonl").write_text("".join(lines[:40]), encoding="utf-8")
        pairs = [line for line in lines if '"kind": "preference"' in line]
        Path("pairs.jsonl").write_text("".join(pairs[:20]), encoding="utf-8")
        Path("tiny.yaml").write_text(RECIPE, encoding="utf-8")
        good("tokenize", "documents.jsonl", "tokenize.tokenizer.vocab_size=400", "--out", "tok", "-q")
        good("pretrain", "tiny.yaml", "--out", "runs/pre", "-q")
        tuned = ["train.steps=1", "train.batch_tokens=256", "eval=null", "model.path=runs/pre"]
        good("sft", "quickstart", "samples.jsonl", *tuned, "--out", "runs/sft", "-q")
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def lab(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` that is the test's own, and its working directory."""
    folder = tmp_path / "lab"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def readers(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of an encoder (`enc`) and of the classifier made of it (`cls`); not to be changed."""
    folder = tmp_path_factory.mktemp("readers")
    words = (("gold", "good"), ("rain", "bad"))
    rows = [{"text": " ".join([word] * n), "label": way} for word, way in words for n in (1, 2, 3) * 20]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "enc.yaml").write_text(ENCODER.replace("TOK", str(made / "tok")), encoding="utf-8")
    (folder / "cls.yaml").write_text(CLASSIFIER.replace("HERE", str(folder)), encoding="utf-8")
    good("pretrain", str(folder / "enc.yaml"), "--out", str(folder / "enc"), "-q")
    good("sft", str(folder / "cls.yaml"), "--out", str(folder / "cls"), "-q")
    return folder
