"""Several sources in, one set out: what goes where, on which side, how often, and what is left behind."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.report import CurateReport
from cirilla_cli.curate.run import curate
from cirilla_cli.curate.split import side_of
from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def spelt(number: int) -> str:
    return " ".join(NUMBERS[int(digit)] for digit in str(number))


def document(number: int, text: str | None = None) -> dict[str, Any]:
    draw = random.Random(number)
    own = " ".join(draw.choice("ABCDEFGH") + "".join(draw.choices("aeioulmnrst", k=6)) for _ in range(15))
    return {"id": str(number), "title": spelt(number), "text": own if text is None else text}


def chat(number: int, *parents: str, answer: str | None = None) -> dict[str, Any]:
    turns = [("user", f"What is {spelt(number)}?"), ("assistant", answer or f"It is {spelt(number * 31)}.")]
    return {
        "kind": "chat", "id": f"c{number}", "messages": [{"role": role, "content": text} for role, text in turns],
        "split_key": f"{(parents or (str(number),))[0]}/fact", "parents": list(parents), "source": "test",
        "generator": {"strategy": "test"},
    }  # fmt: skip


def task(number: int) -> dict[str, Any]:
    return {
        "kind": "task", "id": f"t{number}", "messages": [{"role": "user", "content": f"ha ha ha: {number}"}],
        "answer": str(number), "split_key": f"gym/{number}", "source": "gym", "generator": {"strategy": "gym"},
        "verify": {"name": "x", "seed": 0, "index": number, "entry": {"n": number, "of": [1, {"a": None}]}},
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path)]


def run(out: Path, *, seed: int = 0, fresh: bool = False, **fields: Any) -> CurateReport:
    return curate(CurateConfig.model_validate(fields), out, Silent(), seed=seed, fresh=fresh)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def wiki(tmp_path: Path) -> str:
    return write(tmp_path / "wiki.jsonl", [document(number) for number in range(200)])


def test_only_files_that_have_rows_are_left_and_the_report(tmp_path: Path, wiki: str) -> None:
    report = run(tmp_path / "out", sources={"wiki": {"path": wiki}})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"documents.jsonl", "report.json", "report.md"}
    assert report.rows == report.splits["train"]["rows"] == 200
    assert report.splits["train"]["characters"] == sum(len(row["text"]) for row in rows(Path(wiki)))


def test_a_file_gets_the_rows_and_a_folder_beside_it_the_account(tmp_path: Path, wiki: str) -> None:
    run(tmp_path / "mine.jsonl", sources={"wiki": {"path": wiki}}, split={"test": 0.2})
    assert len(rows(tmp_path / "mine.jsonl")) + len(rows(tmp_path / "mine.curate" / "test.jsonl")) == 200


def test_every_row_that_was_read_is_somewhere(tmp_path: Path, wiki: str) -> None:
    bad = tmp_path / "web.jsonl"
    write(bad, [document(1), document(500), document(501, "ha " * 200), document(502, "")])
    with bad.open("a") as file:
        file.write('{"id": "9", "titel": "x"}\n{"half')
    filters = {"length": {"kind": "length"}, "repetition": {"kind": "repetition"}}
    sources = {"wiki": {"path": wiki}, "web": {"path": str(bad)}}
    report = run(tmp_path / "out", sources=sources, filters=filters, split={"validation": 0.1, "test": 0.1})
    out = tmp_path / "out"
    kept = [*ids(out / "documents.jsonl"), *ids(out / "validation.jsonl"), *ids(out / "test.jsonl")]
    assert sorted(kept) == sorted([*map(str, range(200)), "500"])
    refused = {row["id"]: row for row in rows(out / "rejected.jsonl")}
    assert refused["501"]["reason"] == "repetition: commonest 2-gram"
    assert refused["502"]["reason"] == "length: too few characters"
    assert all(row["source"] == "web" for row in refused.values())
    (repeated,) = rows(out / "duplicates.jsonl")
    assert (repeated["dropped"], repeated["source"], repeated["kept_source"]) == ("1", "web", "wiki")
    assert [(row["file"], row["line"]) for row in rows(out / "quarantine.jsonl")] == [(str(bad), 5), (str(bad), 6)]
    web = report.sources["web"]
    assert web["read"] == web["rejected"] + web["duplicates"] + sum(web.get(side, 0) for side in SIDES) == 4
    assert sum(report.quarantined.values()) == 2


SIDES = ("kept", "validation", "test")


def test_of_rows_that_repeat_the_source_named_first_keeps_its_own(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [document(1, "The same text in both of them.")])
    two = write(tmp_path / "two.jsonl", [document(2, "the same text, in both of them!"), document(3)])
    run(tmp_path / "a", sources={"one": {"path": one}, "two": {"path": two}})
    run(tmp_path / "b", sources={"two": {"path": two}, "one": {"path": one}})
    assert ids(tmp_path / "a" / "documents.jsonl") == ["1", "3"]
    assert ids(tmp_path / "b" / "documents.jsonl") == ["2", "3"]


# The split


def test_nothing_of_a_held_out_page_is_trained_on(tmp_path: Path, wiki: str) -> None:
    """Documents and samples, curated apart with the same split, agree on every page."""
    split = {"validation": 0.2, "test": 0.2}
    samples = [chat(number, str(number % 200)) for number in range(600)]
    run(tmp_path / "d", sources={"wiki": {"path": wiki}}, split=split)
    run(tmp_path / "s", sources={"qa": {"path": write(tmp_path / "s.jsonl", samples)}}, split=split)
    for side in ("validation", "test"):
        held = set(ids(tmp_path / "d" / f"{side}.jsonl"))
        assert 20 < len(held) < 60
        assert {page for row in rows(tmp_path / "s" / f"{side}.jsonl") for page in row["parents"]} == held
    trained = {page for row in rows(tmp_path / "s" / "samples.jsonl") for page in row["parents"]}
    assert trained == set(ids(tmp_path / "d" / "documents.jsonl"))


def test_no_page_that_is_held_out_has_a_near_copy_to_train_on(tmp_path: Path) -> None:
    """Every page comes again under another id, with a word more: of half of them the hashes differ in side."""
    pages = [document(number) for number in range(100)]
    copies = [{**page, "id": f"{page['id']}-again", "text": f"{page['text']} also"} for page in pages]
    wiki, mirror = write(tmp_path / "w.jsonl", pages), write(tmp_path / "m.jsonl", copies)
    run(tmp_path / "out", sources={"wiki": {"path": wiki}, "mirror": {"path": mirror}}, split={"test": 0.5})
    sides = {side: ids(tmp_path / "out" / f"{side}.jsonl") for side in ("documents", "test")}
    assert min(map(len, sides.values())) > 30
    assert sorted(sides["documents"] + sides["test"], key=int) == [page["id"] for page in pages]


def test_a_row_that_tells_of_pages_on_both_sides_goes(tmp_path: Path) -> None:
    config = CurateConfig.model_validate({"split": {"test": 0.5}}).split
    here, there = [next(k for k in map(str, range(99)) if side_of(k, config) == side) for side in ("train", "test")]
    samples = [chat(1, here), chat(2, there), chat(3, here, there)]
    run(tmp_path / "out", sources={"qa": {"path": write(tmp_path / "s.jsonl", samples)}}, split={"test": 0.5})
    assert ids(tmp_path / "out" / "samples.jsonl") == ["c1"]
    assert ids(tmp_path / "out" / "test.jsonl") == ["c2"]
    (refused,) = rows(tmp_path / "out" / "rejected.jsonl")
    assert (refused["id"], refused["reason"]) == ("c3", "split: tells of pages on both sides")


# Evaluation sets


def test_rows_that_hold_an_evaluation_question_go_and_seen_ones_are_exempt(tmp_path: Path) -> None:
    asked = "In which year did the old mill beside the northern river burn down to the ground?"
    known = "Which of the three millers had put new teeth into the wheel before the winter came?"
    questions = [
        {"question": text, "answers": ["x"], "seen": seen, "split_key": "q"}
        for text, seen in ((asked, False), (known, True))
    ]
    held = [document(1, f"{asked} Nobody knows."), document(2, f"{known} The last one."), document(3)]
    sets = {"mill": write(tmp_path / "q.jsonl", questions)}
    sources = {"wiki": {"path": write(tmp_path / "d.jsonl", held)}}
    report = run(tmp_path / "out", sources=sources, evaluation=sets)
    assert ids(tmp_path / "out" / "documents.jsonl") == ["2", "3"]
    assert [(r["id"], r["reason"]) for r in rows(tmp_path / "out" / "rejected.jsonl")] == [("1", "contamination: mill")]
    assert (report.evaluation["mill"]["seen"], report.evaluation["mill"]["rows"]) == (1, 1)
    assert run(tmp_path / "all", sources=sources).rows == 3


def test_no_clean_row_goes_for_the_sake_of_one_that_holds_a_question(tmp_path: Path) -> None:
    """The second repeats the first but for the title, which alone holds the question: compared first, it would stay."""
    asked = "In which year did the old mill beside the northern river burn down to the ground?"
    text = "The mill burnt down in the year in which the river froze, and was built anew by its third owner."
    held = [{**document(1, text), "title": asked}, document(2, text)]
    sets = {
        "mill": write(tmp_path / "q.jsonl", [{"question": asked, "answers": ["x"], "seen": False, "split_key": "q"}])
    }
    run(tmp_path / "out", sources={"wiki": {"path": write(tmp_path / "d.jsonl", held)}}, evaluation=sets)
    assert ids(tmp_path / "out" / "documents.jsonl") == ["2"]


def test_tasks_pass_every_filter_and_are_no_near_duplicates(tmp_path: Path) -> None:
    tasks = write(tmp_path / "t.jsonl", [task(number) for number in range(50)])
    filters = {"words": {"kind": "words"}, "repetition": {"kind": "repetition"}}
    assert run(tmp_path / "out", sources={"gym": {"path": tasks}}, filters=filters).rows == 50


# The mixture


def mixed(out: Path, tmp_path: Path, sizes: dict[str, int], weights: dict[str, float], **mixture: Any) -> CurateReport:
    sources = {}
    for number, (name, size) in enumerate(sizes.items()):
        texts = [document(1000 * number + i, f"{name} {1000 * number + i:05d}") for i in range(size)]
        path = write(tmp_path / f"{name}.jsonl", texts)
        sources[name] = {"path": path, "weight": weights[name]}
    return run(out, sources=sources, mixture=mixture, duplicates={"match": "exact"})


def test_weights_are_shares_of_the_set_and_the_scarcest_source_is_taken_whole(tmp_path: Path) -> None:
    report = mixed(tmp_path / "out", tmp_path, {"a": 100, "b": 100}, {"a": 1, "b": 4}, unit="rows")
    assert report.splits["train"]["sources"] == {"b": 100, "a": 25}
    assert report.sources["a"]["epochs"] == 0.25
    assert report.sources["b"]["epochs"] == 1.0


def test_characters_are_what_is_shared_out_by_default(tmp_path: Path) -> None:
    """`a` has rows of 7 characters, `longer` of 12: at equal weights, 84 characters of each."""
    report = mixed(tmp_path / "out", tmp_path, {"a": 12, "longer": 40}, {"a": 1, "longer": 1})
    assert report.splits["train"]["sources"] == {"a": 12, "longer": 7}


def test_rows_of_a_small_source_repeat_as_often_as_allowed(tmp_path: Path) -> None:
    report = mixed(
        tmp_path / "out", tmp_path, {"a": 100, "b": 10}, {"a": 1, "b": 1}, unit="rows", size=50, max_epochs=4
    )
    counts = Counter(ids(tmp_path / "out" / "documents.jsonl"))
    assert report.sources["b"]["epochs"] == 2.5
    assert sorted(n for key, n in counts.items() if int(key) >= 1000) == [2] * 5 + [3] * 5
    assert sorted(n for key, n in counts.items() if int(key) < 1000) == [1] * 25


def test_a_mixture_that_would_repeat_more_is_refused_with_the_size_that_does_not(tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match="takes it 2.5 times") as caught:
        mixed(tmp_path / "out", tmp_path, {"a": 100, "b": 10}, {"a": 1, "b": 1}, unit="rows", size=50)
    assert "curate.mixture.size=20" in str(caught.value.hint)
    assert not list((tmp_path / "out").glob("*"))


def test_sources_are_shuffled_together_by_the_seed_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        mixed(tmp_path / name, tmp_path, {"a": 100, "b": 100}, {"a": 1, "b": 1}, unit="rows")
    first = ids(tmp_path / "one" / "documents.jsonl")
    assert first == ids(tmp_path / "two" / "documents.jsonl")
    halves = [sum(int(key) >= 1000 for key in first[:100]), sum(int(key) >= 1000 for key in first[100:])]
    assert min(halves) > 30
    fields = {name: {"path": str(tmp_path / f"{name}.jsonl"), "weight": 1.0} for name in "ab"}
    run(tmp_path / "seeded", seed=1, sources=fields, duplicates={"match": "exact"})
    assert sorted(ids(tmp_path / "seeded" / "documents.jsonl")) == sorted(first)
    assert ids(tmp_path / "seeded" / "documents.jsonl") != first


# Doing it again


FULL: dict[str, Any] = {
    "filters": {"length": {"kind": "length"}, "boilerplate": {"kind": "boilerplate"}},
    "split": {"validation": 0.1, "test": 0.1},
}


def test_the_same_again_is_done_already_and_fresh_gives_the_same_bytes(tmp_path: Path, wiki: str) -> None:
    fields = {"sources": {"wiki": {"path": wiki}}, "export": "parquet", **FULL}
    first = run(tmp_path / "out", **fields)
    before = everything(tmp_path / "out")
    again = run(tmp_path / "out", **fields)
    assert not first.already_done
    assert again.already_done
    assert again.as_dict() == first.as_dict()
    assert not run(tmp_path / "out", fresh=True, **fields).already_done
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["input", "output", "recipe"])
def test_any_change_makes_it_anew(tmp_path: Path, wiki: str, change: str) -> None:
    fields = {"sources": {"wiki": {"path": wiki}}, **FULL}
    run(tmp_path / "out", **fields)
    if change == "input":
        write(Path(wiki), [document(number) for number in range(50)])
    elif change == "output":
        (tmp_path / "out" / "test.jsonl").write_text("{}\n")
    else:
        fields["split"] = {}
    assert not run(tmp_path / "out", **fields).already_done
    run(tmp_path / "new", **fields)
    # The report names the folder it stands in; everything else is equal.
    found, expected = everything(tmp_path / "out"), everything(tmp_path / "new")
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name not in ("report.json", "report.md"))


KILLER = """
import os, sys
from pathlib import Path
from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate import run
from cirilla_cli.progress import Silent
left, replace = int(sys.argv[3]), os.replace
def dying(*names):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    replace(*names)
os.replace = dying
run.curate(CurateConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Silent())
"""


def test_killed_between_any_two_renames_the_same_command_gives_the_same_bytes(tmp_path: Path, wiki: str) -> None:
    fields = {"sources": {"wiki": {"path": wiki}}, **FULL}
    run(tmp_path / "out", **fields)
    whole = everything(tmp_path / "out")
    words = [CurateConfig.model_validate(fields).model_dump_json(), str(tmp_path / "out")]
    write(Path(wiki), [document(number) for number in range(300)])
    run(tmp_path / "out", **fields)
    write(Path(wiki), [document(number) for number in range(200)])
    for renames in (0, 2):
        done = subprocess.run([sys.executable, "-c", KILLER, *words, str(renames)], cwd=ROOT, env={**os.environ})
        assert done.returncode == 9
        assert not (tmp_path / "out" / "report.json").exists()  # nothing vouches for what is there
    run(tmp_path / "out", **fields)
    assert everything(tmp_path / "out") == whole


def test_a_refused_run_leaves_the_rows_of_the_earlier_one(tmp_path: Path, wiki: str) -> None:
    run(tmp_path / "out", sources={"wiki": {"path": wiki}})
    before = everything(tmp_path / "out")
    with pytest.raises(CirillaError, match="no rows are left to train on: 200 length: too few characters"):
        run(
            tmp_path / "out", sources={"wiki": {"path": wiki}}, filters={"length": {"kind": "length", "min_chars": 999}}
        )
    left = everything(tmp_path / "out")
    assert left["documents.jsonl"] == before["documents.jsonl"]


# Kinds and exports


def test_documents_and_samples_are_not_one_set(tmp_path: Path, wiki: str) -> None:
    samples = write(tmp_path / "s.jsonl", [chat(1)])
    with pytest.raises(CirillaError, match="rows of source `qa` are samples, source `wiki` documents"):
        run(tmp_path / "out", sources={"wiki": {"path": wiki}, "qa": {"path": samples}})
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("layout", ["parquet", "datasets"])
@pytest.mark.parametrize("kind", ["documents", "samples"])
def test_rows_come_back_from_an_export_as_they_were(tmp_path: Path, layout: str, kind: str, wiki: str) -> None:
    path = wiki if kind == "documents" else write(tmp_path / "s.jsonl", [*map(chat, range(90)), *map(task, range(9))])
    report = run(tmp_path / "out", sources={"x": {"path": path}}, split={"test": 0.2}, export=layout)
    assert report.export is not None
    names = {"parquet": "{}.parquet", "datasets": "data/{}-00000-of-00001.parquet"}[layout]
    for side, rows_of in (("train", f"{kind}.jsonl"), ("test", "test.jsonl")):
        back = [row.line() for row in read_inputs([Path(report.export) / names.format(side)])]
        assert back == (tmp_path / "out" / rows_of).read_text(encoding="utf-8").splitlines()


def test_every_field_of_a_document_comes_back_from_an_export(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        **document(1), "url": "https://w/1", "permalink": "https://w/1?oldid=5", "revision": 5, "timestamp": "2020",
        "license": {"name": "MIT", "url": "https://m"}, "site": "W", "categories": ["a"], "aliases": ["b"],
        "infobox": [{"label": "c", "values": ["d"]}], "sections": [{"level": 2, "heading": "e", "text": "f"}],
        "kind": "transcript", "sha256": "0" * 64, "parents": ["2"],
        "generator": {"strategy": "s", "version": 2, "teacher": "t", "prompt_sha": "p"},
    }  # fmt: skip
    assert row.keys() == Document.model_fields.keys()
    report = run(tmp_path / "out", sources={"x": {"path": write(tmp_path / "w.jsonl", [row])}}, export="parquet")
    assert [json.loads(back.line()) for back in read_inputs([Path(str(report.export))])] == [row]


@pytest.mark.parametrize("layout", ["parquet", "datasets"])
def test_an_exported_folder_is_read_without_its_card_and_of_splits_one_must_be_named(
    tmp_path: Path, layout: str, wiki: str
) -> None:
    whole = run(tmp_path / "whole", sources={"x": {"path": wiki}}, export=layout)
    split = run(tmp_path / "split", sources={"x": {"path": wiki}}, split={"test": 0.2}, export=layout)
    back = [row.id for row in read_inputs([Path(str(whole.export))])]
    assert back == ids(tmp_path / "whole" / "documents.jsonl")
    with pytest.raises(CirillaError, match="holds the splits test, train"):
        list(read_inputs([Path(str(split.export))]))


def test_a_number_that_parquet_does_not_hold_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "w.jsonl", [{**document(1), "revision": 2**64}])
    with pytest.raises(CirillaError, match="beyond 64 bits"):
        run(tmp_path / "out", sources={"x": {"path": path}}, export="parquet")


def test_two_at_once_in_one_place_are_one_too_many(tmp_path: Path, wiki: str) -> None:
    out = tmp_path / "out"
    holder = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 66), 2); print(flush=True); sys.stdin.read()"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out / ".running")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(CirillaError, match="is being written already"):
            run(out, sources={"x": {"path": wiki}})
        other.kill()
    assert run(out, sources={"x": {"path": wiki}}).rows == 200


@pytest.mark.parametrize("below", [".", "out"])
def test_nothing_is_written_into_a_source(tmp_path: Path, below: str) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [document(1)])
    with pytest.raises(CirillaError, match="lies in the source `x`"):
        run(tmp_path / "in" / below, sources={"x": {"path": str(tmp_path / "in")}})
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.jsonl"]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, wiki: str) -> None:
    (tmp_path / "out" / "documents.jsonl").mkdir(parents=True)
    with pytest.raises(CirillaError, match=r"documents.jsonl: is a folder"):
        run(tmp_path / "out", sources={"x": {"path": wiki}})


@pytest.mark.parametrize("splits", [5, {"train": {}}, {"train": 5}, {}])
def test_a_strange_report_vouches_for_nothing(tmp_path: Path, wiki: str, splits: Any) -> None:
    run(tmp_path / "out", sources={"x": {"path": wiki}})
    report = tmp_path / "out" / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "splits": splits}))
    assert not run(tmp_path / "out", sources={"x": {"path": wiki}}).already_done


def test_datasets_loads_the_exported_folder_with_its_splits(tmp_path: Path, wiki: str) -> None:
    import datasets

    run(tmp_path / "out", sources={"wiki": {"path": wiki}}, split={"test": 0.2}, export="datasets")
    loaded = datasets.load_dataset(str(tmp_path / "out" / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert {side: part["id"][:] for side, part in loaded.items()} == {
        "train": ids(tmp_path / "out" / "documents.jsonl"),
        "test": ids(tmp_path / "out" / "test.jsonl"),
    }


def test_the_card_names_the_licence_where_all_rows_have_one(tmp_path: Path) -> None:
    licences = [{"name": "CC BY-SA 3.0"}, {"name": "CC BY-SA 3.0"}, {"name": "MIT"}]
    held = [{**document(i), "license": licence} for i, licence in enumerate(licences)]
    for name, count in (("one", 2), ("two", 3)):
        source = {"path": write(tmp_path / f"{name}.jsonl", held[:count])}
        run(tmp_path / name, sources={"x": source}, export="datasets")
    one, two = [(tmp_path / name / "dataset" / "README.md").read_text(encoding="utf-8") for name in ("one", "two")]
    assert "\nlicense: cc-by-sa-3.0\n" in one
    assert "license:" not in two.partition("\n---\n")[0]
    assert "| MIT | 1 |" in two


def exported_samples(root: Path, *parents: str) -> Path:
    """A dataset of a chat for each parent, made of two pages under different terms."""
    pages = [
        {**document(n), "license": {"name": name}, "permalink": f"https://w/{n}?oldid=5"}
        for n, name in ((1, "CC BY-SA 3.0"), (2, "MIT"))
    ]
    read = write(root / "pages.jsonl", pages)
    made = write(root / "made.jsonl", [chat(n, parent) for n, parent in enumerate(parents)])
    (root / "made.synth").mkdir()
    (root / "made.synth" / "report.json").write_text(json.dumps({"out": made, "inputs": [{"path": read}]}))
    run(root / "out", sources={"x": {"path": made}}, export="datasets")
    return root / "out" / "dataset"


def test_an_export_of_samples_states_the_terms_of_the_pages_behind_them(tmp_path: Path) -> None:
    folder = exported_samples(tmp_path, "1", "1")
    card, listed = [(folder / name).read_text(encoding="utf-8") for name in ("README.md", "ATTRIBUTION.md")]
    assert "\nlicense: cc-by-sa-3.0\n" in card
    assert "| CC BY-SA 3.0 | 1 |" in card
    assert [line for line in listed.splitlines() if line.startswith("- ")] == [
        f"- {spelt(1)}: https://w/1?oldid=5 (CC BY-SA 3.0)"
    ]
    assert [row.id for row in read_inputs([folder])] == ids(tmp_path / "out" / "samples.jsonl")


@pytest.mark.parametrize("parents", [("1", "2"), ("1", "77")])
def test_an_export_claims_no_licence_for_pages_of_others_or_unknown_terms(
    tmp_path: Path, parents: tuple[str, str]
) -> None:
    folder = exported_samples(tmp_path, *parents)
    card, listed = [(folder / name).read_text(encoding="utf-8") for name in ("README.md", "ATTRIBUTION.md")]
    assert "license:" not in card.partition("\n---\n")[0]
    for text in (card, listed):
        assert ("terms are not known (1): 77." in text) == ("77" in parents)
    assert ("| MIT | 1 |" in card) == ("2" in parents)
    assert ("| page not found | 1 |" in card) == ("77" in parents)


def test_an_export_that_no_page_stands_behind_has_no_attribution(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", [*map(task, range(3))])
    run(tmp_path / "out", sources={"x": {"path": path}}, export="datasets")
    assert not (tmp_path / "out" / "dataset" / "ATTRIBUTION.md").exists()
