"""Tiny runs in forked processes, armed to die or to lack room, and what two runs have in common that are the same."""

import json
import mmap
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engine"))

VERBS = ("pretrain", "sft", "dpo")
ROWS = tuple(f"{verb} of rows" for verb in VERBS)
"""The same, whose rows the run itself tokenizes."""
STEPS, EVERY = 24, 3
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod"}

_RECIPE = """\
recipe: 1
model: {model}
tokenizer: {tokenizer}
data: {data}
objective: {objective}
train: {{steps: {steps}, batch_tokens: 256, micro_batch_tokens: 128, ema: {{decay: 0.9}}}}
optim: {{kind: {optim}, lr: 0.003}}
schedule: {{kind: constant, warmup: 1}}
precision: {{compute: float32}}
checkpoint: {{every: {every}, every_time: null, keep: 2}}
eval: {{every: 6, max_tokens: 128, prompts: [griffin], sample_tokens: 2}}
log: {{every: 1, plot: false}}
device: cpu
"""
_FRESH = (
    "{kind: decoder, d_model: 16, n_layers: 1, context_length: 32, dropout: 0.1, mixers: {A: {kind: attention, "
    "n_heads: 2}}, mlp: {kind: swiglu, d_ff: 24}}"
)


# One process


@dataclass(frozen=True)
class Ended:
    """How a sitting ended."""

    status: int
    """Its exit status, or minus the signal that ended it."""
    said: str


def sitting(words: list[str], log: Path, arm: Callable[[], object] = lambda: None) -> tuple[int, Callable[[], Ended]]:
    """`cirilla WORDS` in a forked process, after ``arm``; its process id, and what waits for its end."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            code = _call(words, arm)
        finally:
            os._exit(code)

    def end() -> Ended:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Ended(status, log.read_text(encoding="utf-8", errors="replace"))

    return pid, end


def _call(words: list[str], arm: Callable[[], object]) -> int:
    import traceback

    from cirilla_cli.cli.app import main

    sys.argv = ["cirilla", *words, "--verbose"]
    arm()
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def die_after(seconds: float) -> None:
    """Arms the process: SIGKILL to itself after a time, wherever it is then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def on_change(act: Callable[[int], object], below: str = "/checkpoints") -> None:
    """Arms the process: ``act`` is told the number of every change to files that have ``below`` in their path."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in _CHANGES) and below in str(arguments[0]):
            count += 1
            act(count)

    sys.addaudithook(watch)


def die_at(number: int, below: str = "/checkpoints") -> None:
    """Arms the process: SIGKILL when it is about to make its ``number``-th change to its checkpoints, or elsewhere."""
    on_change(lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == number else None, below)


def count_into(shared: mmap.mmap) -> None:
    """Arms the process: writes the number of its changes so far into memory that outlives it."""

    def note(count: int) -> None:
        shared[:8] = count.to_bytes(8, "little")

    on_change(note)


def no_large_files(most: int) -> None:
    """Arms the process: no file of it may grow beyond ``most`` bytes, as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


# What all cases share


