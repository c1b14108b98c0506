"""Rows from running text: supported by their page alone, the same every time, and untouched by other pages.

The oracle of support is benchmarks/synth_quality.py, which shares no code with the product.
"""

import importlib.util
import json
import random
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import FactKind, FandomConfig
from cirilla_cli.synth.fandom import Fandom
from cirilla_cli.synth.kinds.noise import mistyped
from cirilla_cli.synth.kinds.statements import falsified
from cirilla_cli.synth.outline import sections_of, sentences, statements
from cirilla_cli.synth.phrases import subject_of
from cirilla_cli.verify.derived import recomputed


def _checker() -> ModuleType:
    """The script, by its path: what is installed may have a package `benchmarks` too."""
    path = Path(__file__).parents[2] / "benchmarks" / "synth_quality.py"
    spec = importlib.util.spec_from_file_location("synth_quality", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synth_quality = _checker()
supported = synth_quality.supported

DERIVED = {"alias", "reverse", "list", "true_false", "text_claim", "unanswerable", "unmentioned", "preference"}
NAMES = ["Odo", "Ilsa", "Bram", "Kaer Dale", "Wild Moor", "Red Guild"]
SENTENCES = st.sampled_from([
    "{x} was a smith who worked in Dale Town until 1204.", "{x} is the oldest of 35 houses in the valley of Brook.",
    "He fled to Low Keep with the help of Anna of Brook.", "The council of Dale Town met {x} in the year 1180.",
    "The mill (built by Anna) stands near the river Brook.", "After the war {x} lived in Low Keep for 12 years.",
    'People called it "the old mill" for many years.', "It rained.", "What did {x} want?", "Was gone.Then he was back.",
])  # fmt: skip
HEADINGS = st.sampled_from(["History", "Early life", "Quick Answers", "The long war", "Notes", "In Dale"])


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    titles = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True))
    return [draw(pages(title, str(number))) for number, title in enumerate(titles)]


@st.composite
def pages(draw: st.DrawFn, title: str, id: str) -> Document:
    def paragraph() -> str:
        return " ".join(draw(st.lists(SENTENCES, min_size=1, max_size=3))).replace("{x}", title)

    parts = [(draw(HEADINGS), paragraph()) for _ in range(draw(st.integers(0, 3)))]
    text = "\n\n".join([paragraph(), *(f"{heading}\n\n{told}" for heading, told in parts)])
    marked = [{"level": 2, "heading": heading, "text": told} for heading, told in parts] if draw(st.booleans()) else []
    labels = draw(st.lists(st.sampled_from(["Home", "Weapon", "Leader", "Eyes"]), max_size=3, unique=True))
    box = [
        {"label": label, "values": draw(st.lists(st.sampled_from(["Dale", "Axe", "Grey"]), min_size=1))}
        for label in labels
    ]
    return Document.model_validate({"id": id, "title": title, "text": text, "sections": marked, "infobox": box})


def made(wiki: list[Document], **options: Any) -> list[Sample]:
    config = FandomConfig(makes=get_args(FactKind), **options)
    return [row for row in Fandom(config).make(iter(wiki), Silent()) if isinstance(row, Sample)]


def kind(row: Sample) -> str:
    return row.generator.strategy.split("/")[1]


def of_kind(rows: list[Sample], name: str) -> list[Sample]:
    return [row for row in rows if kind(row) == name]


def as_pages(wiki: list[Document]) -> dict[str, Any]:
    return {page.id: json.loads(page.line()) for page in wiki}


@settings(max_examples=30, deadline=None)
@given(documents())
def test_every_row_is_supported_by_its_pages(wiki: list[Document]) -> None:
    known, raw = {page.id: page for page in wiki}, as_pages(wiki)
    for row in made(wiki):
        assert supported(json.loads(row.line()), raw), row
        if kind(row) in DERIVED:
            assert recomputed(row, known) is None, row


@settings(max_examples=20, deadline=None)
@given(documents(), st.data())
def test_without_a_page_the_rows_that_do_not_name_it_are_the_same_and_rows_repeat(
    wiki: list[Document], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(wiki)).id
    before = made(wiki)
    assert made(wiki) == before
    after = {row.line() for row in made([page for page in wiki if page.id != gone])}
    assert [row for row in before if gone not in row.parents and row.line() not in after] == []


