"""The program called as a user calls it, in this process or one of its own."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

CIRILLA = Path(sys.executable).with_name("cirilla")

RECIPE = """\
# A model for tests.
recipe: 1
extends: base/pretrain
model: {kind: decoder, d_model: 32, n_layers: 1, context_length: 64,
  mixers: {A: {kind: attention, n_heads: 2}}, mlp: {kind: swiglu, d_ff: 64}}
data: {sources: {wiki: {path: tok}}}
train: {steps: 2, batch_tokens: 256}
eval: null
"""


ENCODER = """\
recipe: 1
extends: base/pretrain
model: {kind: encoder, d_model: 32, n_layers: 2, context_length: 64, pattern: GL, embedding_norm: true,
  mixers: {G: {kind: attention, n_heads: 4, causal: false}, L: {kind: attention, n_heads: 4, causal: false, window: 5}},
  mlp: {kind: geglu, d_ff: 48}, norm: {kind: layer, bias: false}}
data: {kind: masked_text, sources: {wiki: {path: TOK}}}
train: {steps: 4, batch_tokens: 512}
eval: null
"""
CLASSIFIER = """\
recipe: 1
extends: base/sft
model: {kind: checkpoint, path: HERE/enc}
data: {kind: labelled_text, path: HERE/rows.jsonl, val: 10%}
objective: {kind: classification}
train: {steps: 20, batch_tokens: 512}
optim: {lr: 0.01}
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
    return {key: value for key, value in os.environ.items() if key not in dropped} | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def good(*words: str, stdin: str = "") -> Done:
    """`call`, which must succeed."""
    done = call(*words, stdin=stdin)
    assert done.code == 0, done
    return done
