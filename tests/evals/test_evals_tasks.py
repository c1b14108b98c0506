"""Each task given perfect, random and known answerers, and what a real model makes of it."""

import json
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.data.rows import Message, Origin, Question, Sample, held_out
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Ask, user_turn
from cirilla_cli.evals.config import ChoicesTaskConfig, PreferencesTaskConfig, ReasoningTaskConfig
from cirilla_cli.evals.stats import ratio_interval, wilson
from cirilla_cli.evals.subject import ModelSubject
from cirilla_cli.evals.tasks.exact import Hopeless
from cirilla_cli.evals.tasks.preferences import PreferencesTask
from cirilla_cli.evals.tasks.questions import ChoicesTask, QuestionsTask, grouped
from cirilla_cli.evals.tasks.reasoning import ReasoningTask, SeenQuestions, unseen
from cirilla_cli.verify.gym_worker import GymScorer

N = 400
WORDS = ("red", "green", "blue", "black")


def questions(dice: random.Random, *, choices: bool = False) -> list[Question]:
    return [
        Question(
            question=f"What colour is thing {i}?",
            answers=(dice.choice(WORDS),),
            choices=WORDS if choices else None,
            seen=i % 2 == 0,
            split_key=str(i % 50),
        )
        for i in range(N)
    ]


def pair(i: int) -> Sample:
    return Sample(
        kind="preference", id=str(i), messages=user_turn(f"question {i}"), chosen="good", rejected="bad",
        split_key=f"page {i}", source="test", generator=Origin(strategy="test"),
    )  # fmt: skip


def near(share: float, chance: float, n: int) -> bool:
    return bool(abs(share - chance) < 4 * (chance * (1 - chance) / n) ** 0.5)