@settings(max_examples=20, deadline=None)
@given(documents(), st.integers(1, 3))
def test_a_page_gives_no_more_of_each_kind_than_allowed(wiki: list[Document], most: int) -> None:
    counts = Counter((kind(row), row.split_key) for row in made(wiki, each_per_page=most))
    assert all(count <= most for (name, _), count in counts.items() if name in ("cloze", "noise", "text_claim"))
    assert all(count <= 1 for (name, _), count in counts.items() if name in ("multi_turn", "unmentioned"))


ODO = Document.model_validate(
    {
        "id": "1", "title": "Odo",
        "text": "Odo was a master smith of Dale Town in 1204. He forged his first sword for Anna of Brook.\n\n"
        "History\n\nOdo left Dale Town with 35 men and went to Low Keep, and his sword with him.",
        "sections": [
            {"level": 2, "heading": "History", "text": "Odo left Dale Town with 35 men and went to Low Keep, and his "
             "sword with him."},
            {"level": 2, "heading": "Works", "text": "- A sword\n- Two axes"},
            {"level": 2, "heading": "Quick Answers", "text": "Who was Odo's wife?\nIlsa.\nProvided by: a wiki\n"
             "Q: Where did he live?\nA: In Dale Town."},
        ],
        "infobox": [{"label": "Occupation", "values": ["Smith"]}, {"label": "Gender", "values": ["Male"]}],
    }
)  # fmt: skip


def test_a_page_answers_its_own_questions() -> None:
    rows = of_kind(made([ODO]), "quick_answers")
    assert [[message.content for message in row.messages] for row in rows] == [
        ["Who was Odo's wife?", "Ilsa."], ["Where did he live?", "In Dale Town."]
    ]  # fmt: skip


def test_a_list_under_a_heading_is_asked_for() -> None:
    rows = of_kind(made([ODO]), "listed")
    assert {row.messages[1].content for row in rows} == {"A sword, Two axes"}
    assert all('"Works"' in row.messages[0].content for row in rows)


def test_a_conversation_names_its_subject_once_and_then_says_his() -> None:
    (chain,) = of_kind(made([ODO]), "multi_turn")
    asked = [message.content for message in chain.messages if message.role == "user"]
    assert "Odo" in asked[0]
    assert not any("Odo" in question for question in asked[1:])
    assert sum("his" in question.split() for question in asked) == 2
    assert [message.content for message in chain.messages][3] == "He forged his first sword for Anna of Brook."


def test_a_gap_hides_a_name_or_a_number_and_not_the_subject() -> None:
    for row in of_kind(made([ODO], each_per_page=9), "cloze"):
        gap = row.messages[1].content
        assert gap in ("Dale Town", "1204", "35", "Low Keep")
        assert row.messages[0].content.count("____") == 1


def test_a_false_statement_stands_nowhere_in_its_page() -> None:
    said = statements(ODO)
    wrong = [falsified(sentence, ODO) for sentence in said]
    assert wrong[0] == "Odo was not a master smith of Dale Town in 1204."
    assert wrong[1] is not None
    assert re.sub(r"\d+", "", wrong[1]) == re.sub(r"\d+", "", said[1])
    assert not any(claim in ODO.text for claim in wrong if claim is not None)


@given(st.sampled_from(["What is Odo's home?", 'What stands under "The early years" there?', "Tell me about Odo."]),
       st.integers())  # fmt: skip
def test_typing_noise_changes_letters_of_plain_words_only(question: str, seed: int) -> None:
    typed = mistyped(question, "Odo", random.Random(seed))
    assert typed is not None
    letters = re.sub(r"\W", "", question.casefold())
    assert re.sub(r"\W", "", typed.casefold()) != letters
    assert abs(len(re.sub(r"\W", "", typed)) - len(letters)) <= 1
    assert ("odo" in typed.casefold()) == ("Odo" in question)
    assert ('"The early years"' in typed) == ("early" in question)


def test_noise_is_laid_over_no_question_that_two_pages_answer_differently() -> None:
    twin = Document(id="2", title="Odo", text="Odo was a baker who never left his village on the moor.")
    rows = made([ODO, twin], phrasings=99, each_per_page=99)
    clean = {row.messages[1].content for row in rows if row.split_key == "2" and kind(row) in ("lead", "section")}
    assert clean == set()
    assert [row for row in of_kind(rows, "noise") if row.split_key == "2"] == []
    assert [row for row in of_kind(rows, "noise") if row.split_key == "1"]


