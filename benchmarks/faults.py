"""What runs survive: kills at random moments, lost machines, full disks, damaged files, changed inputs and processes.

    python -m benchmarks.faults [--only KIND ...] [--kills 50] [--seed 0] [--results faults.jsonl] [--fast]

Every case is a tiny `cirilla pretrain`, `sft` or `dpo` in a process of its own, forked from one that has imported
torch. A case ends in one of these outcomes:

    same bits   the same command completed the run, and weights, their average, the optimizer, the curve, the samples
                and the counters are those of the run that nothing happened to
    refused     exit 1 and a message that names the thing
    said        it went on, said that the bits may differ, and read the same tokens
    LOST        it could not be completed, or a checkpoint that was good before is gone
    DIFFERENT   it completed without a word, and is another run

Results are appended to a file as they come; a case that stands there is not run again. Exit 1 if any case ended
otherwise than it should.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.fault_lab import (
    EVERY,
    ROOT,
    VERBS,
    Lab,
    completed,
    die_after,
    die_at,
    newest_good,
    no_large_files,
    refused,
    state_of,
)  # fmt: skip

# Cases


@dataclass(frozen=True)
class Case:
    """One thing that happens to one run."""

    kind: str
    name: str
    expected: str
    act: Callable[[Lab, Path], str]

    @property
    def id(self) -> str:
        """How it stands in the results."""
        return f"{self.kind}/{self.name}"


def kill_cases(kills: int, seed: int) -> Iterator[Case]:
    """Kills, of which a third comes while a checkpoint is written and a third in pairs."""
    done, n = 0, 0
    while done < kills:
        verb, rng = VERBS[n % 3], random.Random(f"{seed}/{n}")
        mode = ("in a step", "in a write", "twice")[(n // 3) % 3] if kills - done > 1 else "in a step"
        more = ("checkpoint.asynchronous=true",) if n % 2 else ()
        act = partial(_killed, verb=verb, mode=mode, rng=rng, more=more)
        beside = ", asynchronous" if more else ""
        yield Case(f"killed {mode}", f"{seed}-{n:02d} {verb}{beside}", "same bits", act)
        done, n = done + (2 if mode == "twice" else 1), n + 1


def _killed(lab: Lab, out: Path, *, verb: str, mode: str, rng: random.Random, more: tuple[str, ...]) -> str:
    """Tried again with earlier kills where a run ends before it is killed."""
    lab.ready(verb)
    for attempt in range(6):
        shutil.rmtree(out, ignore_errors=True)
        outcome = _try_to_kill(lab, out, verb, mode, rng, more, most=0.5**attempt)
        if outcome is not None:
            return outcome
    return "DIFFERENT: the run ended before it could be killed"


def _try_to_kill(
    lab: Lab, out: Path, verb: str, mode: str, rng: random.Random, more: tuple[str, ...], most: float
) -> str | None:
    """What became of a run that was killed within this share of its length; None if it ended before."""
    for _ in range(2 if mode == "twice" else 1):
        before, share = newest_good(out), rng.random() * most
        in_write = mode == "in a write" or (mode == "twice" and rng.random() < 0.5)
        number = max(1, int(share * lab.changes[verb]))
        arm = partial(die_at, number) if in_write else partial(die_after, share * lab.seconds[verb])
        ended = lab.run(verb, out, *more, arm=arm)
        if ended.status == 0:
            return None
        if ended.status != -signal.SIGKILL:
            return f"LOST: exit {ended.status}: {ended.said[-300:]}"
        if newest_good(out) < before:
            return f"LOST: step {before} was good before the kill"
    return completed(lab, verb, out, *more)


def lost_cases(seed: int) -> Iterator[Case]:
    """Kills elsewhere: while rows are tokenized, while a checkpoint is copied, after which the run's folder is gone,
    and while a run starts over; and proofs of runs that were killed."""
    for verb, again in product(VERBS, range(3)):
        rng, name = random.Random(f"{seed}/{verb}/{again}"), f"{seed}-{again} {verb}"
        yield Case("killed tokenizing", name, "same bits", partial(_killed_tokenizing, verb=f"{verb} of rows", rng=rng))
        yield Case("machine lost", name, "same bits", partial(_machine_lost, verb=verb, rng=rng))
        yield Case("killed starting over", name, "same bits", partial(_killed_starting_over, verb=verb, rng=rng))
    for verb in VERBS:
        yield Case("killed, proved", verb, "same bits", partial(_proved, verb=verb))


def _killed_tokenizing(lab: Lab, out: Path, *, verb: str, rng: random.Random) -> str:
    lab.ready(verb)
    for attempt in range(6):
        shutil.rmtree(out, ignore_errors=True)
        ended = lab.run(verb, out, arm=partial(die_at, rng.randint(1, 32 >> attempt), f"{out.name}/shards"))
        if ended.status == -signal.SIGKILL:
            return completed(lab, verb, out)
    return "DIFFERENT: the run ended before it could be killed"


def _machine_lost(lab: Lab, out: Path, *, verb: str, rng: random.Random) -> str:
    """Twice: what goes on has the mirror and nothing else, and the mirror ends as the run does."""
    lab.ready(verb)
    mirror = out.with_name(f"{out.name}-mirror")
    more = f"checkpoint.mirror=dir:{mirror}"
    for most in (1.0, 0.5):
        number = max(1, int(rng.random() * most * lab.changes[verb]))
        ended = lab.run(verb, out, more, arm=partial(die_at, number, f"{mirror.name}/"))
        if ended.status not in (0, -signal.SIGKILL):
            return f"LOST: exit {ended.status}: {ended.said[-300:]}"
        shutil.rmtree(out)
    outcome = completed(lab, verb, out, more)
    copied, run = _files(mirror / "checkpoints"), _files(out / "checkpoints")
    run.pop("index.json")
    shutil.rmtree(mirror)
    return outcome if copied == run else "DIFFERENT: the mirror is not the run"


def _killed_starting_over(lab: Lab, out: Path, *, verb: str, rng: random.Random) -> str:
    """What stands there then is the earlier run or the new one, and either is continued."""
    for attempt in range(6):
        shutil.rmtree(out, ignore_errors=True)
        lab.half(verb, out)
        number = rng.randint(1, lab.changes[verb] >> attempt)
        ended = lab.run(verb, out, "--fresh", arm=partial(die_at, number, f"{out.name}/"))
        if ended.status == -signal.SIGKILL:
            return completed(lab, verb, out)
    return "DIFFERENT: the run ended before it could be killed"


def _proved(lab: Lab, out: Path, *, verb: str) -> str:
    """`--verify-resume` finds nothing wrong, and leaves every file as it is."""
    lab.half(verb, out)
    before = _files(out)
    ended = lab.run(verb, out, "--verify-resume")
    if ended.status != 0 or "equal, bit for bit" not in ended.said:
        return f"DIFFERENT: exit {ended.status}: {ended.said[-300:]}"
    return completed(lab, verb, out) if _files(out) == before else "DIFFERENT: the proof changed files"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def disk_cases() -> Iterator[Case]:
    """A disk that has too little room from the start, and one that fills up on the way."""
    for verb in VERBS:
        for more in ((), ("checkpoint.asynchronous=true",)):
            beside = ", asynchronous" if more else ""
            yield Case("disk fills up", f"{verb}{beside}", "same bits", partial(_fills_up, verb=verb, more=more))
    yield Case("disk too small", "pretrain", "refused", _too_small)


def _fills_up(lab: Lab, out: Path, *, verb: str, more: tuple[str, ...]) -> str:
    """On a disk of its own where one can be mounted; else no file may grow beyond a size."""
    lab.half(verb, out)
    before = newest_good(out)
    with small_disk(out) as filler:
        arm = (lambda: None) if filler else partial(no_large_files, 40_000)
        if filler:
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    file.truncate(max(0, file.tell() - 60_000))
        ended = lab.run(verb, out, *more, arm=arm)
        if filler:
            filler.unlink()
        told = refused(ended, "the disk is full|are free", "checkpoint|free space")
        if told != "refused":
            return told
        if newest_good(out) < before:
            return f"LOST: step {before} was good before"
        return completed(lab, verb, out, *more)


class small_disk:  # noqa: N801 - read as a statement
    """Puts the run in ``out`` on a disk of 1.5 MB; gives a file that can fill it, None where none can be mounted."""

    def __init__(self, out: Path) -> None:
        self._out, self._mounted = out, False

    def __enter__(self) -> Path | None:
        kept = self._out.with_name("kept")
        self._out.rename(kept)
        self._out.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(self._out)]
        self._mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        shutil.copytree(kept, self._out, dirs_exist_ok=True)
        shutil.rmtree(kept)
        return self._out / "filler" if self._mounted else None

    def __exit__(self, *error: object) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", str(self._out)], check=True)


def _too_small(lab: Lab, out: Path) -> str:
    """More checkpoints than any disk holds: refused before the first step, with the numbers."""
    ended = lab.run("pretrain", out, "checkpoint.keep=1000000000")
    told = refused(ended, r"checkpoints of \d", r"more; .* are free", "checkpoint.keep=1")
    return told if not (out / "metrics.jsonl").exists() else "DIFFERENT: it began"


def damage_cases() -> Iterator[Case]:
    """Files of the newest checkpoint cut off or with one bit turned, and files of the run."""
    files = (
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
        "model.json",
        "MANIFEST.json",
    )
    for verb in VERBS:
        for file in files:
            for how in ("cut", "bit turned"):
                act = partial(_damaged, verb=verb, file=file, how=how)
                yield Case("damaged checkpoint", f"{verb} {file} {how}", "same bits", act)
        yield Case("damaged checkpoint", f"{verb} all of them", "same bits", partial(_all_damaged, verb=verb))
        for name, expected in (("lock.json", "refused"), ("metrics.jsonl", "same bits")):
            act = partial(_torn, verb=verb, name=name, expected=expected)
            yield Case("damaged run", f"{verb} {name} torn", expected, act)


def _damaged(lab: Lab, out: Path, *, verb: str, file: str, how: str) -> str:
    lab.half(verb, out)
    newest = out / "checkpoints" / f"step-{newest_good(out):06d}"
    _damage(newest / file, how, random.Random(f"{verb}{file}"))
    return completed(lab, verb, out)


def _all_damaged(lab: Lab, out: Path, *, verb: str) -> str:
    """Nothing is left but the beginning, from which the same run comes again."""
    lab.half(verb, out)
    for weights in out.glob("checkpoints/step-*/model.safetensors"):
        _damage(weights, "bit turned", random.Random(0))
    return completed(lab, verb, out)


def _damage(path: Path, how: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _torn(lab: Lab, out: Path, *, verb: str, name: str, expected: str) -> str:
    lab.half(verb, out)
    path = out / name
    path.write_bytes(path.read_bytes()[:-7])
    return refused(lab.run(verb, out), name) if expected == "refused" else completed(lab, verb, out)


def change_cases() -> Iterator[Case]:
    """Another recipe, other data or another starting model under a run that is half done."""
    for verb in VERBS:
        for key, value in (("optim.lr", "0.5"), ("seed", "7"), ("train.batch_tokens", "512"), ("train.ema", "null")):
            act = partial(_other_recipe, verb=verb, key=key, value=value)
            yield Case("changed recipe", f"{verb} {key}", "refused", act)
        yield Case("changed data", f"{verb} other rows", "refused", partial(_other_rows, verb=verb))
        yield Case("changed data", f"{verb} bit turned", "refused", partial(_turned_shard, verb=verb))
    yield Case("changed start", "dpo", "refused", _other_start)


def _other_recipe(lab: Lab, out: Path, *, verb: str, key: str, value: str) -> str:
    lab.half(verb, out)
    told = refused(lab.run(verb, out, f"{key}={value}"), re.escape(key.removesuffix("ema")))
    return told if told != "refused" or completed(lab, verb, out) == "same bits" else "LOST: not after the refusal"


def _other_rows(lab: Lab, out: Path, *, verb: str) -> str:
    """Put in the place of the data that the run began with."""
    import tiny

    from cirilla_cli.fs import hash_path

    lab.half(verb, out)
    data, kept = lab.folder / "data", lab.folder / "kept-data"
    data.rename(kept)
    try:
        rows = tiny.rows
        tiny.rows = lambda: rows(seed=1)
        tiny.make_data(data)
        tiny.rows = rows
        assert hash_path(data) != hash_path(kept)
        return refused(lab.run(verb, out), "has changed since this run began")
    finally:
        shutil.rmtree(data)
        kept.rename(data)


def _turned_shard(lab: Lab, out: Path, *, verb: str) -> str:
    lab.half(verb, out)
    kind = {"pretrain": "text", "sft": "chat", "dpo": "preference"}[verb]
    path = next((lab.folder / "data" / "shards" / kind).glob("train*.bin"))
    before = path.read_bytes()
    try:
        _damage(path, "bit turned", random.Random(1))
        return refused(lab.run(verb, out), "its bytes are no longer those")
    finally:
        path.write_bytes(before)


def _other_start(lab: Lab, out: Path) -> str:
    lab.half("dpo", out)
    start, kept = lab.folder / "start", lab.folder / "kept-start"
    start.rename(kept)
    try:
        ended = lab.run("pretrain", start, f"train.steps={EVERY}", "seed=3")
        assert ended.status == 0, ended.said
        return refused(lab.run("dpo", out), "not those that this run began from")
    finally:
        shutil.rmtree(start)
        kept.rename(start)


def device_cases() -> Iterator[Case]:
    """One process, then two, then one: bits may differ, which is said; tokens and, nearly, losses are the same."""
    for verb in VERBS:
        yield Case("other processes", verb, "said", partial(_other_processes, verb=verb))


def _other_processes(lab: Lab, out: Path, *, verb: str) -> str:
    lab.half(verb, out)
    call = [sys.executable, "-m", "cirilla_cli", *lab.words(verb, out), "--nproc", "2", "--verbose"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        return f"LOST: exit {done.returncode}: {done.stderr[-300:]}"
    ours, theirs = state_of(out), state_of(lab.straight(verb))
    if [row[4] for row in ours["curve"]] != [row[4] for row in theirs["curve"]]:
        return "DIFFERENT: other tokens"
    apart = max(abs(a[1] - b[1]) for a, b in zip(ours["curve"], theirs["curve"], strict=True))
    if apart > 0.02:
        return f"DIFFERENT: losses are {apart:.3g} apart"
    return "said" if "processes was 1, is 2" in done.stderr else "DIFFERENT: without a word"


# The campaign


def all_cases(kills: int, seed: int) -> list[Case]:
    """Every case of a campaign."""
    killed = [*kill_cases(kills, seed), *lost_cases(seed)]
    return [*killed, *disk_cases(), *damage_cases(), *change_cases(), *device_cases()]


def fast_cases() -> list[Case]:
    """One of each kind over pretraining, for the test suite."""
    kinds: dict[str, Case] = {}
    for case in [*kill_cases(12, 1), *lost_cases(1), *disk_cases(), *damage_cases(), *change_cases()]:
        if "pretrain" in case.name:
            kinds.setdefault(case.kind, case)
    return list(kinds.values())


def campaign(cases: list[Case], lab: Lab, results: Path | None) -> list[dict[str, str]]:
    """Run the cases that do not stand in ``results`` yet; returns all of their records."""
    known = {}
    if results is not None and results.is_file():
        known = {record["case"]: record for record in map(json.loads, results.read_text().splitlines())}
    for case in cases:
        if case.id in known:
            continue
        out = lab.folder / "runs" / re.sub(r"\W+", "-", case.id)
        started = time.monotonic()
        outcome = case.act(lab, out)
        shutil.rmtree(out, ignore_errors=True)
        record = {"case": case.id, "kind": case.kind, "expected": case.expected, "outcome": outcome}
        known[case.id] = record
        print(f"{case.id:<60} {outcome}  ({time.monotonic() - started:.1f} s)", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    return [known[case.id] for case in cases]


def table(records: list[dict[str, str]]) -> str:
    """Kinds of faults against what became of the runs, in Markdown."""
    columns = ("same bits", "refused", "said", "LOST", "DIFFERENT")
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    lines = [f"| {' | '.join(('what happened', 'cases', *columns))} |", "|" + "---|" * (2 + len(columns))]
    for kind in [*kinds, "all"]:
        own = [record for record in records if kind in (record["kind"], "all")]
        counts = Counter(record["outcome"].partition(":")[0] for record in own)
        lines.append(f"| {' | '.join((kind, str(len(own)), *(str(counts[column]) for column in columns)))} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="kinds that begin with one of these")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=None, help="a file that a stopped campaign goes on from")
    parser.add_argument("--fast", action="store_true", help="a few cases of each kind")
    chosen = parser.parse_args(arguments)
    cases = fast_cases() if chosen.fast else all_cases(chosen.kills, chosen.seed)
    cases = [case for case in cases if not chosen.only or case.kind.startswith(tuple(chosen.only))]
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        lab = Lab(Path(folder))
        lab.prepare()
        records = campaign(cases, lab, chosen.results)
    print(table(records))
    wrong = [record for record in records if record["outcome"] != record["expected"]]
    for record in wrong:
        print(f"{record['case']}: expected {record['expected']}, {record['outcome']}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
