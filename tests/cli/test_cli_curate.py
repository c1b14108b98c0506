"""`cirilla curate` as a user calls it: streams, what it says, and what it refuses before any row is read."""

import json
from pathlib import Path

import pytest
from program import call, good

TEXTS = (
    "A kettle sang.", "Three barrels rolled downhill.", "Nobody had counted the geese that year.",
    "Snow lay on the orchard until May.", "The ferry left at dawn without him.", "Her violin wanted a new string.",
    "Bakers rise before the birds do.", "Copper turns green where rain can reach it.",
)  # fmt: skip
DOCUMENTS = "".join(json.dumps({"id": str(i), "title": f"T{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("wiki.jsonl").write_text(DOCUMENTS, encoding="utf-8")
    return tmp_path


def test_a_stream_goes_through_and_leaves_nothing_behind(here: Path) -> None:
    done = good("curate", "-", "--out", "-", "-q", stdin=DOCUMENTS + DOCUMENTS)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == [str(i) for i in range(8)]
    assert done.err == ""
    assert [path.name for path in here.iterdir()] == ["wiki.jsonl"]


def test_sources_are_named_by_their_files_and_numbered_where_names_meet(here: Path) -> None:
    Path("other").mkdir()
    Path("other/wiki.jsonl").write_text(DOCUMENTS.replace("a", "o"), encoding="utf-8")
    report = json.loads(good("curate", "wiki.jsonl", "other/wiki.jsonl", "--out", "set", "--json").out)
    assert list(report["sources"]) == ["wiki", "wiki_2"]
    assert report["rows"] + sum(report["duplicates"].values()) == 16


@pytest.mark.parametrize("out", ["set", "set.jsonl"])
def test_the_same_call_again_says_done_and_fresh_works_again(here: Path, out: str) -> None:
    words = ("curate", "wiki.jsonl", "--out", out)
    assert f"8 documents in {out}" in good(*words).err
    assert "done already" in good(*words).err
    assert "done already" not in good(*words, "--fresh").err


MISTAKES = {
    "no source": ("curate", "nothing to curate", "cirilla curate documents.jsonl"),
    "a missing file": ("curate curate.sources.a.path=gone.jsonl --out set", "gone.jsonl: no such file or folder", ""),
    "a missing evaluation set": (
        "curate wiki.jsonl curate.evaluation.q=gone.jsonl --out set", "gone.jsonl: no such file or folder", "",
    ),
    "an empty file": ("curate empty.jsonl --out set", "no rows are left to train on: the sources hold none", ""),
    "an unknown filter": (
        "curate wiki.jsonl curate.filters.x.kind=lenght", "`curate.filters.x.kind`", "length",
    ),
    "limits out of order": (
        "curate wiki.jsonl 'curate.filters.length.max_chars=5' curate.filters.length.min_chars=9",
        "must be at least min_chars (9)", "",
    ),
    "one weight of two": (
        "curate wiki.jsonl curate.sources.b.path=b.jsonl curate.sources.b.weight=1", "`curate.sources.wiki.weight` is",
        "",
    ),
    "a mixture of nothing": ("curate wiki.jsonl curate.mixture.max_epochs=3", "no source has a weight", ""),
    "limits for no evaluation": ("curate wiki.jsonl curate.contamination.span=9", "`evaluation` names no set", ""),
    "a split into a pipe": ("curate wiki.jsonl --out - curate.split.test=0.1", "name a folder", ""),
    "an export into a pipe": ("curate wiki.jsonl --out - curate.export=parquet", "name a folder", ""),
    "a mixture into a pipe": ("curate --out - curate.sources.a={path: wiki.jsonl, weight: 1}", "name a folder", ""),
    "a pipe read twice": ("curate - curate.filters.b={kind: boilerplate}", "reads its sources twice", ""),
    "nothing to train on": ("curate wiki.jsonl curate.split={validation: 0.5, test: 0.5}", "must leave rows", ""),
    "its own input": ("curate documents.jsonl --out .", "is read, and would be written over", "--out names another"),
    "a folder of its own": ("curate in --out in", "is read, and would be written over", "--out names another"),
    "a file in the way": ("curate wiki.jsonl --out wiki.jsonl/set", "is a file", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_nothing_is_written(here: Path, name: str) -> None:
    import shlex

    words, said, hint = MISTAKES[name]
    Path("empty.jsonl").touch()
    Path("in").mkdir()
    for place in ("documents.jsonl", "in/documents.jsonl"):
        Path(place).write_text(DOCUMENTS, encoding="utf-8")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    # Braces hold spaces: one word each.
    given = [word.replace("\0", " ") for word in shlex.split(joined(words))]
    done = call(*given, stdin=DOCUMENTS)
    assert done.code == 1, done
    assert said in done.err
    assert hint in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def joined(words: str) -> str:
    """The words with the spaces inside braces marked."""
    inside, letters = 0, []
    for letter in words:
        inside += (letter == "{") - (letter == "}")
        letters.append("\0" if inside and letter == " " else letter)
    return "".join(letters)


def test_where_nothing_can_be_set_aside_a_bad_row_is_an_error(here: Path) -> None:
    done = call("curate", "-", "--out", "-", "-q", stdin=DOCUMENTS + '{"titel": "x"}\n')
    assert done.code == 1
    assert "<stdin>:9: " in done.err


def test_a_set_of_bad_rows_alone_is_refused_with_their_lines(here: Path) -> None:
    Path("bad.jsonl").write_text('{"titel": "x"}\n{"half', encoding="utf-8")
    done = call("curate", "bad.jsonl", "--out", "set", "--json")
    assert done.code == 1
    assert [where["line"] for where in json.loads(done.out)["where"]] == [1, 2]


def test_the_quickstarts_questions_become_a_data_set(here: Path) -> None:
    good("scrape", "quickstart", "--limit", "6", "--out", "documents.jsonl", "-q")
    good("synth", "quickstart", "documents.jsonl", "--out", "runs/quickstart/pages", "-q")
    task = {"kind": "task", "id": "t", "messages": [{"role": "user", "content": "2 + 2 ="}], "answer": "4"}
    task |= {"split_key": "gym/0", "source": "gym", "generator": {"strategy": "gym"}}
    Path("runs/quickstart/tasks").mkdir(parents=True)
    Path("runs/quickstart/tasks/samples.jsonl").write_text(json.dumps(task) + "\n", encoding="utf-8")
    report = json.loads(good("curate", "quickstart", "--json").out)
    assert report["out"] == "runs/quickstart/curate"
    assert report["sources"]["tasks"]["read"] == 1
    assert report["evaluation"]["facts"]["texts"] > 0
    assert (Path(report["export"]) / "README.md").is_file()


def test_a_pipeline_curates(here: Path) -> None:
    Path("mine.yaml").write_text(
        "recipe: 1\nname: mine\nstages:\n"
        "  clean: {verb: curate, with: {curate.sources.wiki.path: wiki.jsonl}}\n"
        "  more: {verb: curate, with: {curate.sources.clean.path: '{clean}', curate.split.test: 0.3}}\n",
        encoding="utf-8",
    )
    report = json.loads(good("run", "mine.yaml", "--json").out)
    assert report["stages"]["clean"]["rows"] == 8
    assert 0 < report["stages"]["more"]["rows"] < 8
    assert json.loads(good("run", "mine.yaml", "--json").out)["stages"]["more"]["skipped"]
    assert [run["verb"] for run in json.loads(good("runs", "runs", "--json").out)] == ["curate", "curate"]
    rows = Path(report["stages"]["clean"]["out"]) / "documents.jsonl"
    made = rows.stat().st_ino
    assert not json.loads(good("run", "mine.yaml", "--fresh", "--json").out)["stages"]["clean"]["skipped"]
    assert rows.stat().st_ino != made
