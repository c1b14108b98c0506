"""Near-duplicate removal beside datasketch and datatrove: quality against exact truth, time and memory, in one run.

    zcat gcide.dict.dz > gcide.txt        # of Debian's package dict-gcide: `apt-get download`, `dpkg -x`
    python -m benchmarks.dedupe --text gcide.txt --peer datasketch=/venvs/dedupe/bin/python \\
        --peer datatrove=/venvs/dedupe/bin/python

Rows: 35% tasks of 25 generators of reasoning-gym, 35% entries of the text, 30% copies with known changes (equal, other
case and spacing, one edit, two to four edits, words before or after), in a random order. Truth: the Jaccard similarity
of character 5-grams of all pairs of texts, exactly, by a prefix filter (Bayardo et al. 2007) over strings, which shares
no code with ours. Recall is over texts that have an earlier neighbour, at 0.8 or above, that the system kept; precision
over texts that it dropped. A task is lost when it is dropped and no earlier one is equal up to case and spacing. Each
system runs in a process of its own, from the file to the list of dropped rows; `processor` is its time on all cores,
which is not known of datatrove's processes.
Imports are not counted, and memory is what they leave behind taken off the peak (of datatrove, which works in processes
of its own: the largest one's whole peak).
"""

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.sample_texts import dictionary

HERE = Path(__file__).parent
GENERATORS = [
    "basic_arithmetic", "chain_sum", "gcd", "lcm", "leg_counting", "number_sorting", "word_sequence_reversal",
    "spell_backward", "base_conversion", "count_bits", "prime_factorization", "simple_equations",
    "fraction_simplification", "number_filtering", "letter_counting", "word_sorting", "caesar_cipher",
    "decimal_arithmetic", "products", "time_intervals", "calendar_arithmetic", "bitwise_arithmetic",
    "self_reference", "family_relationships", "largest_island",
]  # fmt: skip
CHANGES = {"equal": 5, "spelling": 5, "one edit": 8, "more edits": 8, "around": 4}
"""Kinds of copies, in parts of 30."""


def tasks(count: int, seed: int) -> list[str]:
    """Questions with their answers."""
    from cirilla_cli.verify.gym import entries

    each = math.ceil(count / len(GENERATORS))
    made = [e for name in GENERATORS for e in entries(name, {}, seed, range(each))]
    return [f"{e['question']}\n{e['answer']}" for e in made][:count]


def texts(path: Path, count: int, rng: random.Random) -> list[str]:
    """Entries of a dictionary as rows of some 200 characters."""
    found = [" ".join(entry.split()) for entry in dictionary(path)]
    cut = [entry[:400].rsplit(" ", 1)[0] for entry in found if len(entry) > 60]
    return [f"Define {entry.split()[0]}. {entry}" for entry in rng.sample(cut, min(count, len(cut)))]


def changed(text: str, change: str, words: list[str], rng: random.Random) -> str:
    """A copy of ``text`` with one kind of change."""
    if change == "equal":
        return text
    if change == "spelling":
        return "  ".join(word.upper() if rng.random() < 0.3 else word for word in text.split())
    if change == "around":
        extra = " ".join(rng.choices(words, k=3))
        return f"{extra} {text}" if rng.random() < 0.5 else f"{text} {extra}"
    parts = text.split()
    for _ in range(1 if change == "one edit" else rng.randint(2, 4)):
        place = rng.randrange(len(parts))
        parts[place : place + rng.randint(0, 1)] = rng.choices(words, k=rng.randint(0, 1))
    return " ".join(parts)


