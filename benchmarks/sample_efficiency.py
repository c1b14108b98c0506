"""What three minutes of training on two cores teach: ours beside litgpt and transformers' Trainer.

    zcat gcide.dict.dz > gcide.txt        # of Debian's package dict-gcide: `apt-get download`, `dpkg -x`
    python -m benchmarks.sample_efficiency --gcide gcide.txt --wikitext DIR --characters input.txt \\
        --peer litgpt=/venvs/litgpt/bin/python --peer transformers=/venvs/hf/bin/python

Texts are the dictionary's entries, a tenth of them held out by hash, and WikiText-2, trained on its test file and
scored on its valid file (`DIR/test.txt`, `DIR/valid.txt`). One tokenizer of 8,192 pieces is trained on the text to
train on; all systems read its ids. The shape is a Llama of 34.1M parameters with 8 layers. Each run times a few steps
first, takes as many as fill `--seconds`, so that every schedule knows its length, and forgets the few. Reading,
building, compiling and scoring are outside.

Peers keep the defaults that they document, with the best of three learning rates; what had to be changed for three
minutes is said in `peers/learn_litgpt.py` and `peers/learn_transformers.py`. Ours has one setting for both texts, that
of `peers/learn_ours.py`. Ours and the best peer run with three seeds. Scores are bits per byte of the held-out text,
each document for itself or all end to end, whichever is lower for the system.

`--characters` adds the recipe that nanoGPT documents for a CPU: tinyshakespeare by characters, 4 layers of width 128,
the last tenth held out, 85 seconds; its 1.874 nats per character are of its own evaluation on such a machine.

`--quick` takes one seed and two learning rates. Each result is a line of `--results`; a run that was stopped goes on
with what is missing. `--only TEXT` selects, by what is printed for a run; `--try lr=0.03,batch_tokens=4096` runs ours
with other settings, as one more system.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.sample_texts import CHARACTERS, VOCABULARY, characters, corpora, prepare

HERE = Path(__file__).parent
SHAPE = dict(layers=8, width=512, heads=8, hidden=1408, vocab=VOCABULARY, length=512)
SMALL: dict[str, Any] = dict(
    layers=4, width=128, heads=4, hidden=336, vocab=CHARACTERS, length=256, short=64, seconds=85.0
)
RECIPE_NATS = 1.874
RATES, QUICK_RATES, SEEDS = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3), (0, 1, 2)
AROUND_S = {"ours": 20, "transformers": 35, "litgpt": 45}
"""About what a run takes besides its training: imports, compilation, the steps that are timed, the score."""
T_95 = {2: 12.706, 3: 4.303}
"""Student's t for 95% by number of runs."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    corpus: str
    system: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """As `--only` and the progress spell it."""
        rate = f" lr {self.lr:g}" if self.lr else ""
        return f"{self.corpus} {self.system}{rate} seed {self.seed}"


def first_cells(names: Iterable[str], peers: Iterable[str], trial: str, quick: bool) -> Iterator[Cell]:
    """Ours with every seed, each peer with every rate; the text by characters with ours alone, once."""
    peers, rates, seeds = list(peers), QUICK_RATES if quick else RATES, SEEDS[: 1 if quick else None]
    for name in names:
        if trial:
            yield Cell(name, f"ours {trial}", 0.0, 0)
            continue
        if name == "characters":
            yield Cell(name, "ours", 0.0, 0)
        else:
            yield from (Cell(name, "ours", 0.0, seed) for seed in seeds)
            yield from (Cell(name, peer, lr, 0) for peer in peers for lr in rates)


def more_seeds(rows: list[dict[str, Any]], names: Iterable[str]) -> Iterator[Cell]:
    """The best peer of each text, at its best rate, with the other seeds."""
    for name in names:
        best = min(peer_rows(rows, name), key=bits, default=None)
        if best is not None:
            yield from (Cell(name, best["system"], best["lr"], seed) for seed in SEEDS[1:])


def peer_rows(rows: list[dict[str, Any]], corpus: str) -> list[dict[str, Any]]:
    """A text's finished runs of peers with the first seed."""
    return [
        r for r in rows
        if r["corpus"] == corpus and not r["system"].startswith("ours") and r["seed"] == 0 and "error" not in r
    ]  # fmt: skip


def bits(row: dict[str, Any]) -> float:
    """Bits per byte of a run."""
    return float(min(row["apart"], row["running_on"]))


