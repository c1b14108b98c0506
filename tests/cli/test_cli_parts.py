"""`--shard` and `--merge` as a user types them, and the scripts of docs/many-machines.md under a scheduler."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from program import CIRILLA, call, environment, good

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
SBATCH = f"""\
#!{sys.executable}
\"\"\"Does what sbatch does with an array: all elements at once; one is killed, and submitted again.\"\"\"
import os, random, re, signal, subprocess, sys, time
script = next(word for word in sys.argv[1:] if not word.startswith("-"))
array = re.search(r"--array=(\\d+)-(\\d+)", open(script).read())
assert array or any(word == "--dependency=afterok:77" for word in sys.argv), sys.argv
numbers = list(range(int(array[1]), int(array[2]) + 1)) if array else [0]
random.Random(1).shuffle(numbers)
def start(number, count=len(numbers)):
    own = {{"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(count)}} if array else {{}}
    return subprocess.Popen(["bash", script, "--quiet"], env=os.environ | own, start_new_session=True)
running = [start(number) for number in numbers]
if array:
    time.sleep(0.5)
    os.killpg(running[0].pid, signal.SIGKILL)
    running.append(start(numbers[0], 1))  # submitted again alone, as an array of one
codes = [process.wait() for process in running]
print(77)
sys.exit(any(codes[1:] if array else codes))
"""
RECIPE = """\
recipe: 1
curate:
  sources:
    wiki: {path: documents.jsonl}
  filters:
    length: {kind: length, min_chars: 300}
  split: {test: 20%}
"""


@pytest.fixture
def wiki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    good("scrape", "quickstart", "--limit", "40", "--out", "documents.jsonl", "-q")
    Path("mine.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def files(folder: str) -> dict[str, bytes]:
    """What was left; a report names its place, which is another."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    alike = {name: data.replace(folder.encode(), b"PLACE") for name, data in found.items()}
    return {name: re.sub(rb'"seconds": [\d.]+|"finished": "[^"]+"', b"", data) for name, data in alike.items()}


@pytest.mark.parametrize("verb", ["curate mine.yaml", "synth --source fandom documents.jsonl", "scrape --files texts"])
def test_the_scripts_of_the_page_give_the_bytes_of_one_call(wiki: Path, verb: str) -> None:
    Path("texts").mkdir()
    lines = Path("documents.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for n in range(5):
        Path(f"texts/{n}.jsonl").write_text("".join(lines[8 * n : 8 * n + 8]), encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    part, merge, submit = blocks
    for name, text in (("part.sh", part), ("merge.sh", merge), ("sbatch", SBATCH)):
        Path(name).write_text(text.replace("curate mine.yaml", verb), encoding="utf-8")
    Path("sbatch").chmod(0o755)
    path = f"{wiki}{os.pathsep}{CIRILLA.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", submit], env=environment() | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    good(*verb.split(), "--out", "onecall", "-q")
    assert {path for path in files("curated") if "parts" in path} == set()
    assert files("curated") == files("onecall")


def test_a_part_says_what_it_did_as_one_object(wiki: Path) -> None:
    told = json.loads(good("curate", "mine.yaml", "--out", "x", "--shard", "2/3", "--json").out)
    again = json.loads(good("curate", "mine.yaml", "--out", "x", "--shard", "2/3", "--json").out)
    assert set(told) == {"out", "shard", "items", "of", "already_done", "seconds"}
    assert (told["shard"], told["of"], told["already_done"], again["already_done"]) == ("2-of-3", 40, False, True)
    assert "of 40 items" in good("curate", "mine.yaml", "--out", "x", "--shard", "1/3").err


def test_fresh_makes_one_part_anew_and_leaves_the_rest(wiki: Path) -> None:
    good("curate", "mine.yaml", "--out", "x", "-q")
    before = files("x")
    part = ("curate", "mine.yaml", "--out", "x", "--shard", "1/1", "-q")
    good(*part)
    assert not json.loads(good(*part[:-1], "--fresh", "--json").out)["already_done"]
    assert {name: data for name, data in files("x").items() if not name.startswith("parts")} == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--shard", "0/4"), "I/N is expected"),
        (("--shard", "1/2", "--merge"), "--merge and --shard contradict"),
        (("--merge", "--fresh"), "--merge and --fresh contradict"),
    ],
)
def test_contradicting_flags_are_wrong_usage(wiki: Path, flags: tuple[str, ...], said: str) -> None:
    for dry in ((), ("--dry-run",)):
        done = call("curate", "mine.yaml", "--out", "x", *flags, *dry, "--json")
        assert done.code == 2
        assert said in json.loads(done.out)["error"]
    assert not Path("x").exists()


def test_a_merge_before_its_time_is_a_mistake_and_parts_have_no_place_on_standard_output(wiki: Path) -> None:
    assert call("curate", "mine.yaml", "--out", "x", "--merge").code == 1
    good("curate", "mine.yaml", "--out", "x", "--shard", "1/2", "-q")
    done = call("curate", "mine.yaml", "--out", "x", "--merge")
    assert done.code == 1
    assert "2-of-2: missing" in done.err
    assert "--shard 2/2" in done.err
    done = call("scrape", "quickstart", "--out", "-", "--shard", "1/2")
    assert (done.code, done.out) == (1, "")
    assert "parts need a folder" in done.err


def test_parts_of_a_file_lie_in_the_folder_beside_it(wiki: Path) -> None:
    good("curate", "mine.yaml", "--out", "one.jsonl", "-q")
    for number in (2, 1):
        good("curate", "mine.yaml", "--out", "rows.jsonl", "--shard", f"{number}/2", "-q")
    assert Path("rows.curate/parts/2-of-2/part.json").is_file()
    good("curate", "mine.yaml", "--out", "rows.jsonl", "--merge", "-q")
    assert Path("rows.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    assert not Path("rows.curate/parts").exists()
