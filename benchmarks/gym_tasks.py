"""Which tasks of reasoning-gym can be trained on and scored: `python -m benchmarks.gym_tasks [NAME ...]`.

Each task that `gym.UNSTABLE` does not name is made 200 times, and in part again with another hash seed. Its reference
answers are scored, junk is, and answers meant to do harm are. What speaks against a task is printed; exit 1 where that
and `verify/curated.py` disagree.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.errors import CirillaError
from cirilla_cli.verify import gym
from cirilla_cli.verify.curated import EXCLUDED
from cirilla_cli.verify.gym_worker import CORRECT, GymScorer
from cirilla_cli.verify.whitelist import EVALUATING
from tests.verify.hostile import BRACKETS, CODE, ODD, POWERS

ROOT = Path(__file__).resolve().parents[1]
_INSTANCES, _SCORED = 200, 8
_LEAST_PER_SECOND = 30.0
_MOST_ALIKE = 0.2
_JUNK = ("", "0", "1", "True", "False", "yes", "[]", "I do not know.", "The answer is hard to tell.", "A", "x" * 200)


@dataclass(frozen=True)
class Survey:
    """What was found out about one task."""

    name: str
    per_second: float = 0.0
    against: str | None = None


def survey(name: str, stable: Collection[str], scorer: GymScorer) -> Survey:
    """Try one task; the first thing that speaks against it is what counts."""
    try:
        gym.make_here(name, {}, 0, _INSTANCES)  # what is loaded once does not count
        start = time.process_time()
        made = [gym.make_here(name, {}, 0, index) for index in range(20)]
        speed = 20 / max(1e-4, time.process_time() - start)
        if speed < _LEAST_PER_SECOND:
            return Survey(name, speed, "slow to make")
        made += [gym.make_here(name, {}, 0, index) for index in range(20, _INSTANCES)]
    except CirillaError as error:
        return Survey(name, 0.0, f"fails: {error}"[:60])
    if name not in stable:
        return Survey(name, speed, "depends on the hash seed or the order of access")
    return Survey(name, speed, _against(name, json.loads(json.dumps(made)), scorer))


def _against(name: str, made: Sequence[dict[str, Any]], scorer: GymScorer) -> str | None:
    if any(not isinstance(entry["answer"], str) for entry in made):
        return "no reference answer"
    if name in EVALUATING:
        return "its scorer runs answers as code"
    if any(scorer.score(name, {}, 0, entry, entry["answer"]) < CORRECT for entry in made[:_SCORED]):
        return "its reference answers do not score 1"
    others = [entry for entry in made[:_SCORED] for junk in _JUNK if _is_wrong(junk, entry) and
              scorer.score(name, {}, 0, entry, junk) >= CORRECT]  # fmt: skip
    if others:
        return "its scorer takes wrong answers"
    harm = (*(code.format(trap="/tmp/trap") for code in CODE), *POWERS, *BRACKETS, *ODD)
    if any(scorer.score(name, {}, 0, made[0], text) >= CORRECT for text in harm):
        return "its scorer takes hostile answers"
    distinct = len({entry["question"] for entry in made})
    return "its instances repeat" if distinct < (1 - _MOST_ALIKE) * len(made) else None


def _is_wrong(junk: str, entry: dict[str, Any]) -> bool:
    """Whether ``junk`` is another text than the answer, and another number up to rounding."""
    right = str(entry["answer"]).strip()
    try:
        return not math.isclose(float(junk), float(right), rel_tol=1e-3, abs_tol=1e-3)
    except ValueError:
        return junk.casefold() != right.casefold()


def digests(names: Sequence[str], hash_seed: str, indices: Sequence[int]) -> dict[str, str]:
    """A hash of some instances of each task, made in this order in a process with this hash seed."""
    code = (
        "import json, sys; from cirilla_cli.verify import gym; from cirilla_cli.data.rows import content_hash\n"
        "names, indices = json.loads(sys.argv[1])\n"
        "made = {n: {i: gym.make_here(n, {}, 0, i) for i in indices} for n in names}\n"
        "print(json.dumps({n: content_hash(sorted(m.items())) for n, m in made.items()}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", code, json.dumps([list(names), list(indices)])]
    found: dict[str, str] = json.loads(
        subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout
    )
    return found


def main(names: Sequence[str]) -> int:
    """Print a line a task; 1 where a reason is missing or too much."""
    wrong, names = 0, names or [name for name in gym.names() if name not in gym.UNSTABLE]
    forward, backward = digests(names, "1", range(8)), digests(names, "2", range(7, -1, -1))
    stable = {name for name in names if forward[name] == backward[name]}
    with GymScorer() as scorer:
        for name in names:
            found, told = survey(name, stable, scorer), EXCLUDED.get(name)
            agrees = (found.against is None) == (told is None)
            wrong += not agrees
            differs = "" if agrees else f"but curated says {told or 'good'}"
            print(f"{name:<28} {found.per_second:>9,.0f}/s  {found.against or 'good':<54} {differs}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
