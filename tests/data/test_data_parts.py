"""An array of processes and a merge give the bytes of one process, whatever is killed; foreign parts are refused."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.run import curate
from cirilla_cli.curate.shared import curate_merge, curate_share
from cirilla_cli.data.config import TokenizeConfig
from cirilla_cli.data.parts import PartReport, Share, content_of
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shared import tokenize_merge, tokenize_share
from cirilla_cli.errors import CirillaError, UsageError
from cirilla_cli.held import held
from cirilla_cli.progress import Progress, Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.scrape.shared import scrape_merge, scrape_share
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import synthesize
from cirilla_cli.synth.shared import synth_merge, synth_share
from cirilla_cli.verify.gym import make

OUT = Path("out")
"""Below the folder a test stands in: reports name their place, and are to be equal."""
SIZES = (1, 2, 3, 7, 13)
"""Parts of an array; of the last more than there are items."""
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Stage:
    """One stage, bound to its inputs: all of it, a share of it, its merge."""

    items: int
    whole: Callable[[Progress], Any]
    share: Callable[[Share, Progress], PartReport]
    merge: Callable[[Progress], Any]


WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "marsh")


def prose(number: int, length: int = 60) -> str:
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(90)) for _ in range(length)) + "."


def page_xml(number: int, title: str, text: str, ns: int = 0) -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>{number + 30}</id><revision><id>{number + 500}</id>"
        f"<timestamp>2020-01-01T00:00:00Z</timestamp><model>wikitext</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(path: Path) -> Path:
    pages = [page_xml(1, "Template:Note", "(noted: {{{1}}})", 10), page_xml(2, "Old", "#REDIRECT [[Keep]]")]
    pages += [page_xml(3, "Lost", "#REDIRECT [[Nowhere]]"), page_xml(4, "Stub", "Short.")]
    pages += [page_xml(5, "Keep", f"'''Keep''' is {{{{Note|a castle}}}}. {prose(5)}\n\n== Halls ==\n{prose(50)}")]
    pages += [page_xml(n, f"Page {n}", prose(n)) for n in range(6, 10)]
    site = "<siteinfo><sitename>Small</sitename><base>https://small.example.org/wiki/Main</base></siteinfo>"
    path.write_text(f"<mediawiki>{site}\n{''.join(pages)}</mediawiki>\n", encoding="utf-8")
    return path


def documents(path: Path, count: int, first: int = 0) -> Path:
    numbers = range(first, first + count)
    rows = [{"id": f"d{n}", "title": f"Page {n}", "text": f"Home | Help\n{prose(n)}"} for n in numbers]
    rows[3]["text"] = rows[1]["text"].replace(".", " indeed.")  # nearly the same
    rows[2]["text"] += "\nWhat did the grey heron carry over the river that evening, and to whom?"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scraping(inputs: Path) -> Stage:
    return reading({"kind": "dump", "path": str(dump(inputs / "wiki.xml"))}, 9)


def reading(source: dict[str, Any], items: int) -> Stage:
    config = ScrapeConfig.model_validate({"source": source})
    return Stage(
        items, lambda p: scrape(config, OUT, p), lambda s, p: scrape_share(config, OUT, s, p),
        lambda p: scrape_merge(config, OUT, p),
    )  # fmt: skip


def folder(path: Path) -> Path:
    """Files of each form: of one page, of several rows, of none; some rows and pages give no document."""
    (path / "below").mkdir(parents=True)
    with documents(path / "a.jsonl", 7).open("a") as file:
        file.write('{"title": "Bare"}\n\n{"text": "Short."}\n')
    documents(path / "below" / "z.jsonl", 5, 20)
    (path / "below" / "empty.jsonl").touch()
    for n in range(4):
        (path / f"page{n}.txt").write_text(prose(n) if n else "Short.")
    page = f"<html><title>Site</title><body><h1>Keep</h1><p>{prose(9)}</p></body></html>"
    (path / "below" / "keep.html").write_text(page)
    (path / "below" / "latin.txt").write_bytes("Blaviken, früh am Morgen, vor dem Markt der Stadt".encode("latin-1"))
    return path


def reading_files(inputs: Path) -> Stage:
    return reading({"kind": "files", "path": str(folder(inputs / "texts"))}, 9)


def synthesis(source: dict[str, Any], items: int, **more: Any) -> Stage:
    config = SynthConfig.model_validate({"source": source, **more})
    return Stage(
        items, lambda p: synthesize(config, OUT, p), lambda s, p: synth_share(config, OUT, s, p),
        lambda p: synth_merge(config, OUT, p),
    )  # fmt: skip


def asking(inputs: Path, limit: int | None = None) -> Stage:
    rows = documents(inputs / "pages.jsonl", 8)
    answers = []
    for n in range(7):  # the last page's request is refused
        words = prose(n).split()
        pair = {"question": f"What follows {words[0]} on Page {n}?", "answer": words[1]}
        pair["evidence"] = " ".join(words[:2])
        text = json.dumps({"pairs": [pair]}) if n != 4 else "no JSON"
        answers.append({"contains": f"Title: Page {n}\n", "text": text})
    replies = inputs / "replies.jsonl"
    replies.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    teacher = {"kind": "replay", "path": str(replies)}
    return synthesis(
        {"kind": "teacher", "teacher": teacher, "seed": 1, "workers": 3, "limit": limit}, limit or 8, inputs=str(rows)
    )


def generating(inputs: Path) -> Stage:
    make("leg_counting", {}, 0, 0)  # imported here, and not by each process of an array
    tasks = {"leg_counting": {"count": 5, "start": 3}, "word_sequence_reversal": {"count": 4}}
    return synthesis({"kind": "reasoning-gym", "tasks": tasks, "seed": 7}, 9)


def applying_rules(inputs: Path) -> Stage:
    """Pages that share values and titles, lack labels that others have, and one that stands there twice."""
    rows = [json.loads(line) for line in documents(inputs / "plain.jsonl", 6).read_text(encoding="utf-8").splitlines()]
    labels = ("Race", "Occupation", "Gender", "Hair", "Weapon", "Home")
    for n, row in enumerate(rows):
        row["title"] = f"Sir {WORDS[n % 4].capitalize()}"  # two titles stand over two pages each
        row["text"] = f"{row['title']} is a knight of the court number {n}. He keeps {13 + n} horses in the stables."
        row["aliases"] = [f"Knight {n % 5}", row["title"].lower()]
        values = {label: WORDS[(n * at + at) % 7].capitalize() for at, label in enumerate(labels) if at != n}
        row["infobox"] = [{"label": label, "values": [value]} for label, value in values.items()]
    path = inputs / "pages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[2]]), encoding="utf-8")
    return synthesis({"kind": "fandom", "facts_per_page": 4}, 7 + 7 * 6, inputs=str(path))


def curating(inputs: Path) -> Stage:
    questions = inputs / "questions.jsonl"
    question = "What did the grey heron carry over the river that evening, and to whom?"
    row = {"question": question, "answers": ["x"], "seen": False, "split_key": "q"}
    questions.write_text(json.dumps(row) + "\n", encoding="utf-8")
    fields = {
        "sources": {
            "one": {"path": str(documents(inputs / "one.jsonl", 8)), "weight": 1},
            "two": {"path": str(documents(inputs / "two.jsonl", 6, first=6)), "weight": 2},
        },
        "filters": {"menus": {"kind": "boilerplate"}, "length": {"kind": "length", "min_chars": 20}},
        "duplicates": {"match": "near", "same_facts": False}, "mixture": {"max_epochs": 9},
        "evaluation": {"facts": str(questions)}, "split": {"test": "20%"},
    }  # fmt: skip
    config = CurateConfig.model_validate(fields)
    with (inputs / "two.jsonl").open("a", encoding="utf-8") as file:
        file.write("not a row\n")
    return Stage(
        14, lambda p: curate(config, OUT, p, seed=3), lambda s, p: curate_share(config, OUT, s, p, seed=3),
        lambda p: curate_merge(config, OUT, p, seed=3),
    )  # fmt: skip


def tokenizing(inputs: Path) -> Stage:
    rows = documents(inputs / "rows.jsonl", 12)
    trained = {"inputs": str(rows), "tokenizer": {"kind": "sentencepiece", "vocab_size": 320}}
    tokenize(TokenizeConfig.model_validate(trained), inputs / "tok", Silent())
    loaded = {"kind": "load", "path": str(inputs / "tok" / "tokenizer")}
    fields = {"inputs": str(rows), "tokenizer": loaded, "shard_tokens": 700, "val": "30%"}
    config = TokenizeConfig.model_validate(fields)
    return Stage(
        12, lambda p: tokenize(config, OUT, p), lambda s, p: tokenize_share(config, OUT, s, p),
        lambda p: tokenize_merge(config, OUT, p),
    )  # fmt: skip


def asking_some(inputs: Path) -> Stage:
    return asking(inputs, limit=6)


STAGES = {
    "scrape": scraping,
    "files": reading_files,
    "ask": asking,
    "ask some": asking_some,
    "generate": generating,
    "rules": applying_rules,
    "curate": curating,
    "tokenize": tokenizing,
}


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    made: Stage = STAGES[request.param](inputs)
    return made


@pytest.fixture
def one(tmp_path: Path) -> Stage:
    (tmp_path / "inputs").mkdir()
    return scraping(tmp_path / "inputs")


def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)


def everything() -> dict[str, Any]:
    """All that a stage left, but for times, and the order in which answers came."""
    found: dict[str, Any] = {}
    for path in sorted(OUT.rglob("*")):
        name = path.relative_to(OUT).as_posix()
        if path.is_file() and name == "journal.jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = sorted(line for line in lines if '"finished"' not in line), len(lines)
        elif path.is_file() and name == "report.json":
            told = json.loads(path.read_text(encoding="utf-8"))
            found[name] = (
                list((told | {"seconds": 0, "spent": None}).items()) if "seconds" in told else path.read_bytes()
            )
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


class Dying(Silent):
    """Kills its own process at its second step, as SIGKILL does at any moment."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        self.steps += 1
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def start(stage: Stage, share: Share, progress: Progress) -> Any:
    """One element of an array, as a process of its own."""
    process = FORK.Process(target=stage.share, args=(share, progress))
    process.start()
    return process


