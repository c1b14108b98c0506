"""A working folder with a tiny trained model, and the program called as a user calls it."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

CIRILLA = Path(sys.executable).with_name("cirilla")

RECIPE = """\
# A model for tests.
recipe: 1
extends: base/pretrain
model: {kind: decoder, d_model: 32, n_layers: 1, context_length: 64, mixers: {A: {kind: attention, n_heads: 2}}, mlp: {kind: swiglu, d_ff: 64}}
data: {sources: {wiki: {path: tok}}}
train: {steps: 2, batch_tokens: 256}
eval: null
"""


@dataclass(frozen=True)
class Done:
    """What a call left: exit status, standard output, standard error."""

    code: int
    out: str
    err: str


def call(*words: str, stdin: str | bytes = "") -> Done:
    """`cirilla WORDS` in this process: its entry point, its streams, its exit status; a bug is raised."""
    from cirilla_cli.cli.app import main

    data = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    code: int | str | None = 0
    with patch.object(sys, "argv", ["cirilla", *words]), patch.object(sys, "stdin", given):
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as leaving:
                code = leaving.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    assert code is None or isinstance(code, int)
    return Done(code or 0, *texts)


def spawn(*words: str | Path, stdin: str = "", cwd: Path | None = None) -> Done:
    """`cirilla WORDS` as a process of its own."""
    done = subprocess.run(
        [str(CIRILLA), *map(str, words)], input=stdin, cwd=cwd, capture_output=True, text=True, env=environment()
    )
    return Done(done.returncode, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """This process's environment without what would change the answers."""
    dropped = {"HF_TOKEN", "OPENAI_API_KEY", "PYTHONDONTWRITEBYTECODE"}
    return {key: value for key, value in os.environ.items() if key not in dropped} | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def good(*words: str, stdin: str = "") -> Done:
    """`call`, which must succeed."""
    done = call(*words, stdin=stdin)
    assert done.code == 0, done
    return done


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with documents, samples, a tokenizer with shards, a pretrained and a fine-tuned model; not to be changed."""
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
