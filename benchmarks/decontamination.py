"""Leaks of evaluation texts into training rows: how many planted ones are found, how many clean rows go, at what speed.

    python -m benchmarks.decontamination --text gcide.txt

Evaluation texts: passages of a dictionary of 5 to 60 words, and tasks of reasoning-gym. A thousand are planted word for
word in rows of other text (as they are, in capitals, broken into lines, or without punctuation), a thousand in other
words (the halves change places, one word in six is another, one in six is missing), a thousand not at all. Clean rows
are other passages and tasks of the same generators from other indices; those that hold an evaluation text by chance are
taken out beforehand, by a search through strings that shares no code with ours. Beside it, in the same run: 13-grams of
words looked up in a set (as Brown et al. 2020 did), with a text of fewer words compared whole.
"""

import argparse
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dedupe import tasks
from benchmarks.peers.dedupe_ours import peak_mb
from benchmarks.sample_texts import dictionary
from cirilla_cli.curate.config import ContaminationConfig
from cirilla_cli.curate.decontaminate import Decontaminator, EvalSet, EvalText
from cirilla_cli.data.rows import Document

EACH = 1000


@dataclass(frozen=True)
class Rows:
    """Rows by what is known of them."""

    verbatim: list[str]
    reworded: list[str]
    clean: list[str]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def passages(path: Path, rng: random.Random) -> Iterator[str]:
    """Parts of dictionary entries of 5 to 60 words, between full stops."""
    entries = dictionary(path)
    rng.shuffle(entries)
    for entry in entries:
        parts = re.split(r"(?<=[a-z]{3}\.) ", " ".join(entry.split()))
        yield from (part for part in parts if 5 <= len(words_of(part)) <= 60)


def planted(text: str, around: str, rng: random.Random) -> str:
    """A row of other words that holds ``text``, differently written."""
    spelt = rng.choice([text, text.upper(), text.replace(" ", "\n", 3), re.sub(r"[.,;:!?](?=\s|$)", "", text)])
    cut = around.split()
    place = rng.randint(0, len(cut))
    return "\n".join([" ".join(cut[:place]), spelt, " ".join(cut[place:])])


def reworded(text: str, words: list[str], rng: random.Random) -> str:
    """``text`` in another order, with other words among its own."""
    own = text.split()
    own = [*own[len(own) // 2 :], *own[: len(own) // 2]]
    changed = [rng.choice(words) if rng.random() < 1 / 6 else word for word in own]
    return " ".join(word for word in changed if rng.random() > 1 / 6)


def held(texts: list[str], rows: list[str]) -> Iterator[bool]:
    """Whether a row holds one of the texts, word for word."""
    by_start: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in texts:
        own = words_of(text)
        by_start[tuple(own[:5])].append(f" {' '.join(own)} ")
    for row in rows:
        own = words_of(row)
        joined = f" {' '.join(own)} "
        starts = {tuple(own[i : i + 5]) for i in range(len(own))}
        yield any(text in joined for start in starts for text in by_start.get(start, ()))


def by_grams(texts: list[str], rows: list[str]) -> list[bool]:
    """The usual way: a row leaks when it shares 13 words in a row with a text."""
    known = defaultdict(set)
    for text in texts:
        own = words_of(text)
        length = min(13, len(own))
        known[length].update(tuple(own[i : i + length]) for i in range(len(own) - length + 1))
    found = []
    for row in rows:
        own = words_of(row)
        grams = (tuple(own[i : i + n]) in known[n] for n in known for i in range(len(own) - n + 1))
        found.append(any(grams))
    return found


def ours(texts: list[str], rows: list[str]) -> tuple[list[bool], int]:
    """Which rows leak, and how many texts a row resembles."""
    sets = [EvalSet("exam", tuple(EvalText(str(number), text) for number, text in enumerate(texts)))]
    decontaminator = Decontaminator(ContaminationConfig(), sets)
    documents = (("", Document(id=str(number), title="", text=row, sha256="x")) for number, row in enumerate(rows))
    leaks = [leak is not None for _, _, leak in decontaminator.checked(documents)]
    return leaks, int(decontaminator.report()["exam"]["resembled"])


def timed(work: Callable[[], list[bool]]) -> tuple[list[bool], float]:
    """What ``work`` returns, and its processor seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


def made(path: Path, count: int, seed: int) -> tuple[list[str], Rows]:
    """The evaluation texts, the first and the second thousand of which are planted, and the rows."""
    rng = random.Random(seed)
    found = passages(path, rng)
    generated = [task for task in tasks(count // 2 + 750, seed) if len(words_of(task)) >= 5]
    rng.shuffle(generated)
    texts = [*generated[:750], *(next(found) for _ in range(3 * EACH - 750))]
    rng.shuffle(texts)
    clean = [*generated[750 : 750 + count // 2], *(next(found) for _ in range(count - count // 2))]
    clean = [row for row, dirty in zip(clean, held(texts, clean), strict=True) if not dirty]
    words = " ".join(clean[-500:]).split()
    verbatim = [planted(text, rng.choice(clean), rng) for text in texts[:EACH]]
    return texts, Rows(verbatim, [reworded(text, words, rng) for text in texts[EACH : 2 * EACH]], clean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a dictionary as plain text")
    parser.add_argument("--rows", type=int, default=100_000, help="clean rows")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    texts, rows = made(given.text, given.rows, given.seed)
    size = sum(len(row) for row in rows.clean) / 1e6
    print(f"{len(texts):,} texts; {len(rows.clean):,} clean rows of {size:.1f} MB, 1,000 and 1,000 planted")
    print(f"{'':<20} {'verbatim found':>15} {'clean that go':>14} {'processor s':>12} {'MB/s':>6}")
    for name, way in (("ours", lambda r: ours(texts, r)[0]), ("13-grams in a set", lambda r: by_grams(texts, r))):
        found = sum(way(rows.verbatim)) / EACH
        wrong, seconds = timed(lambda way=way: way(rows.clean))
        share = f"{sum(wrong)} ({sum(wrong) / len(wrong):.3%})"
        print(f"{name:<20} {found:15.2%} {share:>14} {seconds:12.1f} {size / seconds:6.1f}", flush=True)
    leaks, resembled = ours(texts, rows.reworded)
    print(f"reworded: {resembled / EACH:.1%} resemble a text, {sum(leaks) / EACH:.1%} leak one")
    _, by_chance = ours(texts, rows.clean)
    print(f"clean: {by_chance} of {len(texts):,} texts have a line that resembles them")
    flat(texts, rows.clean)


def flat(texts: list[str], clean: list[str]) -> None:
    """Memory must not grow with the rows: the process's peak so far, and after reading twice as many once more."""
    before = peak_mb()
    decontaminator = Decontaminator(ContaminationConfig(), [EvalSet("exam", tuple(EvalText("", t) for t in texts))])
    stream = (("", Document(id="", title="", text=row, sha256="x")) for _ in range(2) for row in clean)
    count = sum(1 for _ in decontaminator.checked(stream))
    print(f"peak memory: {before:.0f} MB before {count:,} further rows, {peak_mb():.0f} MB after")


if __name__ == "__main__":
    main()
