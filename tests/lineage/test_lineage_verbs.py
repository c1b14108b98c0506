"""`cirilla trace` and `why` as they are called: what they print, their exit codes, and what they refuse."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def call(*words: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cirilla_cli", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_trace_is_a_tree_with_its_pages_and_one_object(workshop: Path) -> None:
    done = call("trace", str(workshop / "runs" / "sft"), "--pages")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["=", "run"], ["=", "shards"]]
    listed = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert len(listed) == 24
    assert all(page[1].startswith("revision 1") and page[2] == "CC BY 4.0" for page in listed)
    value = json.loads(call("trace", str(workshop / "runs" / "sft"), "--json").stdout)
    assert (value["n_pages"], value["with_revision"], value["licenses"]) == (24, 24, {"CC BY 4.0": 24})
    assert {parent for node in value["nodes"] for parent in node["parents"]} <= {
        node["path"] for node in value["nodes"]
    }


def test_strict_fails_where_a_parent_has_changed(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop / "wiki", tmp_path / "runs" / "wiki")
    shutil.copytree(workshop / "pages", tmp_path / "runs" / "pages")
    report = tmp_path / "runs" / "pages" / "report.json"
    report.write_text(report.read_text(encoding="utf-8").replace(str(workshop), "runs"), encoding="utf-8")
    # Recorded from a folder above: found whatever folder the call is made in.
    for place in (tmp_path, tmp_path / "runs"):
        path = str((tmp_path / "runs" / "pages").relative_to(place))
        assert call("trace", path, "--strict", cwd=place).returncode == 0
    (tmp_path / "runs" / "wiki" / "documents.jsonl").write_text("", encoding="utf-8")
    lenient, strict = (call("trace", "runs/pages", *flags, cwd=tmp_path) for flags in ([], ["--strict"]))
    assert (lenient.returncode, strict.returncode) == (0, 1)
    assert "has changed since it was read" in strict.stderr
    assert lenient.stdout == strict.stdout


def test_nothing_that_a_page_says_is_obeyed_by_the_terminal(tmp_path: Path) -> None:
    page = {"id": "1", "title": "\x1b[2Jgone\x07\nnext", "text": "One.", "url": "https://x/\x1b]0;title\x07"}
    (tmp_path / "documents.jsonl").write_text(json.dumps(page) + "\n", encoding="utf-8")
    done = call("trace", str(tmp_path), "--pages")
    assert done.stdout.replace("\n", "").replace("\t", "").isprintable()
    assert done.stdout.splitlines()[-1].split("\t")[0].split() == ["[2Jgone", "next"]


def test_names_in_a_message_are_not_obeyed_either(tmp_path: Path) -> None:
    assert "no\\x1b[31mwhere: no such file" in call("trace", "no\x1b[31mwhere", cwd=tmp_path).stderr


def test_an_answer_is_read_from_its_argument_and_from_standard_input(workshop: Path) -> None:
    run, answer = (
        str(workshop / "runs" / "sft"),
        "Yes: Geralt of Rivia is a witcher of the School of the Wolf and the best",
    )
    given, piped = call("why", answer, run, "--json"), call("why", "-", run, "--json", stdin=answer)
    values = [json.loads(done.stdout) for done in (given, piped)]
    assert values[0] | {"query_ms": 0} == values[1] | {"query_ms": 0}
    source = values[0]["spans"][0]["sources"][0]
    assert (source["title"], source["license"]) == ("Geralt of Rivia", "CC BY 4.0")
    shown = call("why", answer, run).stdout
    assert f"revision {source['revision']}" in shown
    assert "Geralt of Rivia is a witcher" in shown


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["trace", "nowhere"], 1), (["trace", "."], 1), (["trace"], 2), (["why", "text", "nowhere"], 1),
        (["why", "text", "."], 1), (["why", " ", "."], 1), (["why", "text"], 1),
        (["why", "text", ".", "--top", "0"], 2),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_a_remedy(words: list[str], code: int, tmp_path: Path) -> None:
    done = call(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert "hint:" in done.stderr or code == 2


def test_neither_imports_torch(workshop: Path) -> None:
    program = (
        "import sys; sys.argv = ['cirilla', *sys.argv[1:]]\n"
        "from cirilla_cli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'sentencepiece' in sys.modules, file=sys.stderr)"
    )
    assert importlib.util.find_spec("torch") is not None
    run = str(workshop / "runs" / "sft")
    for words, seen in ((["why", "a witcher of the School", run, "-q"], "False True"), (["trace", run], "False False")):
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == seen