def run(cell: Cell, folders: dict[str, Path], given: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """Train and score in a process of its own."""
    system, _, trial = cell.system.partition(" ")
    shape = SMALL if cell.corpus == "characters" else SHAPE | {"seconds": given.seconds}
    task = {
        "corpus": str(folders[cell.corpus].resolve()), "lr": cell.lr, "seed": cell.seed, "steps": given.steps,
        "settings": settings(trial), "threads": given.threads, **shape,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        runner = HERE / "peers" / f"learn_{system}.py"
        done = subprocess.run([pythons[system], str(runner), file.name], capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def settings(trial: str) -> dict[str, Any]:
    """`lr=0.03,batch_tokens=4096` as settings; words stay words."""
    found: dict[str, Any] = {}
    for pair in filter(None, trial.split(",")):
        key, _, value = pair.partition("=")
        found[key] = value if value.isidentifier() and value not in ("true", "false") else json.loads(value)
    return found


def read(results: Path) -> list[dict[str, Any]]:
    """All runs so far."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def take(cells: list[Cell], folders: dict[str, Path], given: argparse.Namespace, pythons: dict[str, str]) -> None:
    """Run what is missing, and append it to the results."""
    have = {(r["corpus"], r["system"], r["lr"], r["seed"]) for r in read(given.results) if "error" not in r}
    left = [c for c in cells if given.only in c.name and (c.corpus, c.system, c.lr, c.seed) not in have]
    minutes = sum(
        (SMALL["seconds"] if c.corpus == "characters" else given.seconds) + AROUND_S.get(c.system.split()[0], 30)
        for c in left
    ) / 60  # fmt: skip
    print(f"{len(left)} runs, about {minutes:.0f} minutes", file=sys.stderr, flush=True)
    for cell in left:
        print(f"{cell.name} ...", end=" ", file=sys.stderr, flush=True)
        row = asdict(cell) | run(cell, folders, given, pythons)
        print(row.get("error") or f"{bits(row):.4f} bits per byte", file=sys.stderr, flush=True)
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


# The table


def table(rows: list[dict[str, Any]]) -> str:
    """Each system at each rate, by text, and what they come to."""
    parts = []
    for corpus in dict.fromkeys(row["corpus"] for row in rows):
        mine = [r for r in rows if r["corpus"] == corpus and "error" not in r]
        failed = {f"{r['system']}: {r['error']}" for r in rows if r["corpus"] == corpus and "error" in r}
        parts.append("\n".join([corpus, *_lines(mine), *sorted(failed), *_conclusion(corpus, mine)]))
    return "\n\n".join(parts)


def _lines(mine: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'':34}{'bits/byte':>10}{'95%':>9}{'steps':>7}{'tokens':>9}{'seconds':>9}{'runs':>6}"
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in mine:
        groups.setdefault((row["system"], row["lr"]), []).append(row)
    for (system, lr), group in sorted(groups.items(), key=lambda item: mean(item[1])):
        name = f"{system} lr {lr:g}" if lr else system
        figures = [statistics.mean(row[key] for row in group) for key in ("steps", "tokens", "seconds")]
        yield (
            f"{name:34}{mean(group):10.4f}{spread(group):>9}{figures[0]:7.0f}{figures[1]:9.0f}{figures[2]:9.1f}"
            f"{len(group):6}"
        )


def mean(group: list[dict[str, Any]]) -> float:
    """Bits per byte over seeds."""
    return statistics.mean(map(bits, group))


def half_width(group: list[dict[str, Any]]) -> float:
    """Half of the 95% interval of the mean; 0 for one run."""
    if len(group) not in T_95:
        return 0.0
    return T_95[len(group)] * statistics.stdev(map(bits, group)) / math.sqrt(len(group))


def spread(group: list[dict[str, Any]]) -> str:
    """The interval as the table shows it."""
    return f"±{half_width(group):.4f}" if len(group) > 1 else ""


def _conclusion(corpus: str, mine: list[dict[str, Any]]) -> Iterator[str]:
    ours = [r for r in mine if r["system"] == "ours"]
    if corpus == "characters" and ours:
        nats = [[r[key] * math.log(2) for r in ours] for key in ("running_on", "short")]
        long, short = (statistics.mean(values) for values in nats)
        yield f"ours: {long:.3f} nats per character in rows of {SMALL['length']}, {short:.3f} in rows of 64"
        yield f"the recipe: {RECIPE_NATS} in rows of 64; ours / recipe {short / RECIPE_NATS:.3f}"
    best = min(peer_rows(mine, corpus), key=bits, default=None)
    if best is None or not ours:
        return
    theirs = [r for r in mine if (r["system"], r["lr"]) == (best["system"], best["lr"])]
    apart = mean(ours) + half_width(ours) < mean(theirs) - half_width(theirs)
    yield f"ours / best peer ({best['system']} at {best['lr']:g}): {mean(ours) / mean(theirs):.3f}"
    below = max(map(bits, ours)) < min(map(bits, theirs))
    yield f"the highest of ours is {'below' if below else 'not below'} its lowest"
    if min(len(ours), len(theirs)) > 1:
        yield f"the intervals {'do not meet' if apart else 'meet'}"


def main() -> None:
    """Prepare the texts, run what is wanted and missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gcide", type=Path, help="the dictionary as plain text")
    parser.add_argument("--wikitext", type=Path, help="folder with test.txt and valid.txt")
    parser.add_argument("--characters", type=Path, help="tinyshakespeare")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="litgpt, transformers")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps of each run in place of --seconds, to try the script")
    parser.add_argument("--validation", type=int, default=98_304, metavar="BYTES", help="held-out text that is scored")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--try", dest="trial", default="", metavar="KEY=VALUE,...")
    parser.add_argument("--only", default="")
    parser.add_argument("--work", type=Path, default=Path("sample_efficiency"), help="where ids are kept")
    parser.add_argument("--results", type=Path, default=Path("sample_efficiency.jsonl"))
    given = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in given.peer)
    folders = {
        name: prepare(name, train, val, given.work, given.validation)
        for name, train, val in corpora(given.gcide, given.wikitext)
    }
    if given.characters is not None:
        folders["characters"] = characters(given.characters, given.work)
    pythons = {"ours": sys.executable} | peers
    take(list(first_cells(folders, peers, given.trial, given.quick)), folders, given, pythons)
    if not given.quick and not given.trial:
        take(list(more_seeds(read(given.results), folders)), folders, given, pythons)
    print(table(read(given.results)))


if __name__ == "__main__":
    main()
