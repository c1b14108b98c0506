"""Deliberate breaks: each patch undoes one guarded fact, and the test it names must notice."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
COPIED = (
    "cirilla_cli", "tests", "benchmarks", "recipes", "docs", "pyproject.toml", "constraints.txt", "README.md",
    "Dockerfile",
)  # fmt: skip


@dataclass(frozen=True)
class Break:
    """One patch and the test that must fail under it."""

    path: Path
    test: str

    @property
    def name(self) -> str:
        return self.path.stem

    @classmethod
    def read(cls, path: Path) -> "Break":
        """Raises: ValueError: there is no line `# test: FILE::NAME`."""
        match = re.search(r"^# test: (\S+::\S+)$", path.read_text(encoding="utf-8"), re.M)
        if match is None:
            raise ValueError(f"{path}: no line `# test: tests/...::test_name`")
        return cls(path, match[1])


@dataclass(frozen=True)
class Outcome:
    """What became of one break."""

    broken: Break
    said: str
    noticed: bool
    tried: bool = True
    """Whether the test ran at all: one that wants what is not installed is skipped, broken or not."""


def all_breaks(names: Sequence[str] = ()) -> list[Break]:
    """Every patch beside this file, or those named."""
    return [Break.read(path) for path in sorted(FOLDER.glob("*.patch")) if not names or path.stem in names]


def is_a_test(test: str, root: Path = ROOT) -> bool:
    """Whether a test function of that name stands in that file; parameters in brackets are left out."""
    file, _, name = test.partition("::")
    path = root / file
    if not path.is_file():
        return False
    functions = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef))
    return name.partition("[")[0] in {function.name for function in functions}


def apply(patch: Path, root: Path, *, check: bool = False) -> str:
    """Apply a patch below ``root`` (or only see whether it would); returns what went wrong, empty if nothing did."""
    if shutil.which("git"):
        call = ["git", "apply", *(["--check"] if check else []), str(patch)]
    else:
        call = ["patch", "--strip=1", "--force", *(["--dry-run"] if check else []), f"--input={patch}"]
    # Within a repository git would look for the paths from its top, and pass over what is not there.
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.resolve().parent)}
    done = subprocess.run(call, cwd=root, env=outside, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


def copy_tree(folder: Path) -> Path:
    """A copy of what the tests need, so that nothing here ever touches the working tree."""
    root = folder / "copy"
    root.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copyfile(source, root / name)
    return root


@dataclass(frozen=True)
class Ran:
    """One call of pytest: its exit code, what it printed, and whether any test was more than skipped."""

    code: int
    output: str
    any: bool


def run_tests(tests: Sequence[str], root: Path, *options: str) -> Ran:
    """pytest over ``tests`` on the code below ``root``."""
    # A thread each, since two are tried at a time.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import importlib.util as u, sys; sys.stdout.write(u.find_spec('cirilla_cli').origin)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout).is_relative_to(root), f"the copy is not what is imported, but {found.stdout}"
    record = root / "tests.xml"
    done = subprocess.run(
        [*pytest(record), *options, *tests], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    return Ran(done.returncode, done.stdout + done.stderr, not record.is_file() or any_ran(record))


def pytest(record: Path) -> list[str]:
    """The call without the tests: the first failure ends it, and ``record`` counts what ran."""
    # What differs is not shown, so it is not worked out: where CI is set, pytest would compare megabytes word by word.
    options = ["-q", "-x", "-W", "error", "-p", "no:cacheprovider", "--assert=plain", f"--junitxml={record}"]
    return [sys.executable, "-m", "pytest", *options]


def any_ran(record: Path) -> bool:
    """Whether a record in JUnit's form holds a test that was not skipped."""
    suites = ElementTree.parse(record).getroot().iter("testsuite")
    return any(int(suite.get("tests", "0")) > int(suite.get("skipped", "0")) for suite in suites)


def try_break(broken: Break) -> Outcome:
    """Whether the named test fails on a copy with the patch applied: fails, not merely cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        return _tried(broken, copy_tree(Path(folder)))


def _tried(broken: Break, root: Path) -> Outcome:
    failed = apply(broken.path, root)
    if failed:
        return Outcome(broken, f"no longer applies: {failed.splitlines()[0]}", noticed=False)
    ran = run_tests([broken.test], root)
    if ran.code == 1:
        return Outcome(broken, "noticed", noticed=True)
    if ran.code == 0 and not ran.any:
        return Outcome(broken, "not tried: its test is skipped here", noticed=False, tried=False)
    last = (ran.output.strip().splitlines() or ["nothing said"])[-1]
    return Outcome(broken, "NOT NOTICED" if ran.code == 0 else f"could not be run ({ran.code}): {last}", noticed=False)


def unbroken(breaks: Sequence[Break]) -> str:
    """What is wrong with the named tests when nothing is broken; empty if they pass."""
    absent = sorted({b.test for b in breaks if not is_a_test(b.test)})
    if absent:
        return "there is no " + ", ".join(absent)
    with tempfile.TemporaryDirectory() as folder:
        ran = run_tests(sorted({b.test for b in breaks}), copy_tree(Path(folder)), "-n", "2")
    return "" if ran.code == 0 else f"the named tests do not pass unbroken:\n{ran.output}"


def main(names: Sequence[str]) -> int:
    """Try every break (or those named), print a table; 0 if each was noticed."""
    breaks = all_breaks(names)
    wrong = unbroken(breaks) if breaks else f"no such break: {', '.join(names)}"
    if wrong:
        print(wrong, file=sys.stderr)
        return 1
    outcomes = []
    # Most of a break's time is one process starting up: two at a time keep two cores at work.
    with ThreadPoolExecutor(2) as pool:
        for broken, outcome in zip(breaks, pool.map(try_break, breaks), strict=True):
            outcomes.append(outcome)
            print(f"{broken.name:<36}  {outcome.said:<12}  {broken.test}", flush=True)
    tried = [outcome for outcome in outcomes if outcome.tried]
    noticed = sum(outcome.noticed for outcome in tried)
    skipped = len(outcomes) - len(tried)
    print(f"{noticed} of {len(tried)} breaks noticed" + (f", {skipped} not tried" if skipped else ""))
    return 0 if noticed == len(tried) else 1
