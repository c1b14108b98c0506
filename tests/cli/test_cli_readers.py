"""`cirilla generate` and `push` with models that write nothing: labels, hidden tokens, and what is refused."""

import json
from pathlib import Path

import pytest
from program import call, good


def rows(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_classifier_prints_the_label_of_each_text(readers: Path) -> None:
    assert good("generate", str(readers / "cls"), "-p", "gold gold", "-p", "rain", "-q").out == "good\nbad\n"
    assert good("generate", str(readers / "cls"), "-q", stdin="rain rain\ngold\n\n").out == "bad\ngood\n"


def test_as_json_it_says_how_sure_it_is(readers: Path) -> None:
    found = rows(good("generate", str(readers / "cls"), "--json", stdin="rain\ngold\n").out)
    assert [list(row) for row in found] == [["prompt", "label", "probabilities", "seconds"]] * 2
    assert [(row["prompt"], row["label"]) for row in found] == [("rain", "bad"), ("gold", "good")]
    shares = found[0]["probabilities"]
    assert isinstance(shares, dict)
    assert list(shares) == ["bad", "good"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["bad"] > 0.5


def test_an_encoder_fills_in_what_is_hidden(readers: Path) -> None:
    (row,) = rows(good("generate", str(readers / "enc"), "-p", "The <mask> of <mask>", "--json").out)
    assert list(row) == ["prompt", "text", "candidates", "seconds"]
    places = row["candidates"]
    assert isinstance(places, list)
    assert [len(place) for place in places] == [5, 5]
    assert [list(place[0]) for place in places] == [["token", "text", "probability"]] * 2
    assert all(place[0]["probability"] >= place[1]["probability"] for place in places)
    assert row["text"] == f"The{places[0][0]['text']} of{places[1][0]['text']}"
    shown = good("generate", str(readers / "enc"), "-p", "The <mask> of <mask>", "-q").out
    assert shown == f"{row['text']}\n"


def test_a_text_that_hides_nothing_is_refused_with_an_example(readers: Path) -> None:
    done = call("generate", str(readers / "enc"), "-p", "The wolf", "-q")
    assert done.code == 1
    assert "prompt 1: it has no <mask>, so nothing in it is hidden" in done.err
    assert 'hint: an encoder restores hidden tokens: --prompt "The wolf is <mask>."' in done.err


@pytest.mark.parametrize(("model", "kind"), [("cls", "classifier"), ("enc", "encoder")])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--max-new-tokens", "4", "-t", "0"], "`generate.max_new_tokens`, `generate.temperature`: of"),
        (["--chat"], "`generate.chat`: of"),
        (["--stop", "x", "--seed", "1"], "`generate.seed`, `generate.stop`: of"),
        (["generate.top_k=3"], "`generate.top_k`: of"),
    ],
)
def test_options_of_writing_are_refused(readers: Path, model: str, kind: str, given: list[str], named: str) -> None:
    done = call("generate", str(readers / model), "-p", "gold <mask>", "-q", *given)
    assert done.code == 1
    assert f"{named} no meaning for a model of kind {kind}" in done.err
    assert done.out == ""
    assert "hint: leave" in done.err


def test_options_of_reading_are_not(readers: Path) -> None:
    settings = ["--dtype", "float64", "generate.batch=1", "generate.prompts=['gold','rain']"]
    assert good("generate", str(readers / "cls"), *settings, "-q").out == "good\nbad\n"


def test_what_is_published_answers_the_same(readers: Path, tmp_path: Path) -> None:
    for model, text, architecture in (
        ("cls", "gold rain", "ModernBertForSequenceClassification"),
        ("enc", "The <mask> of", "ModernBertForMaskedLM"),
    ):
        out = tmp_path / model
        report = json.loads(
            good("push", str(readers / model), "--to", f"dir:{out}", "push.dtype=float32", "--json").out
        )
        assert report["architecture"] == architecture
        assert {check["outcome"] for check in report["checks"]} <= {"passed", "skipped"}
        before, after = (
            rows(good("generate", str(where), "-p", text, "--json").out)[0] for where in (readers / model, out)
        )
        assert {**before, "seconds": 0} == {**after, "seconds": 0}
    lineage = json.loads((tmp_path / "cls" / "cirilla.json").read_text())
    first = lineage["data"][0]
    assert first["name"].endswith("rows.jsonl")
    assert len(first["sha256"]) == 64