def test_questions_give_a_perfect_answerer_one_and_a_random_one_chance(person: Any, dice: random.Random) -> None:
    asked = questions(dice)
    key = {q.question: q.answers[0].upper() + "." for q in asked}
    perfect = QuestionsTask(asked).score(person(says=key.__getitem__))
    guessed = QuestionsTask(asked).score(person(says=lambda question: dice.choice(WORDS)))
    for group in ("seen", "unseen"):
        assert perfect[group]["accuracy"] == 1.0
        assert perfect[group]["n"] == N // 2
        assert perfect[group]["pages"] == 25
        assert perfect[group]["wrong"] == []
        assert near(guessed[group]["accuracy"], 0.25, N // 2)
        assert len(guessed[group]["wrong"]) == 5
        low, high = guessed[group]["interval"]
        assert low < guessed[group]["accuracy"] < high


def test_seen_and_unseen_are_never_one_number(person: Any, dice: random.Random) -> None:
    asked = questions(dice)
    key = {q.question: q.answers[0] for q in asked if q.seen}
    numbers = QuestionsTask(asked).score(person(says=lambda question: key.get(question, "?")))
    assert set(numbers) == {"seen", "unseen"}
    assert (numbers["seen"]["accuracy"], numbers["unseen"]["accuracy"]) == (1.0, 0.0)
    only = QuestionsTask([q for q in asked if q.seen]).score(person(says=key.__getitem__))
    assert set(only) == {"seen"}


def test_choices_give_a_perfect_answerer_one_and_a_random_one_chance(person: Any, dice: random.Random) -> None:
    asked = questions(dice, choices=True)
    key = {q.question: q.answers[0] for q in asked}
    perfect = ChoicesTask(asked).score(
        person(weighs=lambda question, answer: -1.0 if key[question] == answer else -99.0)
    )
    guessed = ChoicesTask(asked).score(person(weighs=lambda question, answer: -dice.random() * len(answer)))
    flat = ChoicesTask(asked).score(person(weighs=lambda question, answer: -2.0 * len(answer)))
    for group in ("seen", "unseen"):
        assert perfect[group]["accuracy"] == 1.0
        assert perfect[group]["chance"] == 0.25
        assert near(guessed[group]["accuracy"], 0.25, N // 2)
        assert flat[group]["accuracy"] == 0.0, "a tie is no answer"


def test_choices_are_compared_by_the_byte(person: Any) -> None:
    asked = [Question(question="q", answers=("long answer",), choices=("long answer", "no"), seen=False, split_key="1")]
    weights = {"long answer": -11.0, "no": -4.0}
    assert ChoicesTask(asked).score(person(weighs=lambda q, a: weights[a]))["unseen"]["accuracy"] == 1.0


def test_a_question_without_a_right_choice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    rows = [
        {"question": "a", "answers": ["x"], "choices": ["y", "z"], "seen": True, "split_key": "1"},
        {"question": "b", "answers": ["x"], "seen": True, "split_key": "1"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CirillaError, match="question 1: none of its(.|\n)*question 2: `choices` must hold"):
        ChoicesTask.read(ChoicesTaskConfig(path=file))


@pytest.fixture(scope="module")
def worker() -> Any:
    pytest.importorskip("reasoning_gym")
    with GymScorer() as worker:
        yield worker


LEGS = ReasoningTaskConfig(name="leg_counting", config={"min_animals": 1, "max_animals": 2})


def test_a_reasoning_task_is_scored_by_its_own_scorer(worker: GymScorer, person: Any, dice: random.Random) -> None:
    task = ReasoningTask.make(LEGS, worker, SeenQuestions())
    key = {entry["question"]: entry["answer"] for entry in task.instances.entries}
    assert len(key) == 200
    perfect = task.score(person(says=key.__getitem__))
    assert (perfect["n"], perfect["accuracy"]) == (200, 1.0)
    assert perfect["commonest_answer"] < 0.1
    right = iter([True, False] * 100)
    half = task.score(person(says=lambda q: key[q] if next(right) else "no idea"))
    assert half["accuracy"] == 0.5
    assert task.score(person(says=lambda q: "no idea"))["accuracy"] == 0.0


def test_a_level_of_the_curriculum_is_asked_and_scored(worker: GymScorer, person: Any) -> None:
    config = ReasoningTaskConfig(name="chain_sum", level=2, levels={"num_digits": 5}, count=20)
    task = ReasoningTask.make(config, worker, SeenQuestions())
    terms = [re.split(r" [+-] ", entry["question"].split(": ")[1]) for entry in task.instances.entries]
    assert max(len(each) for each in terms) == 4
    assert max(len(term.rstrip(" =")) for each in terms for term in each) == 6
    key = {entry["question"]: entry["answer"] for entry in task.instances.entries}
    assert task.score(person(says=key.__getitem__))["accuracy"] == 1.0


def test_partial_credit_is_not_right(person: Any) -> None:
    instances = unseen([{"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}], frozenset(), 2)
    task = ReasoningTask(instances, lambda entry, answer: 1.0 if entry["question"] == "q" else 0.99)
    assert task.score(person())["correct"] == 1


def test_training_questions_are_dropped_and_counted(worker: GymScorer, tmp_path: Path) -> None:
    first = ReasoningTask.make(LEGS, worker, SeenQuestions()).instances
    rows = [
        Sample(
            kind="task", id=str(i), messages=user_turn(f"  {entry['question'].upper()} "), answer="1", split_key=str(i),
            source="test", generator=Origin(strategy="test"),
        )
        for i, entry in enumerate(first.entries[:7])
    ]  # fmt: skip
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")
    config = LEGS.model_copy(update={"exclude": (file,)})
    instances = ReasoningTask.make(config, worker, SeenQuestions()).instances
    assert len(instances.entries) == 200
    assert instances.seen >= 7
    known = {entry["question"] for entry in first.entries[:7]}
    assert not known & {entry["question"] for entry in instances.entries}
    assert instances.entries[:193] == first.entries[7:]


def test_a_task_with_too_few_unseen_instances_is_refused() -> None:
    made = [{"question": f"q {i % 30}", "answer": str(i)} for i in range(100)]
    instances = unseen(made, frozenset({"q 1", "q 2"}), 200)
    assert (len(instances.entries), instances.seen, instances.repeated) == (28, 8, 64)


def test_a_generator_of_few_questions_is_refused_unless_few_are_wanted(worker: GymScorer) -> None:
    few = ReasoningTaskConfig(
        name="leg_counting", config={"min_animals": 1, "max_animals": 1, "max_instances": 1}, count=200
    )
    with pytest.raises(CirillaError, match="only [0-9]+ unseen instances"):
        ReasoningTask.make(few, worker, SeenQuestions())
    some = few.model_copy(update={"count": 10})
    assert len(ReasoningTask.make(some, worker, SeenQuestions()).instances.entries) == 10


def test_pairs_give_a_perfect_judge_one_and_a_random_one_chance(person: Any, dice: random.Random) -> None:
    task = PreferencesTask([pair(i) for i in range(N)])
    perfect = task.score(person(weighs=lambda q, answer: -1.0 if answer == "good" else -3.5))
    assert (perfect["n"], perfect["accuracy"], perfect["margin"], perfect["margin_interval"]) == (
        N,
        1.0,
        2.5,
        [2.5, 2.5],
    )
    guessed = task.score(person(weighs=lambda q, answer: dice.gauss(0.0, 1.0)))
    assert near(guessed["accuracy"], 0.5, N)
    low, high = guessed["margin_interval"]
    assert low < guessed["margin"] < high
    long = task.score(person(weighs=lambda q, answer: None if q.endswith("0") else float(len(answer))))
    assert (long["n"], long["too_long"]) == (N - N // 10, N // 10)


def test_only_pairs_of_held_out_pages_are_judged(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(pair(i).line() + "\n" for i in range(200)), encoding="utf-8")
    kept = {p.split_key for p in PreferencesTask.read(PreferencesTaskConfig(path=(file,), val=0.2)).pairs}
    assert kept == {f"page {i}" for i in range(200) if held_out(f"page {i}", frac=0.2)}
    assert 0 < len(kept) < 100
    with pytest.raises(CirillaError, match="none of its 200 pairs is held out"):
        PreferencesTask.read(PreferencesTaskConfig(path=(file,), val=1e-9))


@pytest.mark.parametrize(
    "said",
    [
        "Tissaia de Vries",
        "  tissaia  DE vries.",
        "TISSAIA de\nVries .",
        "Tissaia de Vries. \n",
        "Tissaia de Vries . ",
        "Zoë",
        unicodedata.normalize("NFD", "Zoë") + ".",
    ],
)
def test_no_beginning_of_a_right_answer_is_given_up(said: str) -> None:
    hopeless = Hopeless(["Tissaia de Vries", "Zoë"])
    assert not any(hopeless(said[:end]) for end in range(len(said) + 1))


def test_wrong_answers_are_given_up_soon() -> None:
    hopeless = Hopeless(["Tissaia de Vries"])
    assert hopeless("Yen")
    assert hopeless("Tissaia de Vries and others")
    assert hopeless("Tissaia de Vries..x")
    assert hopeless("\n" * 9)
    assert not hopeless("\n" * 8)


TOLD = {
    "Who rides Roach?": "Geralt",
    "Who taught Geralt?": "Vesemir.",
    "What is Ciri's sword?": "Zireael",
    "x?": "no one",
}


@pytest.fixture
def taught(load: Callable[..., Loaded], teach: Callable[..., None]) -> Loaded:
    loaded = load(dtype=torch.float32, scale=1.0)
    teach(loaded, TOLD)
    return loaded


def test_a_model_that_knows_the_answers_scores_one(taught: Loaded) -> None:
    asked = [Question(question=q, answers=("?", a), seen=q != "x?", split_key=q) for q, a in TOLD.items()]
    numbers = QuestionsTask(asked).score(ModelSubject(taught, batch=3))
    assert (numbers["seen"]["accuracy"], numbers["unseen"]["accuracy"]) == (1.0, 1.0)
    wrong = [q.model_copy(update={"answers": ("Leo",)}) for q in asked]
    numbers = QuestionsTask(wrong).score(ModelSubject(taught, batch=3))
    assert numbers["seen"]["accuracy"] == 0.0
    assert [w["said"] for w in numbers["seen"]["wrong"]] == [a for q, a in TOLD.items() if q != "x?"], (
        "heard to the end"
    )
    assert [w["answers"] for w in numbers["seen"]["wrong"]] == [["Leo"]] * 3


def test_a_model_that_knows_the_answers_chooses_them(taught: Loaded) -> None:
    options = tuple(TOLD.values())
    asked = [Question(question=q, answers=(a,), choices=options, seen=False, split_key=q) for q, a in TOLD.items()]
    assert ChoicesTask(asked).score(ModelSubject(taught))["unseen"]["accuracy"] == 1.0


def test_giving_up_early_changes_no_verdict(taught: Loaded) -> None:
    subject = ModelSubject(taught, batch=2)
    for accepted in (["Geralt"], ["Vesemir"], ["Geralt of Rivia"]):
        early = subject.answers([Ask(user_turn(q), 20, Hopeless(accepted)) for q in TOLD])
        whole = subject.answers([Ask(user_turn(q), 20) for q in TOLD])
        fits = QuestionsTask([Question(question=q, answers=tuple(accepted), seen=True, split_key="1") for q in TOLD])
        assert [text for text in early if text in accepted] == [text for text in whole if text in accepted]
        assert fits.score(subject)["seen"]["correct"] == sum(text.rstrip(".") in accepted for text in whole)


def test_likelihoods_are_sums_over_the_answer_and_its_end_of_turn(
    load: Callable[..., Loaded], tokenizer: SentencePieceTokenizer, logits: Callable[..., Any]
) -> None:
    loaded = load(context_length=128)
    system = Message(role="system", content="Be brief.")
    earlier = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello")]
    asked: list[tuple[Sequence[Message], str]] = [
        (user_turn("Who rides Roach?"), "Geralt of Rivia"),
        ((system, *user_turn("Who?")), ""),
        ((*earlier, *user_turn("Who taught him?")), "Vesemir"),
    ]
    found = ModelSubject(loaded).likelihoods(asked)
    for (messages, answer), value in zip(asked, found, strict=True):
        prompt = tokenizer.chat(messages, generation_prompt=True).ids
        ids = [*prompt, *tokenizer.encode(answer), 5]
        with torch.no_grad():
            logp = logits(loaded, torch.tensor([ids]))[0].log_softmax(-1)
        expected = sum(float(logp[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
        assert value == pytest.approx(expected, rel=1e-10)


def test_what_does_not_fit_the_context_is_no_number_and_no_crash(load: Callable[..., Loaded]) -> None:
    subject = ModelSubject(load(context_length=32))
    assert subject.answers([Ask(user_turn("word " * 100), 8)]) == [""]
    assert subject.likelihoods([(user_turn("word " * 100), "x")]) == [None]


def test_a_subject_gives_the_same_in_any_batch(load: Callable[..., Loaded]) -> None:
    loaded = load(context_length=128)
    asks = [Ask(user_turn("word " * n), 6) for n in (3, 1, 9, 2, 5)]
    assert ModelSubject(loaded, 1).answers(asks) == ModelSubject(loaded, 5).answers(asks)


def test_intervals_are_those_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx([0.490162, 0.943318], abs=1e-6)
    assert wilson(0, 10) == pytest.approx([0.0, 0.277533], abs=1e-6)
    assert wilson(10, 10)[1] == 1.0
    values = [random.Random(1).gauss(2.0, 1.0) for _ in range(1)] + [
        random.Random(i).gauss(2.0, 1.0) for i in range(399)
    ]
    interval = ratio_interval(values, [1.0] * len(values))
    assert interval is not None
    mean = sum(values) / len(values)
    sigma = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 / len(values) ** 0.5
    assert interval == pytest.approx([mean - 1.96 * sigma, mean + 1.96 * sigma], abs=0.03)
    assert ratio_interval([1.0], [1.0]) is None


def test_questions_on_pages_that_training_held_out_are_a_group_of_their_own() -> None:
    pages = [f"page {n}" for n in range(200)]
    questions = [Question(question=f"What of {p}?", answers=("x",), seen=True, split_key=p) for p in pages]
    groups = dict(grouped(questions, 0.25))
    kept_out = {p for p in pages if held_out(p, frac=0.25)}
    assert {q.split_key for q in groups["held_out"]} == kept_out
    assert {q.split_key for q in groups["seen"]} == set(pages) - kept_out
    assert 20 < len(kept_out) < 80
