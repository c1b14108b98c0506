"""Whether `cirilla plan` is right: its peak of memory against that of fresh processes that train.

    python -m benchmarks.plan_reality --results plan.jsonl

Draws recipes by seed from a grid, measures the peak of each and predicts it: a process of its own that trains three
steps as the command line does, its peak less what it held after its imports. Results are appended, so that a stopped
run goes on; ``--only 0,5`` takes some, ``--again`` predicts anew what stands there, ``--table`` prints it. Peaks under
600 MB do not count: others are drawn. ``--products`` measures what oneDNN keeps of each kind of product in bfloat16.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEAST = 600_000_000
SMALLEST, LARGEST = 25_000_000, 90_000_000
STEPS = 3
WITHIN = 0.1
SPARE = 0.15
"""What a plan leaves free where it says that a step fits (engine/footprint.py)."""

GRID: dict[str, list[Any]] = {
    "family": ["llama3", "gpt2", "mixtral", "granite-hybrid", "modernbert"],
    "model.d_model": [512, 768],
    "model.n_layers": [4, 6, 8, 12],
    "model.context_length": [256, 512],
    "model.vocab_size": [8192, 16384, 32768],
    "optim": ["{kind: adamw}", "{kind: muon}", "{kind: adamw_8bit}"],
    "rows": [1, 2, 4],
    "passes": [1, 2],
    "memory.logits_bytes": ["16MiB", "256MiB"],
    "memory.checkpointing": ["null", "null", "{kind: full}", "{kind: selective}"],
    "memory.fused_backward": ["false", "false", "true"],
    "precision.compute": ["bfloat16", "float32"],
    "precision.weights": ["float32", "float32", "bfloat16"],
}
"""What recipes differ in; a saver of memory that the engine learns is one more line here."""

IMPORTS = "import torch._dynamo, cirilla_cli.engine.run, cirilla_cli.data.run, cirilla_cli.cli.execute"
"""What training imports on its way."""


def draws(seed: int) -> Iterator[dict[str, Any]]:
    """Recipes without end."""
    rng = random.Random(seed)
    while True:
        drawn = {key: rng.choice(values) for key, values in GRID.items()}
        # What recipes are refused for is not drawn.
        yield {**drawn, "passes": 1} if drawn["memory.fused_backward"] == "true" else drawn


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
    unclipped = ["train.max_grad_norm=null"] if drawn["memory.fused_backward"] == "true" else []
    return [
        *plain, *family, *unclipped, f"train.micro_batch_tokens={rows}", f"train.batch_tokens={rows * drawn['passes']}",
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


def resolved(family: str, words: list[str], out: str) -> Any:
    """A drawn recipe."""
    from cirilla_cli.recipe.load import load_recipe

    return load_recipe(family, "pretrain", overrides=words, out=out)


def predicted(family: str, words: list[str]) -> dict[str, Any]:
    """What the plan says, in this process."""
    from cirilla_cli.cli.execute import job_of
    from cirilla_cli.engine.run import Target, forecast

    found = forecast(job_of(resolved(family, words, "nowhere")), target=Target("cpu"))
    step = found["tokens_per_step"] / found["tokens_per_second"]
    names = ("peak_bytes", "memory", "parameters", "checkpoint_bytes")
    return {**{name: found[name] for name in names}, "step_seconds": step}


def measured(family: str, words: list[str]) -> dict[str, Any]:
    """What training in this process holds at its peak, less what it held after imports; as the command line trains."""
    exec(IMPORTS)
    from cirilla_cli.cli.execute import Control, train
    from cirilla_cli.engine.metrics import read_metrics
    from cirilla_cli.progress import SILENT

    with tempfile.TemporaryDirectory() as out:
        recipe = resolved(family, [*words, "log.every=1"], out)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = status("VmRSS")
        report = train(recipe, SILENT, Control())
        peak = status("VmHWM") - before
        saved = Path(out) / "checkpoints" / f"step-{STEPS:06d}"
        seconds = sorted(line["step_seconds"] for line in read_metrics(Path(out)) if "step_seconds" in line)
        return {
            "peak_bytes": peak, "parameters": report.parameters, "step_seconds": seconds[0],
            "checkpoint_bytes": sum(file.stat().st_size for file in saved.glob("*.safetensors")),
        }  # fmt: skip


def apart(what: str, family: str, words: list[str]) -> dict[str, Any]:
    """One of the two, in a process of its own, which begins as the command line's do."""
    from cirilla_cli.cli.allocator import without_cache

    command = [sys.executable, "-m", "benchmarks.plan_reality", "--child", what, family, *words]
    environment = without_cache(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{what} {family} {' '.join(words)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """The results, and how many are within a tenth."""
    lines = ["| | recipe | predicted (MB) | measured (MB) | ratio | step, predicted (s) | measured (s) |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: row["draw"]):
        said, truth = row["predicted"], row["measured"]
        sizes = f"{said['peak_bytes'] / 1e6:.0f} | {truth['peak_bytes'] / 1e6:.0f} | {ratio(row):.3f}"
        times = f"{said['step_seconds']:.2f} | {truth['step_seconds']:.2f}"
        lines.append(f"| {row['draw']} | {named(row['drawn'])} | {sizes} | {times} |")
    close = sum(abs(ratio(row) - 1) <= WITHIN for row in rows)
    wrong = sum(ratio(row) * (1 + SPARE) < 1 for row in rows)
    same = sum(row["predicted"]["parameters"] == row["measured"]["parameters"] for row in rows)
    disk = [row["predicted"]["checkpoint_bytes"] / row["measured"]["checkpoint_bytes"] for row in rows]
    lines.append(f"within {WITHIN:.0%}: {close} of {len(rows)}; said to fit and does not: {wrong}; parameters: {same}")
    if disk:
        lines.append(f"bytes of a checkpoint, predicted over written: {min(disk):.4f} to {max(disk):.4f}")
    return "\n".join(lines)


class _Heap(ctypes.Structure):
    """What mallinfo2(3) of glibc tells."""

    _fields_ = [
        (name, ctypes.c_size_t) for name in ("arena", *(f"other{i}" for i in range(6)), "used", "free", "keepcost")
    ]


def products(count: int = 200) -> str:
    """What the first product of each of many kinds leaves on the heap, and what it takes of the processor."""
    import torch

    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Heap
    a, b, out = (torch.ones(size, dtype=torch.bfloat16) for size in ((600, 64), (64, 64), (600, 64)))
    torch.mm(a, b, out=out)
    found = []
    for _ in ("first", "again"):
        before, since = libc.mallinfo2().used, time.process_time()
        for n in range(100, 100 + count):
            torch.mm(a[:n], b, out=out[:n])
        found.append(((libc.mallinfo2().used - before) / count, (time.process_time() - since) / count * 1e3))
    return "\n".join(f"{held:.0f} bytes kept and {spent:.3f} ms each" for held, spent in found)


def ratio(row: dict[str, Any]) -> float:
    """Predicted over measured peak."""
    return float(row["predicted"]["peak_bytes"] / row["measured"]["peak_bytes"])


def named(drawn: dict[str, Any]) -> str:
    """A drawn recipe in words."""
    shape = f"{drawn['family']} {drawn['model.d_model']} x {drawn['model.n_layers']}, {drawn['optim'][7:-1]}"
    cut = f"{drawn['passes']} x {drawn['rows']} x {drawn['model.context_length']}, {drawn['precision.compute']}"
    again = {"null": "", "{kind: full}": ", full", "{kind: selective}": ", selective"}[drawn["memory.checkpointing"]]
    fused = ", fused" if drawn["memory.fused_backward"] == "true" else ""
    return f"{shape}, {cut}{again}{fused}{', bf16 weights' if drawn['precision.weights'] == 'bfloat16' else ''}"


def is_of_size(drawn: dict[str, Any], words: list[str]) -> bool:
    """Whether a draw has a model whose states may make the least peak, and not much more."""
    from cirilla_cli.model.count import count

    model: Any = resolved(drawn["family"], words, "nowhere").recipe.model
    return SMALLEST <= count(model.changed(vocab_size=drawn["model.vocab_size"])).parameters <= LARGEST


def run(args: argparse.Namespace) -> None:
    """Draw, measure and predict until there are enough."""
    wanted = None if args.only is None else {int(text) for text in args.only.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        for number, drawn in enumerate(draws(args.seed)):
            rows = {row["draw"]: row for row in rows_of(args.results)}
            enough = sum(row["measured"]["peak_bytes"] >= LEAST for row in rows.values()) >= args.count
            if (enough and not args.again) or number > 20 * args.count:
                break
            words = overrides(drawn, data)
            if wanted is not None and number not in wanted or (number in rows) != args.again:
                continue
            if not args.again and not is_of_size(drawn, words):
                continue
            truth = rows[number]["measured"] if args.again else apart("measured", drawn["family"], words)
            said = apart("predicted", drawn["family"], words)
            row = {"draw": number, "drawn": drawn, "predicted": said, "measured": truth}
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(number, f"{ratio(row):.3f}", named(drawn), file=sys.stderr, flush=True)


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
    parser.add_argument("--again", action="store_true", help="predict anew what is measured already")
    parser.add_argument("--products", action="store_true", help="what oneDNN keeps of a kind of product, and stop")
    parser.add_argument("--table", action="store_true", help="print what is there, and stop")
    args = parser.parse_args()
    if args.products:
        print(products())
        return
    if not args.table:
        os.environ.setdefault("OMP_NUM_THREADS", "2")
        run(args)
    newest = {row["draw"]: row for row in rows_of(args.results)}
    print(table([row for row in newest.values() if row["measured"]["peak_bytes"] >= LEAST]))


if __name__ == "__main__":
    main()
