"""`cirilla report`: what stands in the page and what cannot, by Python's own parsers of HTML and XML."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from program import call, good

from cirilla_cli.report.draw import thinned
from cirilla_cli.report.read import is_number

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert('2')">&amp; $x^{$ {{ 7 * 7 }}"""
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table", "tr", "th", "td", "img",
    "details", "summary", "pre",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would find in a page: elements, texts and what is loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.attributes: set[str] = set()
        self.bold: list[str] = []
        self._is_bold = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self._is_bold = ("class", "best") in attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())
        if self._is_bold:
            self.bold.append(data)
            self._is_bold = False

    @property
    def pictures(self) -> list[str]:
        return [base64.b64decode(s.removeprefix("data:image/svg+xml;base64,")).decode() for s in self.sources]


def run(path: Path, rows: list[dict[str, Any]], samples: Any = (), **recipe: Any) -> Path:
    """The folder of a run with these logs."""
    path.mkdir(parents=True)
    whole = {"name": path.name, "out": str(path), "train": {"steps": 3}, "optim": {"lr": 0.5}, **recipe}
    (path / "lock.json").write_text(json.dumps({"resolved": whole, "machine": {"device": "cpu"}}), encoding="utf-8")
    for name, lines in (("metrics", rows), ("samples", samples)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return path


def steps(*losses: float, val: float | None = None, **more: Any) -> list[dict[str, Any]]:
    """A line for each loss, the last one with an evaluation."""
    rows = [{"step": n, "loss": loss, "tokens": 10 * n, "lr_factor": 1.0, **more} for n, loss in enumerate(losses, 1)]
    return rows if val is None else [*rows[:-1], {**rows[-1], "val_loss": val}]


def test_a_run_becomes_one_page_that_loads_nothing(lab: Path) -> None:
    made = json.loads(good("report", "runs/pre", "--png", "--json").out)
    page = Page(lab / made["out"])
    assert page.tags == TAGS - {"h3"}  # a run without prompts
    assert len(page.pictures) >= 4
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    last = json.loads(Path("runs/pre/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (made["runs"][0]["step"], made["runs"][0]["loss"], made["runs"][0]["finished"]) == (2, last["loss"], True)
    assert "d_model: 32" in " ".join(page.texts)
    assert [Path(name).read_bytes()[:4] for name in made["png"]] == [b"\x89PNG"] * len(page.pictures)
    assert "report.html" in good("report", "runs/pre").out  # an earlier report may be written over


def test_nothing_that_anybody_wrote_becomes_markup(tmp_path: Path) -> None:
    said = [{"step": 1, "prompt": HOSTILE, "text": HOSTILE}]
    name = HOSTILE.replace("/", "|")
    one = run(tmp_path / name, steps(2.0, 1.0, **{HOSTILE: 3.0}), said, **{HOSTILE: HOSTILE})
    other = run(tmp_path / "_other", steps(2.0, 1.0), said)
    out = tmp_path / "page.html"
    made = json.loads(good("report", str(one), str(other), "--out", str(out), "--png", "--json").out)
    page = Page(out)
    assert page.tags == TAGS
    assert page.attributes == {"lang", "charset", "name", "content", "http-equiv", "src", "alt", "class"}
    assert {HOSTILE, name} <= set(page.texts)
    drawn = [ElementTree.fromstring(picture) for picture in page.pictures]
    elements = {element.tag.rpartition("}")[2] for picture in drawn for element in picture.iter()}
    assert elements <= {
        "svg", "defs", "style", "g", "path", "use", "clipPath", "rect", "metadata", "RDF", "Work", "type", "format"
    }  # fmt: skip
    assert any("2: _other" in picture for picture in page.pictures)
    assert all(Path(png).parent == tmp_path for png in made["png"])


def test_runs_are_compared_key_by_key_and_number_by_number(tmp_path: Path) -> None:
    said = [{"step": 3, "prompt": "Who?", "text": "he"}]
    a = run(tmp_path / "a", steps(4.0, 3.0, 2.0, val=2.5), said, seed=0, eval={"every": 1})
    b = run(tmp_path / "b", steps(4.0, 2.0, 1.0, val=2.25), [said[0] | {"text": "she"}], seed=1)
    made = json.loads(good("report", str(a), str(b), "--out", str(tmp_path / "ab.html"), "--json").out)
    assert made["differences"] == [{"key": "seed", "values": [0, 1]}, {"key": "eval.every", "values": [1, None]}]
    assert [found["best_val_loss"] for found in made["runs"]] == [2.5, 2.25]
    assert (made["runs"][1]["tokens"], made["notes"]) == (30, [])
    page = Page(tmp_path / "ab.html")
    assert page.bold == ["2.2500"]
    assert [text for text in page.texts if text in ("he", "she")] == ["he", "she"]
    table = good("report", str(a), str(b), "--out", str(tmp_path / "ab.html")).out
    assert ["validation", "loss,", "lowest", "2.5000", "2.2500"] in [line.split() for line in table.splitlines()]


def test_a_run_that_is_not_done_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    path = run(tmp_path / "cut", [*steps(2.0, float("nan")), {"step": "x"}])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    done = good("report", str(path), "--json")
    made = json.loads(done.out)
    assert (made["runs"][0]["step"], made["runs"][0]["loss"], made["runs"][0]["finished"]) == (2, 2.0, False)
    assert made["notes"] == [
        "cut: metrics.jsonl: passed over 1 damaged line(s): 4 (half-written: the file ends inside this row)",
        "cut: not finished: step 2 of 3",
    ]
    assert Page(path / "report.html").texts.count(made["notes"][1]) == 1


def test_a_run_without_a_step_or_a_lock_is_shown_too(tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", [])
    bare = run(tmp_path / "bare", steps(1.0, **{"a\0b": 1.0}), half="\ud800")
    good("report", str(bare))  # half a character in the recipe, a NUL in a key
    (bare / "lock.json").write_text("{", encoding="utf-8")
    assert json.loads(good("report", str(begun), "--json").out)["notes"] == ["begun: no step has been logged yet"]
    assert "There is nothing to draw yet." in Page(begun / "report.html").texts
    damaged = json.loads(good("report", str(bare), "--json").out)["notes"]
    assert "bare: lock.json: damaged, passed over" in damaged


def test_what_is_no_run_is_refused_with_what_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("runs/a"), steps(1.0))
    for folder in ("empty", "empty.html"):
        Path(folder).mkdir()
    for file in ("file", "text.html"):
        Path(file).write_text("x", encoding="utf-8")
    mistakes = {
        ("missing",): "missing: no such folder",
        ("file",): "file: is a file, and the folder of a training run",
        (
            "empty",
            "missing",
        ): "empty: is no training run: neither lock.json nor metrics.jsonl is there\nmissing: no such",
        ("runs",): "hint: cirilla report runs/a",
        ("runs/a", "runs/../runs/a"): "is named twice",
        ("runs/a", "--out", "text.html"): "text.html: exists, and is no report",
        ("runs/a", "--out", "empty.html"): "empty.html: is a folder",
        ("runs/a", "--out", "file/x.html"): "file: is a file, and a folder is to be written there",
    }
    for words, says in mistakes.items():
        done = call("report", *words)
        assert (done.code, says in done.err) == (1, True), done
    assert Path("text.html").read_text(encoding="utf-8") == "x"
    assert call("report").code == 2


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    path = run(tmp_path / "a", steps(3.0, 2.0, 1.0))
    pages = []
    for _ in range(2):
        good("report", str(path))
        pages.append((path / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_long_curve_is_drawn_from_means_of_neighbours() -> None:
    points = [(step, float(step % 7)) for step in range(1, 1202)]
    few = thinned(points, 600)
    assert len(few) == 401
    assert few[:2] == [(3, 2.0), (6, 5.0)]
    assert few[-1] == (1201, float(1201 % 7))
    assert thinned(points[:600], 600) == points[:600]


@pytest.mark.parametrize("value", [True, "1", None, float("inf"), float("nan")])
def test_what_is_no_number_is_not_drawn(value: Any) -> None:
    assert not is_number(value)


@pytest.mark.parametrize("name", ["-", "x.pdf"])
def test_a_page_is_called_html(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("report", ".", "--out", name)
    assert (done.code, "must end in .html" in done.err) == (1, True), done
    assert not list(tmp_path.iterdir())


def test_an_integer_beyond_all_floats_is_not_drawn() -> None:
    assert (is_number(10**400), is_number(7)) == (False, True)
