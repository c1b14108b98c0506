"""Rows that hold an evaluation text go, rows that do not stay, and what is seen is exempt."""

import json
import random
import re
from pathlib import Path

import pytest

from cirilla_cli.curate.config import ContaminationConfig
from cirilla_cli.curate.decontaminate import Decontaminator, EvalSet, EvalText, Leak, read_eval_sets
from cirilla_cli.data.rows import Document, Message, Origin, Question, Sample
from cirilla_cli.errors import CirillaError

WORDS = [
    f"{a}{b}" for a in ("riv", "ston", "lant", "brid", "wint", "mark", "sorr", "copp") for b in ("er", "el", "ow", "en")
]


def document(text: str, number: int = 0) -> Document:
    return Document(id=str(number), title="t", text=text)


def against(*texts: str, span: int = 50) -> Decontaminator:
    named = tuple(EvalText(f"q{number}", text) for number, text in enumerate(texts))
    return Decontaminator(ContaminationConfig(span=span), [EvalSet("exam", named)])


def leak(rows: Decontaminator, text: str) -> Leak | None:
    return rows.check(document(text))


QUESTION = "Which of the seven rivers of the northern hills turns the wheels of the old copper mill?"


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"Somebody asked: {QUESTION} Nobody knew.",
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  ").replace("?", ""),
        f'"{QUESTION}"',
        f"{QUESTION[:-1]} and those of the new one too",
    ],
)
def test_a_text_that_stands_in_a_row_whole_is_found(text: str) -> None:
    found = leak(against("Who is Odo?", QUESTION), text)
    assert found is not None
    assert (found.set, found.text, found.span, found.words) == ("exam", "q1", 17, 17)


def test_one_word_of_a_short_text_replaced_is_another_text() -> None:
    assert leak(against(QUESTION), QUESTION.replace("seven", "eight")) is None


def test_a_short_question_must_fill_a_sentence() -> None:
    rows = against("Who is Odo?")
    assert leak(rows, "Hello there. Who is Odo? A smith.") is not None
    assert leak(rows, "question\nwho is odo\nanswer") is not None
    assert leak(rows, "I know who is Odo the smith.") is None


def test_a_sum_that_goes_on_is_another_sum() -> None:
    rows = against("Calculate 3 + 4 * 5", "State the final answer to this arithmetic problem: 3 + 4 * 5")
    assert leak(rows, "Calculate 3 + 4 * 5 - 7") is None
    assert leak(rows, "Calculate 3 - 4 * 5") is None
    assert leak(rows, "Calculate 3 + 4 * 5.") is not None
    assert leak(rows, "State the final answer to this arithmetic problem: 3 + 4 * 5 - 7") is None
    assert leak(rows, "State the final answer to this arithmetic problem: 3 + 4 * 5") is not None


def longest_common_run(left: str, right: str) -> int:
    """Words in a row that both have, by the table of all pairs."""
    a, b = (re.findall(r"\w+", text.lower()) for text in (left, right))
    table, best = [0] * (len(b) + 1), 0
    for word in a:
        table = [0] + [table[j] + 1 if word == other else 0 for j, other in enumerate(b)]
        best = max(best, *table)
    return best


def test_long_texts_leak_by_runs_as_the_table_of_all_pairs_has_them() -> None:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=120)) for _ in range(8)]
    rows, found = against(*texts, span=20), 0
    for number in range(150):
        own, source = rng.choices(WORDS, k=60), rng.choice(texts).split()
        start, length = rng.randrange(90), rng.randint(10, 30)
        place = rng.randrange(40)
        text = " ".join(own[:place] + source[start : start + length] + own[place:])
        longest = max(longest_common_run(text, other) for other in texts)
        hit = rows.check(document(text, number))
        assert (hit is not None) == (longest >= 20)
        if hit is not None:
            assert hit.span == longest
            found += 1
    assert 40 < found < 110