def rows(text: Path, count: int, seed: int) -> list[dict[str, str]]:
    """What is deduplicated, in a random order."""
    rng = random.Random(seed)
    originals = [("task", t) for t in tasks(count * 35 // 100, seed)]
    originals += [("text", t) for t in texts(text, count * 35 // 100, rng)]
    words = " ".join(t for kind, t in originals[-500:] if kind == "text").split()
    plain = [one for one in originals if one[0] == "text"]
    made = list(originals)
    for change, part in CHANGES.items():
        pool = originals if change in ("equal", "spelling") else plain
        chosen = rng.choices(pool, k=count * part // 100)
        made += [(kind, changed(one, change, words, rng)) for kind, one in chosen]
    rng.shuffle(made)
    return [{"id": str(number), "kind": kind, "text": one} for number, (kind, one) in enumerate(made)]


def grams(text: str) -> set[str]:
    """Character 5-grams of the words of a text."""
    plain = " ".join(re.findall(r"[^\W_]+", text.casefold()))
    return {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}


def neighbours(made: list[dict[str, str]], least: float) -> dict[int, list[int]]:
    """For each text the earlier ones at or above ``least``, exactly: sets so alike share one of their rarest grams."""
    sets = {number: grams(row["text"]) for number, row in enumerate(made) if row["kind"] == "text"}
    count = Counter(gram for own in sets.values() for gram in own)
    postings: dict[str, list[int]] = defaultdict(list)
    found: dict[int, list[int]] = {}
    for number, own in sets.items():
        rarest = sorted(own, key=lambda gram: (count[gram], gram))[: len(own) - math.ceil(least * len(own)) + 1]
        others = {other for gram in rarest for other in postings[gram]}
        found[number] = [other for other in others if len(own & sets[other]) >= least * len(own | sets[other])]
        for gram in rarest:
            postings[gram].append(number)
    return found


def judged(made: list[dict[str, str]], near: dict[int, list[int]], dropped: set[str]) -> dict[str, float]:
    """Recall and precision on texts, and distinct tasks that were lost."""
    kept = [row["id"] not in dropped for row in made]
    due = [number for number, others in near.items() if any(kept[other] for other in others)]
    gone = [number for number in near if not kept[number]]
    return {
        "due": len(due),
        "recall": sum(not kept[number] for number in due) / max(1, len(due)),
        "precision": sum(bool(near[number]) for number in gone) / max(1, len(gone)),
        "lost": sum(1 for number in _lost(made, kept)),
    }


def _lost(made: list[dict[str, str]], kept: list[bool]) -> Iterator[int]:
    known: set[str] = set()
    for number, row in enumerate(made):
        if row["kind"] == "task":
            plain = " ".join(row["text"].casefold().split())
            if not kept[number] and plain not in known:
                yield number
            known.add(plain)


def measured(command: list[str], source: Path, folder: Path, extra: list[str]) -> dict[str, Any]:
    """What a system reports about the rows."""
    out = folder / "out.json"
    subprocess.run([*command, str(source), str(out), *extra], check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return told


def systems(peers: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, command and last arguments of each."""
    ours = [sys.executable, "-m", "benchmarks.peers.dedupe_ours"]
    yield "ours", ours, ["kinds"]
    yield "ours, same numbers and names", ours, ["facts"]
    yield "ours, every row as text", ours, ["text"]
    for peer in peers:
        name, python = peer.split("=", 1)
        yield name, [python, str(HERE / "peers" / f"dedupe_{name}.py")], []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a dictionary as plain text")
    parser.add_argument("--peer", action="append", default=[], help="NAME=PYTHON: datasketch or datatrove")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.8, help="similarity of a near-duplicate")
    given = parser.parse_args()
    made = rows(given.text, given.rows, given.seed)
    near = neighbours(made, given.least)
    mean = sum(len(row["text"]) for row in made) / len(made)
    repeats = sum(map(bool, near.values()))
    print(f"{len(made):,} rows of {mean:.0f} characters; {repeats:,} texts have an earlier neighbour")
    print(f"{'':<30} {'seconds':>8} {'processor':>10} {'MB':>6} {'recall':>7} {'precision':>10} {'tasks lost':>11}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        for name, command, extra in systems(given.peer):
            told = measured(command, source, Path(folder), extra)
            q = judged(made, near, set(told["dropped"]))
            label = f"{name} {told['version']}".strip()
            processor = "-" if told["processor"] is None else f"{told['processor']:.1f}"
            cost = f"{told['seconds']:8.1f} {processor:>10} {told['peak_mb']:6.0f}"
            print(f"{label:<30} {cost} {q['recall']:7.3f} {q['precision']:10.4f} {q['lost']:11,.0f}", flush=True)


if __name__ == "__main__":
    main()