def test_a_number_that_the_page_has_elsewhere_makes_no_false_statement() -> None:
    sentence = "Odo left Dale Town with 35 men and went to Low Keep, and his sword with him."
    wrong = falsified(sentence, ODO)
    assert wrong is not None
    other = re.findall(r"\d+", wrong)[0]
    assert falsified(sentence, ODO.model_copy(update={"text": f"{ODO.text} There were {other} of them."})) is None


def test_a_sentence_with_a_but_is_not_negated() -> None:
    page = Document(
        id="1", title="Odo", text="Odo was a smith at first but lived as a miller for the rest of his life."
    )
    assert falsified(page.text, page) is None


def test_a_question_without_a_plain_word_gets_no_noise() -> None:
    assert mistyped('Who is "the one"?', "Odo", random.Random(1)) is None


PLAIN = """Odo
"I took the coin!"
- Odo to Bram
Odo was a smith of Dale Town, and a friend of the king of that place.
Quick Answers
Biography
Early life
Born in Dale Town, Odo was the eldest of the nine children of a miller.
Known works
A sword
Two axes
In the war
The hammer, forged in the war, was the last of his many works for the king."""


def test_headings_of_plain_text_are_told_from_list_items() -> None:
    page = Document(id="1", title="Odo", text=PLAIN)
    assert [section.heading for section in sections_of(page)] == ["Quick Answers", "Biography", "Early life"]
    asked = [row.messages[0].content for row in of_kind(made([page]), "section")]
    assert asked
    assert all('"Early life"' in question for question in asked)


def test_a_quotation_above_the_text_is_not_taken_for_the_lead() -> None:
    page = Document(id="1", title="Odo", text=PLAIN)
    answers = {row.messages[1].content for row in of_kind(made([page]), "lead")}
    assert answers == {"Odo was a smith of Dale Town, and a friend of the king of that place."}


@pytest.mark.parametrize(
    ("title", "text", "subject"),
    [
        ("Ghoul", "Ghoul\nGhouls are beasts that feed on the dead in old graves.", "ghouls"),
        ("Fishing village", "Fishing village\nFive poor huts are all of the fishing village.", "the fishing village"),
        ("King Odo mask", "King Odo mask\nKing Odo mask is a mask that nobody has ever worn.", "the King Odo mask"),
        ("Ada_The series", "Ada/The series\nAda was a queen of the north, and no friend of Odo.", "Ada (The series)"),
        ("Palace (Dale)", "Palace (Dale)\nThe Palace in Dale is the seat of the old king.", "the Palace (Dale)"),
    ],
)  # fmt: skip
def test_titles_of_plain_text_read_as_english(title: str, text: str, subject: str) -> None:
    assert subject_of(Document(id="1", title=title, text=text)) == subject


def test_sentences_end_neither_at_initials_nor_at_dates_of_birth() -> None:
    text = "Odo (b. 1180, d. 1204) met A. B. Bram at St. Ilsa's. He left."
    assert list(sentences(text)) == ["Odo (b. 1180, d. 1204) met A. B. Bram at St. Ilsa's.", "He left."]


def test_the_checker_finds_rows_that_are_not_supported() -> None:
    """The oracle itself: each kind, spoiled, is refused."""
    other = Document(
        id="2", title="Wild Moor", text="The moor lies in the far north, where nobody has lived since 1100."
    )
    raw = as_pages([ODO, other])
    rows = {kind(row): json.loads(row.line()) for row in made([ODO, other])}
    swapped = {"True": "False", "False": "True"}
    for name in ("infobox", "lead", "section", "cloze", "quick_answers", "listed", "noise", "multi_turn", "text_claim",
                 "unmentioned"):  # fmt: skip
        assert supported(rows[name], raw), name
        answer = rows[name]["messages"][1]["content"]
        rows[name]["messages"][1]["content"] = swapped.get(answer, "Nobody knows")
        assert not supported(rows[name], raw), name


def test_the_checker_prints_shares_and_draws_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "documents.jsonl").write_text(ODO.line() + "\n", "utf-8")
    (tmp_path / "samples.jsonl").write_text("".join(row.line() + "\n" for row in made([ODO])), "utf-8")
    drawn = []
    for name in ("a", "b"):
        arguments = [str(tmp_path / "samples.jsonl"), str(tmp_path), "--draw", "5", "--to", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", ["synth_quality", *arguments])
        assert synth_quality.main() == 0
        drawn.append((tmp_path / name).read_text("utf-8"))
    assert drawn[0] == drawn[1]
    assert drawn[0].count("\n  Q: ") >= 5
    assert "100.00% supported" in capsys.readouterr().out
