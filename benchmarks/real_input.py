"""The whole pipeline on input this project did not write, and a table of what it took and gave.

    python benchmarks/real_input.py --pages DIR --instruct FILE.jsonl \\
        --solutions example_model_solutions.jsonl --out DIR

``--pages`` is a folder of text files (one page each), ``--instruct`` question-answer rows in the old `"data type"`
format, ``--solutions`` GSM8K's example model solutions, whose right and wrong answers to one question become preference
pairs. Everything runs through the command line, as a user would run it. Held-out pages are the shards' `val` split's
pages.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODEL = """recipe: 1
name: real
extends: base/pretrain
model:
  kind: decoder
  d_model: 192
  n_layers: 4
  context_length: 384
  mixers: {A: {kind: attention, n_heads: 4, n_kv_heads: 2, qk_norm: true}}
  mlp: {kind: swiglu, d_ff: 512}
  dropout: 0.1
data: {sources: {pages: {path: tokens}}}
train: {steps: 120, batch_tokens: 3072, early_stopping: {patience: 4}}
eval: {every: 10%, prompts: ["Geralt of Rivia"]}
"""
SFT = """recipe: 1
name: real
extends: base/sft
model: {kind: checkpoint, path: pretrain, dropout: 0.1}
data: {path: instruct.jsonl, val: 10%}
train: {steps: 60, batch_tokens: 3072}
optim: {lr: 5e-4}
eval: {every: 25%, prompts: ["Who trained Eskel?"]}
"""
DPO = """recipe: 1
name: real
extends: base/dpo
model: {kind: checkpoint, path: sft}
data: {path: pairs.jsonl, val: 15%}
objective: {beta: 0.1, sft_weight: 0.1}
train: {steps: 24, batch_tokens: 6144}
optim: {lr: 1e-4}
eval: {every: 50%}
"""


def preference_pairs(solutions: Path, out: Path) -> int:
    """One row for each question that some model answered rightly and another wrongly; returns how many."""
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for line in solutions.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answers = [v for v in row.values() if isinstance(v, dict) and "is_correct" in v]
            right = next((a["solution"] for a in answers if a["is_correct"]), None)
            wrong = next((a["solution"] for a in answers if not a["is_correct"]), None)
            if right and wrong:
                pair = {"prompt": row["question"], "chosen": right, "rejected": wrong, "source": "gsm8k"}
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
                count += 1
    return count


def cirilla(folder: Path, *words: str) -> tuple[Any, float]:
    """Run a verb in ``folder`` with --json: its object and its seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "cirilla_cli", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def main() -> None:
    """Run every stage and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("pages", "instruct", "solutions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("pretrain.yaml", MODEL), ("sft.yaml", SFT), ("dpo.yaml", DPO)):
        (out / name).write_text(text, encoding="utf-8")
    (out / "instruct.jsonl").write_bytes(given.instruct.read_bytes())
    pairs = preference_pairs(given.solutions, out / "pairs.jsonl")
    rows = [["stage", "seconds", "memory (MiB)", "result"]]

    scraped, s = cirilla(out, "scrape", "--files", str(given.pages.resolve()), "--out", "scrape")
    rows.append(["scrape", f"{s:.1f}", "", f"{scraped['documents']} documents"])
    tokens, s = cirilla(
        out, "tokenize", "scrape/documents.jsonl", "--out", "tokens", "tokenize.tokenizer.vocab_size=3000",
        "tokenize.val=10%", 'tokenize.tokenizer_inputs=["instruct.jsonl","pairs.jsonl"]',
    )  # fmt: skip
    rows.append(["tokenize", f"{s:.1f}", "", f"{tokens['kinds']['text']}, {tokens['bytes_per_token']} bytes a token"])
    held_out = _held_out_text(out)
    for verb in ("pretrain", "sft", "dpo"):
        report, s = cirilla(out, verb, f"{verb}.yaml", "--out", verb)
        memory = f"{(report['peak_memory_bytes'] or 0) / 2**20:.0f}"
        first, last = report["first_validation"], report["last_validation"]
        rows.append([verb, f"{s:.1f}", memory, f"step {report['step']}, validation {_short(first)} -> {_short(last)}"])
        scores, s = cirilla(out, "eval", verb, "--text", str(held_out))
        rows.append([f"eval {verb}", f"{s:.1f}", "", f"{scores['bits_per_byte']:.3f} bits per byte of held-out pages"])
    untrained, _ = cirilla(
        out,
        "pretrain",
        "pretrain.yaml",
        "--out",
        "untrained",
        "train.steps=1",
        "optim.lr=1e-12",
        "optim.adamw.lr=1e-12",
    )
    before, _ = cirilla(out, "eval", "untrained", "--text", str(held_out))
    rows.append(
        [
            "eval untrained",
            "",
            "",
            f"{before['bits_per_byte']:.3f} bits per byte of held-out pages ({untrained['step']} step at rate ~0)",
        ]
    )
    answer, s = cirilla(
        out, "generate", "sft", "--chat", "--prompt", "Who trained Eskel?", "--temperature", "0", "-n", "40"
    )
    rows.append(["generate", f"{s:.1f}", "", answer["text"].replace("\n", " ")])
    print(f"{pairs} preference pairs from {given.solutions.name}\n")
    print("\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * 4, *rows[1:]]))


def _held_out_text(out: Path) -> Path:
    """The documents of the `val` split as a file of rows, found by the same hash."""
    from cirilla_cli.data.rows import held_out

    documents = [
        json.loads(line) for line in (out / "scrape" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    path = out / "held_out.jsonl"
    kept = [d for d in documents if held_out(d["id"], frac=0.1)]
    path.write_text("".join(json.dumps({"text": d["text"]}, ensure_ascii=False) + "\n" for d in kept), encoding="utf-8")
    return path


def _short(values: dict[str, float] | None) -> str:
    names = ("nll", "dpo", "margin", "chosen_above")
    return ", ".join(f"{name} {values[name]:.3f}" for name in names if values and name in values)


if __name__ == "__main__":
    main()
