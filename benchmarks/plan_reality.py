"""Whether `cirilla plan` is right: its peak of memory against that of fresh processes that train.

    python -m benchmarks.plan_reality --results plan.jsonl

Draws recipes by seed from a grid, and of each predicts the peak and measures it: a process of its own that trains three
steps through the engine, its peak less what it held after its imports. Results are appended, so that a stopped run
goes on; ``--only 0,5`` takes some, ``--table`` prints what is there. Peaks under 600 MB do not count: others are drawn.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEAST, MOST = 600_000_000, 3_000_000_000
STEPS = 3
WITHIN = 0.1

GRID: dict[str, list[Any]] = {
    "family": ["llama3", "gpt2", "mixtral", "granite-hybrid", "modernbert"],
    "model.d_model": [256, 384, 512, 768],
    "model.n_layers": [4, 6, 8],
    "model.context_length": [256, 512, 1024],
    "model.vocab_size": [4096, 8192, 16384, 32768],
    "optim": ["{kind: adamw}", "{kind: muon}"],
    "rows": [2, 4, 6],
    "passes": [1, 2],
    "memory.logits_bytes": ["64MiB", "256MiB"],
    "precision.compute": ["bfloat16", "float32"],
}
"""What recipes differ in; a saver of memory that the engine learns is one more line here."""

IMPORTS = "import torch._dynamo, cirilla_cli.engine.run, cirilla_cli.data.run, cirilla_cli.cli.execute"
"""What training imports on its way."""


def draws(seed: int) -> Iterator[dict[str, Any]]:
    """Recipes without end."""
    rng = random.Random(seed)
    while True:
        yield {key: rng.choice(values) for key, values in GRID.items()}


def overrides(drawn: dict[str, Any], data: Path) -> list[str]:
    """The drawn recipe as changes to its family's."""
    width, context = drawn["model.d_model"], drawn["model.context_length"]
    heads, grouped = "model.mixers.A.n_heads=8", "model.mixers.A.n_kv_heads=4"
    family = {
        "llama3": [heads, grouped, f"model.mlp.d_ff={3 * width}"],
        "gpt2": [heads, f"model.mlp.d_ff={4 * width}"],
        "mixtral": [heads, grouped, f"model.mlp.d_ff={width}"],
        "granite-hybrid": [heads, grouped, f"model.mixers.M.n_heads={2 * width // 64}"],
        "modernbert": ["model.mixers.G.n_heads=8", "model.mixers.L.n_heads=8", f"model.mlp.d_ff={2 * width}"],
    }[drawn["family"]]
    plain = [f"{key}={value}" for key, value in drawn.items() if "." in key or key == "optim"]
    rows = drawn["rows"] * context
    return [
        *plain, *family, f"train.micro_batch_tokens={rows}", f"train.batch_tokens={rows * drawn['passes']}",
        f"train.steps={STEPS}", "tokenizer=null", f"data.sources.text.path={data}", "eval=null", "device=cpu",
        "log.plot=false",
    ]  # fmt: skip


def make_data(folder: Path) -> Path:
    """Documents of made-up words, a few to a few thousand tokens long, with a tokenizer of 2,048 pieces."""
    from cirilla_cli.data.config import SentencePieceConfig, TokenizeConfig
    from cirilla_cli.data.run import tokenize
    from cirilla_cli.progress import SILENT

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3000)]
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(300):
            text = " ".join(rng.choices(words, k=int(rng.lognormvariate(5.5, 1.0)) + 1))
            file.write(json.dumps({"id": f"d{i}", "title": "", "text": text}) + "\n")
    tokenize(TokenizeConfig(inputs=(path,), tokenizer=SentencePieceConfig(vocab_size=2048)), folder, SILENT)
    return folder