def array(stage: Stage, of: int, order: random.Random) -> None:
    """All elements at once; one is killed, and all that failed are started again."""
    numbers = list(range(1, of + 1))
    order.shuffle(numbers)
    victim = order.choice(numbers)
    running = {n: start(stage, Share(n, of), Dying() if n == victim else Silent()) for n in numbers}
    for process in running.values():
        process.join()
    failed = [n for n, process in running.items() if process.exitcode != 0]
    assert set(failed) <= {victim}
    for n in failed:
        assert stage.share(Share(n, of), Silent()).already_done is False


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_arrays_of_any_size_give_every_byte_of_one_process(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(tmp_path / "local", monkeypatch)
    stage.whole(Silent())
    expected = everything()
    for of in SIZES:
        inside(tmp_path / f"array{of}", monkeypatch)
        array(stage, of, random.Random(of))
        assert [path.name for path in OUT.iterdir()] == ["parts"]
        stage.merge(Silent())
        assert everything() == expected


def test_every_item_is_in_one_part_and_the_parts_count_them_all(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(tmp_path / "array", monkeypatch)
    reports = [stage.share(Share(n, 3), Silent()) for n in (3, 1, 2)]
    assert {report.of for report in reports} == {sum(report.items for report in reports)}
    assert max(report.items for report in reports) < reports[0].of <= stage.items


def test_a_finished_part_does_nothing_and_a_part_cut_anywhere_goes_on_to_the_same_bytes(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(tmp_path / "array", monkeypatch)
    stage.share(Share(1, 1), Silent())
    before, folder = everything(), OUT / "parts" / "1-of-1"
    stamp = (folder / "part.json").stat().st_mtime_ns
    assert stage.share(Share(1, 1), Silent()).already_done
    assert (folder / "part.json").stat().st_mtime_ns == stamp
    assert everything() == before
    size = (folder / "results.jsonl").stat().st_size
    for cut in (0, 5, size // 3, size // 2, size - 1):
        (folder / "part.json").unlink()
        os.truncate(folder / "results.jsonl", cut)
        assert not stage.share(Share(1, 1), Silent()).already_done
        assert everything() == before


def test_a_part_with_a_damaged_line_is_made_anew(one: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may leave zeros where a line was."""
    inside(tmp_path / "array", monkeypatch)
    one.share(Share(1, 1), Silent())
    before, path = everything(), OUT / "parts" / "1-of-1" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], bytes(len(lines[3]) - 1) + b"\n"]))
    one.share(Share(1, 1), Silent())
    assert everything() == before


def test_what_is_on_record_is_not_made_again(one: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Silent):
        steps = 0

        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            self.steps += 1

    inside(tmp_path / "array", monkeypatch)
    whole, rest = Counting(), Counting()
    one.share(Share(1, 1), whole)
    folder = OUT / "parts" / "1-of-1"
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "part.json").unlink()
    (folder / "results.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:9])
    one.share(Share(1, 1), rest)
    assert rest.steps == 2 < whole.steps
    assert (folder / "results.jsonl").read_bytes() == b"".join(lines)


def broken(one: Stage, match: str) -> CirillaError:
    """What the merge says; it leaves everything where it was."""
    before = everything()
    with pytest.raises(CirillaError, match=match) as caught:
        one.merge(Silent())
    assert everything() == before
    return caught.value


@pytest.fixture
def parts(one: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside(tmp_path / "array", monkeypatch)
    for number in (1, 2, 3):
        one.share(Share(number, 3), Silent())
    return OUT / "parts"


def test_missing_and_unfinished_parts_are_named_with_what_makes_them(one: Stage, parts: Path) -> None:
    shutil.rmtree(parts / "2-of-3")
    (parts / "3-of-3" / "part.json").unlink()
    error = broken(one, "2-of-3: missing\n.*3-of-3: not finished")
    assert "--shard 2/3; --shard 3/3" in str(error.hint)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"of": "9", "items": 1}', '{"of": 9, "items": 1}', "\0\0"])
def test_a_damaged_mark_is_no_mark_and_its_part_is_made_anew(one: Stage, parts: Path, text: str) -> None:
    mark = parts / "2-of-3" / "part.json"
    before = everything()
    mark.write_text(text)
    broken(one, "2-of-3: (not finished|made by)")
    assert not one.share(Share(2, 3), Silent()).already_done
    assert everything() == before
    strange = json.loads(mark.read_text())
    mark.write_text(json.dumps(strange | {"made_from": {"inputs": 5, "paths": {"a": 1}}}))
    broken(one, "2-of-3: made by")


def test_parts_of_two_arrays_and_strange_files_are_refused(one: Stage, parts: Path) -> None:
    one.share(Share(1, 4), Silent())
    broken(one, "different arrays: 1-of-3, 2-of-3, 3-of-3; 1-of-4")
    shutil.rmtree(parts / "1-of-4")
    (parts / "notes.txt").write_text("mine")
    broken(one, r"notes\.txt: not a part")


def test_a_part_copied_over_another_is_refused(one: Stage, parts: Path) -> None:
    shutil.rmtree(parts / "2-of-3")
    shutil.copytree(parts / "1-of-3", parts / "2-of-3")
    broken(one, "2-of-3: holds the part 1-of-3")


def test_a_changed_part_is_refused(one: Stage, parts: Path) -> None:
    path = parts / "3-of-3" / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b"amber", b"umber"))
    broken(one, "3-of-3: changed since it was made")


def test_parts_of_rules_over_other_pages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inputs").mkdir()
    rules = applying_rules(tmp_path / "inputs")
    inside(tmp_path / "array", monkeypatch)
    for number in (1, 2):
        rules.share(Share(number, 2), Silent())
    pages = tmp_path / "inputs" / "pages.jsonl"
    pages.write_bytes(pages.read_bytes().replace(b"horses", b"hounds"))
    broken(rules, "1-of-2: made from other content of .*pages.jsonl\n.*2-of-2: made from other content")
    rules.share(Share(1, 2), Silent())  # no array of two halves, one old and one new
    broken(rules, "^[^\n]*2-of-2: made from other content of .*pages.jsonl$")


def test_a_part_that_is_being_written_is_not_merged(one: Stage, parts: Path) -> None:
    with held(parts / "2-of-3"):
        broken(one, "2-of-3: .* writ")


def test_parts_of_other_inputs_recipes_verbs_and_versions_are_named(one: Stage, parts: Path, tmp_path: Path) -> None:
    mark = parts / "2-of-3" / "part.json"
    told = json.loads(mark.read_text())
    for key, value, said in (
        ("recipe", "0" * 64, "made by another recipe"), ("version", "0.0.1", "made by version 0.0.1"),
        ("verb", "synth", "made by `cirilla synth`, not `cirilla scrape`"),
    ):  # fmt: skip
        mark.write_text(json.dumps(told | {"made_from": told["made_from"] | {key: value}}))
        broken(one, f"2-of-3: {said}")
    mark.write_text(json.dumps(told))
    dump_file = tmp_path / "inputs" / "wiki.xml"
    dump_file.write_bytes(dump_file.read_bytes().replace(b"amber", b"umber"))
    broken(one, "1-of-3: made from other content of .*wiki.xml\n.*2-of-3: made from other content")
    for number in (1, 2, 3):  # other inputs: they are made anew
        assert not one.share(Share(number, 3), Silent()).already_done
    one.merge(Silent())
    assert "umber" in (OUT / "documents.jsonl").read_text()


def test_parts_that_hold_other_items_are_refused_before_anything_is_written(one: Stage, parts: Path) -> None:
    """A mark that fits what is there is no proof: the items are compared one by one."""
    folder = parts / "3-of-3"
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(b"".join(lines[:-1]))
    mark = json.loads((folder / "part.json").read_text())
    (folder / "part.json").write_text(json.dumps(mark | {"sha256": content_of(folder)}))
    with pytest.raises(CirillaError, match="3-of-3: does not hold the item"):
        one.merge(Silent())
    assert not (OUT / "documents.jsonl").exists()


@pytest.mark.parametrize("gone", [-1, 2])
def test_parts_of_files_that_lack_a_row_or_an_end_are_refused_before_anything_is_written(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = reading_files(tmp_path)
    inside(tmp_path / "array", monkeypatch)
    for number in (1, 2):
        files.share(Share(number, 2), Silent())
    part = OUT / "parts" / "2-of-2"
    lines = (part / "results.jsonl").read_bytes().splitlines(keepends=True)
    lines[gone] = lines[-1]  # of another file
    (part / "results.jsonl").write_bytes(b"".join(lines[:gone] if gone < 0 else lines))
    mark = json.loads((part / "part.json").read_text())
    (part / "part.json").write_text(json.dumps(mark | {"sha256": content_of(part)}))
    with pytest.raises(CirillaError, match="2-of-2: does not hold the item"):
        files.merge(Silent())
    assert not (OUT / "documents.jsonl").exists()


def test_no_parts_and_no_place_for_them_are_said(one: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(tmp_path / "array", monkeypatch)
    with pytest.raises(CirillaError, match="no parts to merge") as caught:
        one.merge(Silent())
    assert "--shard 1/N" in str(caught.value.hint)
    config = ScrapeConfig.model_validate({"source": {"kind": "dump", "path": str(tmp_path / "inputs" / "wiki.xml")}})
    with pytest.raises(CirillaError, match="parts need a folder"):
        scrape_share(config, Path("-"), Share(1, 2), Silent())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"kind": "mediawiki", "api": "http://127.0.0.1:1/api.php"}, "one request at a time.* --dump FILE"),
        ({"kind": "dump", "path": "http://127.0.0.1:1/wiki.xml"}, "every part would download it.* --dump FILE"),
        ({"kind": "hub", "path": "a/b", "max_bytes": "1MB"}, "max_bytes` counts .* in order.*, or max_bytes"),
        ({"kind": "hub", "path": ".", "limit": 4}, "limit` counts documents in order.*, or --limit"),
        ({"kind": "files", "path": ".", "limit": 4}, "limit` counts documents in order.*, or --limit"),
    ],
)
def test_scrapes_that_cannot_be_shared_out_say_why_and_what_to_do(
    source: dict[str, Any], why: str, tmp_path: Path
) -> None:
    limit = source.pop("limit", None)
    config = ScrapeConfig.model_validate({"source": source, "limit": limit})
    with pytest.raises(CirillaError) as caught:
        scrape_share(config, tmp_path / "out", Share(1, 2), Silent())
    assert re.search(why, f"{caught.value} {caught.value.hint}")
    with pytest.raises(CirillaError, match="cannot be shared out"):
        scrape_merge(config, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_wrong_lines_in_the_files_of_a_part_are_all_named_and_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of files read before the last as well, or the part would be done without them at its second start."""
    texts = folder(tmp_path / "texts")
    for name in ("a.jsonl", "below/z.jsonl"):
        with (texts / name).open("a") as file:
            file.write('{"text": \n{"text": "A late row, which is as long as a document has to be."}\n')
    stage = reading({"kind": "files", "path": str(texts)}, 9)
    inside(tmp_path / "array", monkeypatch)
    for _ in range(3):
        with pytest.raises(CirillaError, match=r"(?s)a\.jsonl:11: .*z\.jsonl:6: "):
            stage.share(Share(1, 1), Silent())
    with pytest.raises(CirillaError, match="not finished"):
        stage.merge(Silent())
    lines = (OUT / "parts" / "1-of-1" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 1 + 10 + 6 + 7 + 6  # made from, rows of both, other files and their ends


def test_streams_and_untrained_tokenizers_are_refused(tmp_path: Path) -> None:
    rows = str(documents(tmp_path / "d.jsonl", 6))
    for share, config, why in (
        (synth_share, SynthConfig.model_validate({"inputs": "-", "source": {"kind": "teacher"}}), "standard input"),
        (tokenize_share, TokenizeConfig.model_validate({"inputs": rows}), "training a tokenizer cannot be shared"),
        (curate_share, CurateConfig.model_validate({"sources": {"a": {"path": "-"}}}), "standard input"),
    ):  # fmt: skip
        call: Any = share
        with pytest.raises(CirillaError, match=why):
            call(config, tmp_path / "out", Share(1, 2), Silent())
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/4", "99999999999/99999999999"])
def test_what_is_no_share_is_refused_with_the_line_that_slurm_wants(text: str) -> None:
    with pytest.raises(UsageError, match="I/N is expected") as caught:
        Share.parse(text)
    assert "$SLURM_ARRAY_TASK_ID/8" in str(caught.value.hint)


def test_shares_are_even_and_an_items_share_depends_on_its_key_alone() -> None:
    keys = [f"page {n}" for n in range(8000)]
    sizes = [sum(Share(number, 8).takes(key) for key in keys) for number in range(1, 9)]
    assert sum(sizes) == len(keys)
    assert max(sizes) - min(sizes) < 200  # six standard deviations of 8,000 throws of a die of eight
    assert Share.parse("3/8") == Share(3, 8)


@pytest.mark.parametrize("harm", ["names", "marker"])
def test_shards_that_the_parts_do_not_agree_on_are_refused(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of the part fits what lies there: only the parts together can tell."""
    (tmp_path / "inputs").mkdir()
    stage = tokenizing(tmp_path / "inputs")
    inside(tmp_path / "array", monkeypatch)
    for number in (1, 2):
        stage.share(Share(number, 2), Silent())
    folder = OUT / "parts" / "2-of-2"
    told = json.loads((folder / "shards.json").read_text())
    if harm == "names":
        (folder / "shards.json").write_text(json.dumps(told | {"shards": told["shards"][:-1]}))
    else:
        next((folder / "shards" / "text").glob("train-*.json")).unlink()
    mark = json.loads((folder / "part.json").read_text())
    (folder / "part.json").write_text(json.dumps(mark | {"sha256": content_of(folder)}))
    said = "2-of-2 names other shards" if harm == "names" else "2-of-2 without text/train"
    with pytest.raises(CirillaError, match=said):
        stage.merge(Silent())
    assert not (OUT / "shards").exists()
