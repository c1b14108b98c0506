"""Repetitions go, the first row stays, and distinct rows of one template stay too."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.curate.duplicates import Deduper, Entry
from cirilla_cli.data.rows import Document, Message, Origin, Sample

ROOT = Path(__file__).parents[2]
WORDS = ["river", "stone", "lantern", "bridge", "winter", "market", "sorrow", "copper", "meadow", "hollow", "anchor"]


def chat(
    number: int, question: str, answer: str, teacher: str | None = "ollama:x", strategy: str = "teacher/qa"
) -> Sample:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    origin = Origin(strategy=strategy, teacher=teacher)
    return Sample(kind="chat", id=str(number), messages=turns, split_key="1", source="s", generator=origin)


def task(number: int, question: str, answer: str) -> Sample:
    turns = (Message(role="user", content=question),)
    origin = Origin(strategy="reasoning-gym/x")
    fields: dict[str, Any] = {"split_key": "1", "source": "s", "generator": origin, "answer": answer}
    return Sample(kind="task", id=str(number), messages=turns, **fields)


def free_texts(count: int, seed: int = 5) -> list[str]:
    """Sentences of random words; two thirds are earlier ones with a few letters changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 0 or not texts:
            texts.append(" ".join(rng.choices(WORDS, k=rng.randint(12, 30))))
            continue
        letters = list(rng.choice(texts))
        for _ in range(rng.randint(1, 6)):
            letters[rng.randrange(len(letters))] = rng.choice("abcdef ")
        texts.append("".join(letters))
    return texts


def five_grams(text: str) -> set[str]:
    plain = " ".join(text.split())
    return {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}


def found_in(texts: list[str], **settings: Any) -> list[Any]:
    deduper = Deduper(DuplicatesConfig(**settings))
    return list(deduper.entries(Entry(str(number), text, "chat") for number, text in enumerate(texts)))


def test_near_duplicates_are_those_of_brute_force() -> None:
    """The first row that stayed, by exact Jaccard over all pairs; the turns have no numbers, names or punctuation."""
    texts, deduper = free_texts(500), Deduper(DuplicatesConfig())
    samples = [chat(number, "what about it?", text) for number, text in enumerate(texts)]
    kept: list[tuple[str, set[str]]] = []
    missed = 0
    for sample, (_, _, duplicate) in zip(samples, deduper.checked(("s", s) for s in samples), strict=True):
        grams = five_grams(f"user what about it assistant {sample.messages[1].content}")
        near = [(id_, len(grams & other) / len(grams | other)) for id_, other in kept]
        first = next((found for found in near if found[1] >= 0.8), None)
        if duplicate is None:
            missed += first is not None
            kept.append((sample.id, grams))
            continue
        assert duplicate.similarity == dict(near)[duplicate.kept] >= 0.8, sample.id
        assert duplicate.method == "near" or duplicate.similarity == 1
    assert missed <= 0.02 * len(texts)
    assert 100 < len(kept) < 400


def test_a_low_threshold_finds_what_is_less_alike() -> None:
    texts = free_texts(200)
    dropped = [found is not None for found in found_in(texts, threshold=0.4)]
    kept: list[set[str]] = []
    missed = 0
    for text, gone in zip(texts, dropped, strict=True):
        near = any(len(five_grams(text) & other) >= 0.4 * len(five_grams(text) | other) for other in kept)
        missed += near and not gone
        assert near or not gone
        if not gone:
            kept.append(five_grams(text))
    assert missed <= 0.02 * len(texts)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
@example(574503, 2)
def test_rows_may_come_one_at_a_time_or_all_at_once(seed: int, cut: int) -> None:
    texts = free_texts(60, seed)
    texts += [texts[0], texts[3].upper(), texts[5] + "!"]
    together = found_in(texts)
    deduper = Deduper(DuplicatesConfig())
    entries = [Entry(str(number), text, "chat") for number, text in enumerate(texts)]
    parts = [entries[start : start + cut] for start in range(0, len(entries), cut)]
    assert [found for part in parts for found in deduper.entries(part)] == together