def test_evaluation_says_what_else_they_can_do(readers: Path) -> None:
    done = call("eval", str(readers / "cls"), "--text", str(readers / "rows.jsonl"), "-q")
    assert done.code == 1
    assert "`eval.tasks.text` is of kind text: " in done.err
    assert "of kind classifier, which cannot continue text; kind decoder is wanted" in done.err
    assert "names a text's label" in done.err
    assert f"`cirilla eval {readers / 'cls'} --labels rows.jsonl`" in done.err
    done = call("eval", str(readers / "enc"), "--labels", str(readers / "rows.jsonl"), "-q")
    assert done.code == 1
    assert "of kind encoder, which cannot name labels; kind classifier is wanted" in done.err
    assert f"`cirilla generate {readers / 'enc'}` restores hidden tokens" in done.err


def test_a_classifier_is_scored_on_labelled_rows(
    readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row as `generate` names it, alone."""
    monkeypatch.chdir(tmp_path)
    model = str(readers / "cls")
    given = rows((readers / "rows.jsonl").read_text(encoding="utf-8")) + [{"text": "gold", "label": "bad"}] * 5
    named = good("generate", model, "-q", stdin="".join(f"{row['text']}\n" for row in given)).out.split()
    expected = sum(label == row["label"] for label, row in zip(named, given, strict=True))
    done = good(
        "eval", model, "--labels", "-", "eval.tasks.labels.predictions=p.jsonl", "--out", "s.json", "-q",
        stdin="".join(json.dumps(row) + "\n" for row in given),
    )  # fmt: skip
    first, second, *_ = done.out.splitlines()
    assert first.split() == ["task", "n", "model"]
    assert second.split()[:4] == ["labels:", "accuracy", "125", f"{100 * expected / 125:.1f}%"]
    assert [row["predicted"] for row in rows(Path("p.jsonl").read_text(encoding="utf-8"))] == named
    assert json.loads(Path("s.json").read_text(encoding="utf-8"))["tasks"]["labels"]["model"]["correct"] == expected


def test_held_out_rows_score_as_training_said(readers: Path, tmp_path: Path) -> None:
    """Packed rows there, padded ones here; texts beyond the context are cut in both."""
    given = [{"text": " ".join(["gold"] * (n % 5) + ["rain"] * (n // 5)), "label": n % 3} for n in range(1, 150)]
    path, run = tmp_path / "rows.jsonl", tmp_path / "run"
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    changes = [f"data.path={path}", "data.val=0.3", "train.steps=4", "eval={every: 4}"]
    (report,) = rows(good("sft", str(readers / "cls.yaml"), *changes, "--out", str(run), "--json").out)
    held = ["--labels", str(path), "eval.tasks.labels.val=0.3", "--out", str(tmp_path / "scores")]
    (told,) = rows(good("eval", str(run), *held, "--json").out)
    scored = told["tasks"]["labels"]["model"]  # type: ignore[index]
    assert scored["accuracy"] == pytest.approx(report["last_validation"]["accuracy"], abs=1e-5)  # type: ignore[index]
    assert 0 < scored["correct"] < scored["n"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--labels", "nope.jsonl"], "`eval.tasks.labels`: nope.jsonl: no such file or folder"),
        (["--labels", "empty.jsonl"], "`eval.tasks.labels`: empty.jsonl: no rows"),
        (
            ["--labels", "other.jsonl"],
            "1 rows have a label that the model does not know, 'ugly' (1); it knows 'bad', 'good'",
        ),
        (["--labels", "bare.jsonl"], "bare.jsonl:1: `label` is missing"),
        (["--labels", "other.jsonl", "eval.tasks.labels.predictions=other.jsonl"], "would be written over"),
        (["--labels", "other.jsonl", "eval.tasks.labels.predictions=p.txt"], "must be a file ending in .jsonl"),
        (["--labels", "other.jsonl", "eval.tasks.labels.predictions=empty.jsonl/p.jsonl"], "empty.jsonl: is a file"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(
    readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("", encoding="utf-8")
    Path("bare.jsonl").write_text('{"text": "gold"}\n', encoding="utf-8")
    Path("other.jsonl").write_text('{"text": "gold", "label": "ugly"}\n', encoding="utf-8")
    done = call("eval", str(readers / "cls"), *given, "-q")
    assert done.code == 1
    assert said in done.err
    assert done.out == ""
    assert not list(tmp_path.rglob("scores.json"))


def test_a_stage_of_a_pipeline_labels_its_prompts(
    readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = {
        "recipe": 1, "name": "labels",
        "stages": {"label": {"verb": "generate", "recipe": "default",
                             "with": {"model": str(readers / "cls"), "generate.prompts": ["gold", "rain"]}}},
    }  # fmt: skip
    Path("pipe.yaml").write_text(json.dumps(pipeline), encoding="utf-8")
    good("run", "pipe.yaml", "-q")
    (answers,) = Path("runs").rglob("answers.jsonl")
    assert [row["label"] for row in rows(answers.read_text(encoding="utf-8"))] == ["good", "bad"]
