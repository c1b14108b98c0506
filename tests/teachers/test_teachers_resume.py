"""kill -9 at any moment, again and again: the rows of an uninterrupted run, and no answer paid for twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Server, config, rows

from cirilla_cli.progress import Silent
from cirilla_cli.synth.run import synthesize

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2

# The first run is here, so that all is imported once; each further one is a fork that says its number, and its end.
RUNNER = """
import json, os, sys, threading, traceback
from pathlib import Path
import ollama, cirilla_cli.synth.teacher, cirilla_cli.teachers.ollama, cirilla_cli.teachers.openai
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import synthesize
section, out = json.loads(sys.stdin.readline())
synthesize(SynthConfig.model_validate_json(section), Path(out), Silent())
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
for line in sys.stdin:
    section, out = json.loads(line)
    child = os.fork()
    if not child:
        try:
            synthesize(SynthConfig.model_validate_json(section), Path(out), Silent())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", RUNNER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    folder = tmp_path_factory.mktemp("first")
    pair = {"question": "Where is the mill?", "answer": "By the river.", "evidence": "stands by the river"}
    (folder / "said.jsonl").write_text(json.dumps({"text": json.dumps({"pairs": [pair]})}) + "\n")
    first = config(folder, {"kind": "replay", "path": str(folder / "said.jsonl")}, 2).model_dump_json()
    assert process.stdin is not None
    process.stdin.write(json.dumps([first, str(folder / "out")]) + "\n")
    yield process
    process.communicate()


class Killer:
    """Ends the run with SIGKILL at the next of many requests: as it comes in, or some milliseconds after its answer."""

    def __init__(self, first: int, every: int, kills: int) -> None:
        self.moments = [first + every * n for n in range(kills)]
        self.pid: int | None = None
        self.known = threading.Event()
        self.killed = 0

    def __call__(self, number: int) -> str | None:
        self.known.wait(60)
        if self.pid is None or self.killed == len(self.moments) or number < self.moments[self.killed]:
            return None
        pid, self.pid = self.pid, None
        self.killed += 1
        if self.killed % 2:
            os.kill(pid, signal.SIGKILL)
            return "half a body"
        threading.Timer(0.002 * self.killed, os.kill, (pid, signal.SIGKILL)).start()
        return None

    def run(self, runner: subprocess.Popen[str], section: str, out: Path) -> int:
        """One run, killed or not: its exit code."""
        assert runner.stdin is not None
        assert runner.stdout is not None
        self.known.clear()
        runner.stdin.write(json.dumps([section, str(out)]) + "\n")
        runner.stdin.flush()
        self.pid = int(runner.stdout.readline())
        self.known.set()
        return int(runner.stdout.readline())


def fault(prompt: str, n: int) -> str | None:
    """Always the same faults for the same page, so that a page's rows do not depend on when it is asked about."""
    return "prose" if "Mill 7" in prompt else None


RUNS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "qa": ("ollama", 20, 64, {}),
    "multi_turn": ("openai", 4, 8, {"new_context": 0.5}),
    "summary": ("ollama", 4, 10, {}),
    "variants": ("openai", 4, 8, {}),
    "preferences": ("ollama", 4, 12, {}),
    "personas": ("openai", 4, 12, {}),
    "evolve": ("openai", 4, 8, {}),
    "magpie": ("ollama", 4, 8, {}),
    "cot": ("openai", 4, 8, {}),
    "rephrase": ("ollama", 4, 8, {}),
}


JUDGED: dict[str, tuple[str, int, int, dict[str, Any]]] = {"variants": ("ollama", 6, 8, {"rounds": 2})}
"""With a judge, whose answers are not asked for again either."""


@pytest.mark.parametrize(("name", "judge"), [*((name, None) for name in RUNS), *((name, {}) for name in JUDGED)])
def test_killed_at_any_moment_a_run_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, serve: Callable[..., Server], runner: subprocess.Popen[str], name: str,
    judge: dict[str, Any] | None,
) -> None:  # fmt: skip
    kind, kills, pages, options = (RUNS if judge is None else JUDGED)[name]
    whole, cut = serve(fault), serve(fault, before=Killer(first=3, every=3, kills=kills))
    source = {
        "strategy": {"kind": name, **options},
        "workers": WORKERS,
        "retries": 1,
        "chunk_chars": 200,
        "judge": judge,
    }
    synthesize(config(tmp_path, whole.teacher(kind), pages, **source), tmp_path / "whole", Silent())
    killer: Any = cut.before
    section = config(tmp_path, cut.teacher(kind), pages, **source).model_dump_json()
    ends = []
    while not ends or ends[-1] != 0:
        ends.append(killer.run(runner, section, tmp_path / "cut"))
        assert ends[-1] in (0, -signal.SIGKILL)
        for journal in (tmp_path / "cut").glob("j*.jsonl"):
            with journal.open("ab") as file:
                file.write(b'{"id": "torn' if ends[-1] else b"")
    assert ends == [-signal.SIGKILL] * kills + [0]
    for file_name in ("samples.jsonl", "rejects.jsonl", "duplicates.jsonl", "questions.jsonl"):
        assert (tmp_path / "cut" / file_name).read_bytes() == (tmp_path / "whole" / file_name).read_bytes()
    assert (tmp_path / "cut" / "samples.jsonl").stat().st_size
    assert set(cut.requests) == set(whole.requests), "the same questions are put"
    assert cut.requests.total() - len(cut.requests) <= kills * WORKERS, "only what was under way is asked again"
    journals = ["journal.jsonl", *(["judge.jsonl"] if judge is not None else [])]
    on_record = [row["id"] for journal in journals for row in rows(tmp_path / "cut" / journal)]
    assert len(on_record) == len(set(on_record)) == len(cut.requests)