def test_rows_beyond_one_block_and_one_batch_are_compared() -> None:
    """600 distinct rows, then each again with a letter changed: every second one goes, for the row that it repeats."""
    rng = random.Random(1)
    texts = [" ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(30)) for _ in range(600)]
    found = found_in(texts + [text + "x" for text in texts])
    assert [None if one is None else one.kept for one in found] == [None] * 600 + [str(n) for n in range(600)]


def test_the_same_rows_go_in_every_process() -> None:
    script = (
        "import json, sys; from cirilla_cli.curate.config import DuplicatesConfig;"
        "from cirilla_cli.curate.duplicates import Deduper, Entry;"
        "rows = [Entry(str(n), t, 'chat') for n, t in enumerate(json.load(sys.stdin))];"
        "print([found and found.row() for found in Deduper(DuplicatesConfig()).entries(rows)])"
    )
    texts = json.dumps(free_texts(200))
    said = {
        subprocess.run(
            [sys.executable, "-c", script], input=texts, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert "near" in said.pop()


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


def test_of_two_sources_the_one_named_first_stays() -> None:
    rows = [("best", chat(1, "Who is Odo?", "A smith.")), ("rest", chat(1, "Who is Odo?", "A smith."))]
    found = [duplicate for _, _, duplicate in Deduper(DuplicatesConfig()).checked(rows)]
    assert found[0] is None
    assert found[1] is not None
    assert found[1].row() == {
        "dropped": "1", "kept": "1", "similarity": 1.0, "method": "exact", "source": "rest", "kept_source": "best",
    }  # fmt: skip


def test_one_question_with_two_answers_is_two_rows() -> None:
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(chat(1, "Who is Odo?", "A smith.", None)) is None
    assert deduper.check(chat(2, "Who is Odo?", "A baker.", None)) is None


LONG = "according to everything that is known about the people of the valley and of the hills"


def test_rows_of_one_template_stay() -> None:
    deduper = Deduper(DuplicatesConfig(same_facts=False))
    rows = [
        chat(n, f"What is the occupation of {name} {LONG}?", "Smith", None, "fandom/infobox")
        for n, name in enumerate("ab")
    ]
    assert [deduper.check(row) for row in rows] == [None, None]


def test_imported_rows_are_free_text() -> None:
    deduper = Deduper(DuplicatesConfig(same_facts=False))
    assert deduper.check(chat(1, f"What is the occupation of Odo {LONG}?", "Smith", None, "import")) is None
    found = deduper.check(chat(2, f"What is the occupation of Ado {LONG}?", "Smith", None, "import"))
    assert found is not None
    assert found.method == "near"


def test_a_document_and_a_conversation_never_repeat_one_another() -> None:
    deduper = Deduper(DuplicatesConfig())
    said = chat(1, "q", LONG)
    assert deduper.check(said) is None
    assert deduper.check(Document(id="2", title="t", text=f"user: q\nassistant: {LONG}")) is None


def test_tasks_that_differ_in_a_sign_stay() -> None:
    deduper = Deduper(DuplicatesConfig())
    assert deduper.check(task(1, "What is 3 - 3?", "0")) is None
    assert deduper.check(task(2, "What is 3 / 3?", "0")) is None
    assert deduper.check(task(3, "What is  3 - 3?", "0")) is not None


def test_no_distinct_task_is_lost_however_alike_its_siblings_are() -> None:
    deduper = Deduper(DuplicatesConfig(same_facts=False))
    rows = [task(n, f"Here is a task. {LONG}, add {n % 50} to one.", str(n % 50 + 1)) for n in range(100)]
    found = [duplicate for _, _, duplicate in deduper.checked(("s", row) for row in rows)]
    assert [duplicate is None for duplicate in found] == [True] * 50 + [False] * 50


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


def test_exact_matching_lets_other_spelling_pass() -> None:
    deduper = Deduper(DuplicatesConfig(match="exact"))
    assert deduper.check(chat(1, "Q?", "A smith.")) is None
    assert deduper.check(chat(2, "Q?", "a smith")) is None
    assert deduper.check(chat(3, "Q?", "A smith.")) is not None


def test_texts_too_short_for_a_gram_and_in_any_script_are_compared() -> None:
    assert [found is not None for found in found_in(["", "ab", "AB!", "\U0001d54f", "!?", "\u65e5\u672c"])] == [
        False, False, True, False, True, False,
    ]  # fmt: skip