def status(key: str) -> int:
    """A figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def job(family: str, words: list[str], out: str) -> Any:
    """The job of a drawn recipe."""
    from cirilla_cli.cli.execute import job_of
    from cirilla_cli.recipe.load import load_recipe

    return job_of(load_recipe(family, "pretrain", overrides=words, out=out))


def predicted(family: str, words: list[str]) -> dict[str, Any]:
    """What the plan says, in this process."""
    from cirilla_cli.engine.run import Target, forecast

    found = forecast(job(family, words, "nowhere"), target=Target("cpu"), rate=1.0)
    return {name: found[name] for name in ("peak_bytes", "memory", "parameters")}


def measured(family: str, words: list[str]) -> dict[str, Any]:
    """What training in this process holds at its peak, less what it held after imports."""
    exec(IMPORTS)
    from cirilla_cli.engine.run import train
    from cirilla_cli.progress import SILENT

    with tempfile.TemporaryDirectory() as out:
        mine = job(family, words, out)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = status("VmRSS")
        report = train(mine, SILENT)
        return {"peak_bytes": status("VmHWM") - before, "parameters": report.parameters}


def apart(what: str, family: str, words: list[str]) -> dict[str, Any]:
    """One of the two, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan_reality", "--child", what, family, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} {family} {' '.join(words)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """The results, and how many are within a tenth."""
    lines = ["| | recipe | predicted (MB) | measured (MB) | ratio |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["draw"]):
        drawn = row["drawn"]
        shape = f"{drawn['family']} {drawn['model.d_model']} x {drawn['model.n_layers']}, {drawn['optim'][7:-1]}"
        cut = f"{drawn['passes']} x {drawn['rows']} x {drawn['model.context_length']}, {drawn['precision.compute']}"
        sizes = f"{row['predicted'] / 1e6:.0f} | {row['measured'] / 1e6:.0f}"
        lines.append(f"| {row['draw']} | {shape}, {cut} | {sizes} | {row['predicted'] / row['measured']:.3f} |")
    ratios = [row["predicted"] / row["measured"] for row in rows]
    close = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    wrong = sum(ratio * (1 + WITHIN) < 1 for ratio in ratios)
    return "\n".join([*lines, f"within {WITHIN:.0%}: {close} of {len(rows)}; said to fit and does not: {wrong}"])


def run(args: argparse.Namespace) -> None:
    """Draw, predict and measure until there are enough."""
    from cirilla_cli.engine.walk import Ledger  # noqa: F401  # a broken tree is noticed here

    wanted = None if args.only is None else {int(text) for text in args.only.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        for number, drawn in enumerate(draws(args.seed)):
            rows = rows_of(args.results)
            if sum(row["measured"] >= LEAST for row in rows) >= args.count or number > 20 * args.count:
                break
            if any(row["draw"] == number for row in rows) or (wanted is not None and number not in wanted):
                continue
            words = overrides(drawn, data)
            said = apart("predicted", drawn["family"], words)
            if not LEAST <= said["peak_bytes"] <= MOST:
                continue
            truth = apart("measured", drawn["family"], words)
            row = {"draw": number, "drawn": drawn, "predicted": said["peak_bytes"], "measured": truth["peak_bytes"],
                   "memory": said["memory"], "same_parameters": said["parameters"] == truth["parameters"]}  # fmt: skip
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(number, f"{said['peak_bytes'] / truth['peak_bytes']:.3f}", drawn, file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    if sys.argv[1:2] == ["--child"]:
        what, family, *words = sys.argv[2:]
        print(json.dumps((predicted if what == "predicted" else measured)(family, words)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=Path("plan_reality.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--only", help="numbers of draws, with commas")
    parser.add_argument("--table", action="store_true", help="print what is there, and stop")
    args = parser.parse_args()
    if not args.table:
        os.environ.setdefault("OMP_NUM_THREADS", "2")
        run(args)
    print(table([row for row in rows_of(args.results) if row["measured"] >= LEAST]))


if __name__ == "__main__":
    main()