def test_what_the_texts_of_a_set_share_is_no_leak() -> None:
    template = " ".join(WORDS[:32]) + " and here it is: "
    tasks = [template + " ".join(random.Random(n).choices(WORDS, k=12)) for n in range(40)]
    rows = against(*tasks)
    assert leak(rows, template + "something else") is None
    found = leak(rows, f"x {tasks[7]} y")
    assert found is not None
    assert found.text == "q7"


def test_a_long_task_leaks_whole_and_not_by_its_instructions() -> None:
    template = " ".join(WORDS) + " and " + " ".join(reversed(WORDS)) + ", and now add the numbers"
    rows = against(*(f"{template} {n} and {n + 1} and {n + 2}" for n in range(100, 140, 2)))
    assert leak(rows, f"{template} 100 and 101 and 103") is None
    found = leak(rows, f"{template} 110 and 111 and 112")
    assert found is not None
    assert found.text == "q5"


def test_every_turn_and_answer_of_a_sample_is_looked_at() -> None:
    turns = (Message(role="user", content="Tell me."), Message(role="assistant", content="I will."))
    origin = Origin(strategy="import")
    plain = Sample(kind="chat", id="1", messages=turns, split_key="1", source="s", generator=origin)
    asked = plain.model_copy(update={"messages": (Message(role="user", content=QUESTION), turns[1])})
    pair = plain.model_copy(
        update={"kind": "preference", "messages": turns[:1], "chosen": "Yes.", "rejected": QUESTION}
    )
    rows = against(QUESTION)
    assert [found is not None for _, _, found in rows.checked([("s", plain), ("s", asked), ("s", pair)])] == [0, 1, 1]


def test_the_rows_may_come_in_any_batches() -> None:
    rows = [("s", document(QUESTION if n % 7 == 0 else " ".join(WORDS[n % 9 :]), n)) for n in range(50)]
    together, one = against(QUESTION), against(QUESTION)
    assert [found for _, _, found in together.checked(rows)] == [one.check(row, source) for source, row in rows]
    assert together.report() == one.report()
    assert together.report()["exam"]["rows"] == 8


def test_texts_marked_as_seen_are_exempt_and_counted() -> None:
    texts = (EvalText("a", QUESTION, seen=True), EvalText("b", "Who is Odo?"))
    rows = Decontaminator(ContaminationConfig(), [EvalSet("facts", texts)])
    assert leak(rows, QUESTION) is None
    assert leak(rows, "Who is Odo?") is not None
    assert rows.report() == {
        "facts": {
            "texts": 2, "seen": 1, "leaked": 1, "leaked_share": 1.0, "resembled": 0, "resembled_share": 0.0, "rows": 1,
        }
    }  # fmt: skip


def test_a_text_in_other_words_is_reported_and_stays() -> None:
    rows = against(QUESTION, *(" ".join(random.Random(n).choices(WORDS, k=12)) for n in range(30)))
    assert leak(rows, "Of the northern hills' seven rivers, which one turns the old copper mill's wheels?") is None
    assert leak(rows, "Which of the four roads of the southern plain leads to the new iron gate?") is None
    assert rows.report()["exam"]["resembled"] == 1


def test_sets_are_read_from_questions_samples_and_text(tmp_path: Path) -> None:
    question = Question(question=QUESTION, answers=("the first",), seen=True, split_key="1")
    (tmp_path / "q.jsonl").write_text(question.line() + "\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Who is Odo?", "answer": "A smith."}) + "\n")
    (tmp_path / "page.txt").write_text("A page.\n", encoding="utf-8")
    sets = read_eval_sets({name: [tmp_path / name] for name in ("q.jsonl", "rows.jsonl", "page.txt")})
    assert [[(text.text.strip(), text.seen) for text in found.texts] for found in sets] == [
        [(QUESTION, True)], [("Who is Odo?", False)], [("A page.", False)],
    ]  # fmt: skip


def test_a_set_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(CirillaError, match="holds no text"):
        read_eval_sets({"exam": [tmp_path / "none.jsonl"]})


def test_rows_are_compared_with_nothing_where_all_is_seen() -> None:
    rows = Decontaminator(ContaminationConfig(), [EvalSet("facts", (EvalText("a", QUESTION, seen=True),))])
    assert leak(rows, QUESTION) is None
