"""Classifiers under examination: shares counted by hand, texts read as in training, and what is refused."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import AnyFound, Found, Loaded
from cirilla_cli.data.labelled import LabelledRow
from cirilla_cli.data.rows import held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Verdict
from cirilla_cli.evals.config import ClassificationTaskConfig, EvalConfig
from cirilla_cli.evals.judge import ModelJudge
from cirilla_cli.evals.run import evaluate, table, untrained
from cirilla_cli.evals.tasks.classification import ClassificationTask
from cirilla_cli.model.classifier import Classifier
from cirilla_cli.model.config import ClassifierConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Silent

from .conftest import Heard


def rows(*labels: str | int) -> list[LabelledRow]:
    return [LabelledRow(text=f"text {i}", label=label) for i, label in enumerate(labels)]


def said(*labels: str, whole: bool = True) -> list[Verdict]:
    return [Verdict(label, {label: 1.0}, whole) for label in labels]


@pytest.fixture
def classifier(load: Callable[..., Loaded]) -> Callable[..., AnyFound]:
    """A random classifier of three labels over a random decoder."""

    def make(labels: Sequence[str] = ("a", "b", "c"), context_length: int = 64, seed: int = 0) -> AnyFound:
        base = load(context_length=context_length)
        config = ClassifierConfig(base=base.config, labels=tuple(labels), pooling="last")
        model = fresh(config, seed=seed).double()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8.0)
        return Found(model.eval(), config, base.tokenizer, Path("runs/cls"))

    return make


def test_shares_are_those_counted_by_hand() -> None:
    """Ten rows: a is right 3 times of 4, b 1 of 3, c 2 of 3; d is known and never there."""
    task = ClassificationTask(rows("a", "a", "a", "a", "b", "b", "b", "c", "c", "c"))
    found = task.numbers(said("a", "a", "a", "b", "a", "b", "c", "c", "c", "a"), ["a", "b", "c", "d"])
    assert (found["n"], found["correct"], found["accuracy"]) == (10, 6, 0.6)
    assert found["labels"] == {
        "a": {"n": 4, "predicted": 5, "precision": 0.6, "recall": 0.75, "f1": 0.666667},  # 2 * 3 / (4 + 5)
        "b": {"n": 3, "predicted": 2, "precision": 0.5, "recall": 0.333333, "f1": 0.4},
        "c": {"n": 3, "predicted": 3, "precision": 0.666667, "recall": 0.666667, "f1": 0.666667},
        "d": {"n": 0, "predicted": 0, "precision": None, "recall": None, "f1": None},
    }
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.4 + 2 / 3) / 3, abs=1e-6)
    assert found["confusion"] == {"a": {"a": 3, "b": 1}, "b": {"a": 1, "b": 1, "c": 1}, "c": {"a": 1, "c": 2}}
    assert found["commonest_label"] == 0.4
    assert found["wrong"] == [
        {"text": "text 3", "label": "a", "said": "b"},
        {"text": "text 4", "label": "b", "said": "a"},
        {"text": "text 6", "label": "b", "said": "c"},
        {"text": "text 9", "label": "c", "said": "a"},
    ]


def test_on_random_answers_they_follow_from_one_look_at_each_row(dice: random.Random) -> None:
    """Each share by its own loop over rows, no counts in between."""
    names = ["1", "2", "x y"]
    for _ in range(20):
        true, told = ([dice.choice(names[: dice.randint(1, 3)]) for _ in range(dice.randint(1, 12))] for _ in range(2))
        n = min(len(true), len(told))
        pairs = list(zip(true[:n], told[:n], strict=True))
        found = ClassificationTask(rows(*true[:n])).numbers(said(*told[:n]), names)
        assert found["correct"] == len([1 for t, s in pairs if t == s])
        for name in names:
            own = found["labels"][name]
            of_told = [t == name for t, s in pairs if s == name]
            of_true = [s == name for t, s in pairs if t == name]
            precision = sum(of_told) / len(of_told) if of_told else None
            recall = sum(of_true) / len(of_true) if of_true else None
            assert own["precision"] == (None if precision is None else pytest.approx(precision, abs=1e-6))
            assert own["recall"] == (None if recall is None else pytest.approx(recall, abs=1e-6))
            if precision and recall:
                assert own["f1"] == pytest.approx(2 / (1 / precision + 1 / recall), abs=1e-6)
            else:
                assert own["f1"] == (0.0 if of_told or of_true else None)
        assert sum(sum(row.values()) for row in found["confusion"].values()) == n


def test_a_label_that_is_always_missed_counts_as_zero_in_the_mean() -> None:
    found = ClassificationTask(rows("a", "b")).numbers(said("a", "a"), ["a", "b"])
    assert found["labels"]["b"] == {"n": 1, "predicted": 0, "precision": None, "recall": 0.0, "f1": 0.0}
    assert found["macro_f1"] == pytest.approx((2 / 3) / 2, abs=1e-6)


def test_numbers_and_names_of_labels_are_the_same() -> None:
    assert ClassificationTask(rows(1, "1", 2)).numbers(said("1", "1", "2"), ["1", "2"])["accuracy"] == 1.0


def test_each_text_is_read_as_a_document_cut_to_the_context(classifier: Callable[..., AnyFound]) -> None:
    """One text at a time, no padding, cut by hand, against batches of four of every length."""
    found = classifier(context_length=16)
    model, tokenizer = found.model, found.tokenizer
    assert isinstance(model, Classifier)
    assert tokenizer is not None
    texts = [" ".join(["Geralt", "Ciri", "Roach"][n % 3 :] * n) for n in (1, 9, 2, 7, 3, 1, 5)]
    found_verdicts = ModelJudge(found, 4).verdicts(texts)
    lengths = []
    for text, verdict in zip(texts, found_verdicts, strict=True):
        ids = tokenizer.document(tokenizer.encode(text))
        lengths.append(len(ids))
        states = model.states(torch.tensor([ids[:16]]), _rows(1, min(16, len(ids))))
        expected = torch.softmax(states[0, -1] @ model.classifier.weight.T, dim=-1)
        given = torch.tensor([verdict.probabilities[label] for label in "abc"], dtype=torch.float64)
        assert torch.allclose(given, expected.detach().double(), atol=1e-6)
        assert verdict.label == "abc"[int(expected.argmax())]
        assert verdict.whole is (len(ids) <= 16)
    assert min(lengths) <= 16 < max(lengths)


def _rows(B: int, T: int) -> Any:
    from cirilla_cli.model.layout import SequenceLayout

    return SequenceLayout.rows(B, T)


def write(path: Path, *labels: str) -> Path:
    texts = (f"The witcher number {i} of {label}." for i, label in enumerate(labels))
    lines = (json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def config(tasks: dict[str, Any]) -> EvalConfig:
    return EvalConfig.model_validate({"tasks": tasks, "dtype": "float64"})


def test_every_model_has_a_column_and_every_row_a_line(classifier: Callable[..., AnyFound], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *"abcabcaab")
    out = tmp_path / "deep" / "predictions.jsonl"
    section = {"kind": "classification", "path": str(path), "predictions": str(out)}
    found = classifier()
    models = {"model": found, "before": classifier(("c", "b", "a"), seed=1), "untrained": untrained(found)}
    scores = evaluate(config({"labels": section}), models, tmp_path / "out", Silent())
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8")) == scores.as_dict()
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["model"], line["label"]) for line in lines] == [(name, c) for name in models for c in "abcabcaab"]
    for name in models:
        own = [line for line in lines if line["model"] == name]
        assert sum(line["label"] == line["predicted"] for line in own) == scores.tasks["labels"][name]["correct"]
        for line in own:
            assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)
            assert sum(line["probabilities"].values()) == pytest.approx(1.0)
    shown = [line.split("  ")[0] for line in table(scores).splitlines()]
    assert shown == ["task", "labels: accuracy", "labels: macro F1", *(f"labels: F1 of {c}" for c in "abc")]


def test_only_rows_that_training_held_out_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *"ab" * 40)
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    held = [text for text in texts if held_out(text, frac=0.25)]
    assert 0 < len(held) < 80
    read = ClassificationTask.read
    assert read(ClassificationTaskConfig(path=(path,), val=0.25)).texts == held
    assert read(ClassificationTaskConfig(path=(path,))).texts == texts
    assert read(ClassificationTaskConfig(path=(path,), val=0.25, limit=3)).texts == held[:3]
    with pytest.raises(CirillaError, match="none of its 80 rows is held out"):
        read(ClassificationTaskConfig(path=(path,), val=1e-9))


def test_texts_that_were_cut_are_counted_and_said(classifier: Callable[..., AnyFound], tmp_path: Path) -> None:
    path, heard = write(tmp_path / "rows.jsonl", "a", "b"), Heard()
    scores = evaluate(
        config({"x": {"kind": "classification", "path": str(path)}}),
        {"model": classifier(context_length=4)},
        None,
        heard,
    )
    assert scores.tasks["x"]["model"]["truncated"] == 2
    assert heard.said == ["x: 2 texts longer than the model's context were cut, as in training"]


def refusal(tasks: dict[str, Any], models: dict[str, AnyFound]) -> CirillaError:
    with pytest.raises(CirillaError) as caught:
        evaluate(config(tasks), models, None, Silent())
    return caught.value


def test_rows_of_labels_that_a_model_does_not_know_are_refused(
    classifier: Callable[..., AnyFound], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", "a", "z", "z", "q")
    error = refusal({"x": {"kind": "classification", "path": str(path)}}, {"model": classifier()})
    assert str(error) == (
        f"`eval.tasks.x`: model: {path}: 3 rows have a label that the model does not know, 'z' (2), 'q' (1); "
        "it knows 'a', 'b', 'c'"
    )
    assert error.hint is not None


def test_tasks_of_another_kind_of_model_are_refused_all_at_once(
    classifier: Callable[..., AnyFound], load: Callable[..., Loaded], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", "a", "b")
    tasks = {"x": {"kind": "classification", "path": str(path)}, "y": {"kind": "text", "path": str(path)}}
    error = refusal(tasks, {"model": classifier(), "old": load()})
    assert str(error).splitlines() == [
        "`eval.tasks.x` is of kind classification: runs/test is of kind decoder, which cannot name labels; "
        "kind classifier is wanted",
        "`eval.tasks.y` is of kind text: runs/cls is of kind classifier, which cannot continue text; "
        "kind decoder is wanted",
    ]
    assert [where.key for where in error.where] == ["eval.tasks.x", "eval.tasks.y"]


def test_predictions_replace_neither_rows_nor_each_other(classifier: Callable[..., AnyFound], tmp_path: Path) -> None:
    path, out = write(tmp_path / "rows.jsonl", "a", "b"), tmp_path / "p.jsonl"
    before = path.read_bytes()

    def task(predictions: Path) -> dict[str, str]:
        return {"kind": "classification", "path": str(path), "predictions": str(predictions)}

    assert "the file of the rows of x" in str(refusal({"x": task(path)}, {"model": classifier()}))
    assert "the file of the predictions of x" in str(refusal({"x": task(out), "y": task(out)}, {"model": classifier()}))
    assert path.read_bytes() == before
    assert not out.exists()