@dataclass
class Lab:
    """A folder with data, recipes, a starting model, and the run of each verb that nothing happened to."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the straight run of each verb."""
    changes: dict[str, int] = field(default_factory=dict)
    """Changes to its checkpoints that the straight run of each verb makes."""

    def prepare(self) -> None:
        """Make all that is shared."""
        import tiny

        import cirilla_cli.cli.verbs  # noqa: F401
        from cirilla_cli.engine.run import train
        from cirilla_cli.progress import Silent

        tiny.make_data(self.folder / "data")
        # Before anything is forked, so that torch has imported what it imports late.
        train(tiny.job("pretrain", self.folder / "warm", self.folder / "data"), Silent())
        for verb in (*VERBS, *ROWS):
            self.recipe(verb).write_text(self._text(verb), encoding="utf-8")

    def ready(self, verb: str) -> None:
        """Make the run of a verb that nothing happens to, and what it starts from, unless they are there."""
        start = self.folder / "start"
        if not verb.startswith("pretrain") and not start.is_dir():
            self._straight("pretrain", start, f"train.steps={EVERY}")
        if verb not in self.changes:
            started = time.monotonic()
            self.changes[verb] = self._straight(verb, self.straight(verb))
            self.seconds[verb] = time.monotonic() - started

    def recipe(self, verb: str) -> Path:
        """The verb's recipe."""
        return self.folder / f"{verb.replace(' ', '-')}.yaml"

    def straight(self, verb: str) -> Path:
        """The run of a verb that nothing happened to."""
        return self.folder / "straight" / verb

    def words(self, verb: str, out: Path, *more: str) -> list[str]:
        """The command that begins or continues a run in ``out``."""
        return [verb.split()[0], str(self.recipe(verb)), "--out", str(out), *more]

    def run(self, verb: str, out: Path, *more: str, arm: Callable[[], object] = lambda: None) -> Ended:
        """A sitting from beginning to end, however it ends."""
        return sitting(self.words(verb, out, *more), self.folder / "log.txt", arm)[1]()

    def half(self, verb: str, out: Path) -> None:
        """A run that was killed after about half of its steps, in ``out``; made once."""
        self.ready(verb)
        made = self.folder / "half" / verb
        if not made.is_dir():
            ended = self.run(verb, made, arm=partial(die_at, self.changes[verb] // 2))
            assert ended.status == -signal.SIGKILL, ended.said
        shutil.copytree(made, out)

    def _straight(self, verb: str, out: Path, *more: str) -> int:
        shared = mmap.mmap(-1, 8)
        ended = self.run(verb, out, *more, arm=partial(count_into, shared))
        assert ended.status == 0, ended.said
        return int.from_bytes(shared[:8], "little")

    def _text(self, job: str) -> str:
        verb, start, data = job.split()[0], self.folder / "start", self.folder / "data"
        data = data / "rows.jsonl" if job in ROWS else data
        sources = {
            "pretrain": f"{{kind: packed_text, sources: {{wiki: {{path: {data}}}}}}}",
            "sft": f"{{kind: conversations, path: {data}}}",
            "dpo": f"{{kind: preferences, path: {data}}}",
        }
        own = job == "pretrain of rows"
        return _RECIPE.format(
            model=_FRESH if verb == "pretrain" else f"{{kind: checkpoint, path: {start}, context_length: 64}}",
            tokenizer="{kind: sentencepiece, vocab_size: 340}" if own else "null",
            data=sources[verb], objective="{kind: dpo}" if verb == "dpo" else "{kind: cross_entropy}",
            steps=STEPS, every=EVERY, optim="adamw" if verb == "sft" else "muon",
        )  # fmt: skip


def state_of(out: Path) -> dict[str, Any]:
    """All that two runs which are the same have in common, read without the program's own code."""
    last = max((out / "checkpoints").glob("step-*"))
    found: dict[str, Any] = {"step": last.name}
    for name in ("model", "ema", "optimizer"):
        found[name] = (last / f"{name}.safetensors").read_bytes()
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found["state"] = {key: value for key, value in state.items() if key != "seconds"}
    found["curve"] = [[line.get(k) for k in ("step", "loss", "val_loss", "grad_norm", "tokens")] for line in lines]
    found["index"] = json.loads((out / "checkpoints" / "index.json").read_text(encoding="utf-8"))
    found["samples"] = (out / "samples.jsonl").read_text(encoding="utf-8")
    return found


def newest_good(out: Path) -> int:
    """The last step whose checkpoint is whole; 0 for none. An oracle of its own: sizes and hashes of every file."""
    from hashlib import sha256

    steps = [0]
    for manifest in out.glob("checkpoints/step-*/MANIFEST.json"):
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        if all(sha256((manifest.parent / n).read_bytes()).hexdigest() == f["sha256"] for n, f in files.items()):
            steps.append(int(manifest.parent.name[5:]))
    return max(steps)


def completed(lab: Lab, verb: str, out: Path, *more: str) -> str:
    """Run the same command to the end; what became of the run."""
    ended = lab.run(verb, out, *more)
    if ended.status != 0:
        return f"LOST: exit {ended.status}: {ended.said[-300:]}"
    ours, theirs = state_of(out), state_of(lab.straight(verb))
    wrong = [key for key in theirs if ours[key] != theirs[key]]
    return f"DIFFERENT: {', '.join(wrong)}" if wrong else "same bits"


def refused(ended: Ended, *names: str) -> str:
    """Whether a sitting was refused with a message that names these things."""
    missing = [name for name in names if re.search(name, ended.said) is None]
    if ended.status == 1 and not missing and "Traceback" not in ended.said:
        return "refused"
    return f"DIFFERENT: exit {ended.status}, not named: {missing}: {ended.said[-300:]}"
