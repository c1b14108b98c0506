"""Repetitions go, the first row stays, and distinct rows of one template stay too."""

import random
from typing import Any

from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.curate.duplicates import Deduper
from cirilla_cli.data.rows import Message, Origin, Sample

WORDS = ["river", "stone", "lantern", "bridge", "winter", "market", "sorrow", "copper", "meadow", "hollow", "anchor"]


def chat(number: int, question: str, answer: str, teacher: str | None = "ollama:x") -> Sample:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    origin = Origin(strategy="teacher/qa", teacher=teacher)
    return Sample(kind="chat", id=str(number), messages=turns, split_key="1", source="s", generator=origin)


def task(number: int, question: str, answer: str) -> Sample:
    turns = (Message(role="user", content=question),)
    origin = Origin(strategy="reasoning-gym/x")
    fields: dict[str, Any] = {"split_key": "1", "source": "s", "generator": origin, "answer": answer}
    return Sample(kind="task", id=str(number), messages=turns, **fields)


def free_text(count: int) -> list[Sample]:
    """Sentences of random words; two thirds are earlier ones with a few letters changed."""
    rng = random.Random(5)
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 0 or not texts:
            texts.append(" ".join(rng.choices(WORDS, k=rng.randint(12, 30))))
            continue
        letters = list(rng.choice(texts))
        for _ in range(rng.randint(1, 6)):
            letters[rng.randrange(len(letters))] = rng.choice("abcdef ")
        texts.append("".join(letters))
    return [chat(number, "what about it?", text) for number, text in enumerate(texts)]


def five_grams(text: str) -> set[str]:
    plain = " ".join(text.split())
    return {plain[i : i + 5] for i in range(len(plain) - 4)}


def test_near_duplicates_are_those_of_brute_force() -> None:
    """Keep-first by exact Jaccard over all pairs; the turns have neither numbers, names nor punctuation inside."""
    samples, deduper = free_text(300), Deduper(DuplicatesConfig())
    kept: list[tuple[str, set[str]]] = []
    for sample in samples:
        grams = five_grams(f"user what about it assistant {sample.messages[1].content}")
        near = [(len(grams & other) / len(grams | other), id_) for id_, other in kept]
        best = max((found for found in near if found[0] >= 0.8), key=lambda found: found[0], default=None)
        duplicate = deduper.check(sample)
        assert (duplicate is not None) == (best is not None), sample.id
        if duplicate is not None and best is not None:
            assert abs(duplicate.similarity - best[0]) < 1e-9
        else:
            kept.append((sample.id, grams))
    assert 50 < len(kept) < 250


def test_equal_rows_and_rows_equal_up_to_punctuation_go() -> None:
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(chat(1, "Who is Odo?", "A smith.", None)) is None
    exact, loose = (
        deduper.check(chat(2, "Who is Odo?", "A smith.", None)),
        deduper.check(chat(3, "who is  odo", "A SMITH", None)),
    )
    assert exact is not None
    assert (exact.kept, exact.method) == ("1", "exact")
    assert loose is not None
    assert (loose.kept, loose.method) == ("1", "normalised")


def test_one_question_with_two_answers_is_two_rows() -> None:
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(chat(1, "Who is Odo?", "A smith.", None)) is None
    assert deduper.check(chat(2, "Who is Odo?", "A baker.", None)) is None


def test_rows_of_one_template_stay() -> None:
    deduper, long = Deduper(DuplicatesConfig()), "according to everything that is known about the people of the valley"
    assert deduper.check(chat(1, f"What is the occupation of Odo {long}?", "Smith", None)) is None
    assert deduper.check(chat(2, f"What is the occupation of Ada {long}?", "Smith", None)) is None


def test_tasks_that_differ_in_a_sign_stay() -> None:
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(task(1, "What is 3 - 3?", "0")) is None
    assert deduper.check(task(2, "What is 3 / 3?", "0")) is None
    assert deduper.check(task(3, "What is  3 - 3?", "0")) is not None


def test_free_text_that_differs_in_a_number_or_a_name_stays() -> None:
    text = "a long description of how the {} of the valley came down the road in the year {} with all that they owned"
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(chat(1, "Q?", text.format("Odos", 1204))) is None
    assert deduper.check(chat(2, "Q?", text.format("Odos", 1205))) is None
    assert deduper.check(chat(3, "Q?", text.format("Adas", 1204))) is None
    dropped = deduper.check(chat(4, "Q?", text.format("Odos", 1204).replace("came down", "came along")))
    assert dropped is not None
    assert (dropped.kept, dropped.method) == ("1", "near")


def test_near_duplicates_stay_when_they_are_not_looked_for() -> None:
    deduper, long = Deduper(DuplicatesConfig(match="normalised")), "a long description of how they came down the road "
    assert deduper.check(chat(1, "Q?", long + "then")) is None
    assert deduper.check(chat(2, "Q?", long + "them")) is None
