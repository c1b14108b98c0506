"""Rules over a small wiki: every answer stands in its page, and nothing held out is trained on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data.rows import Document, held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.phrases import fill, load_phrases, parse_phrases, plain_label, possessive, subject_of
from cirilla_cli.synth.run import synthesize
from cirilla_cli.verify.derived import recomputed

ALL = ["infobox", "lead", "section", "alias", "reverse", "list", "true_false", "unanswerable"]


def page(number: int, title: str, text: str, aliases: tuple[str, ...] = (), **box: Any) -> Document:
    facts = [
        {"label": label.replace("_", " ").capitalize(), "values": [values] if isinstance(values, str) else values}
        for label, values in box.items()
    ]
    history = f"{title} has a history of {number} parts. It is long."
    return Document.model_validate(
        {
            "id": str(number), "title": title, "text": f"{text}\n\nHistory\n\n{history}", "aliases": aliases,
            "infobox": facts, "sections": [{"level": 2, "heading": "History", "text": history}],
        }
    )  # fmt: skip


WIKI = [
    page(1, "Odo", "Odo is a smith. He forges.", ("Hammer Odo",), occupation="Smith", home="Brook", hair="Red",
         eyes="Grey", weapon=["Hammer", "Tongs"], shoe_size="44"),
    page(2, "Ilsa", "Ilsa was a weaver of note.", ("Lady Ilsa",), occupation="Weaver", home="Brook", hair="Black",
         eyes="Green", weapon="Needle", shoe_size="38"),
    page(3, "Bram", "Bram is a miller.", ("Old Bram",), occupation="Miller", home="Dale", hair="Grey", eyes="Brown",
         shoe_size="41"),
    page(4, "Battle of Dale", "The Battle of Dale was short.", leader="Odo", outcome="Draw", season="Spring"),
    page(5, "Flood of Brook", "The Flood of Brook was long.", leader="Ilsa", outcome="Loss", season="Autumn"),
]  # fmt: skip


def write(folder: Path, documents: list[Document]) -> Path:
    path = folder / "documents.jsonl"
    path.write_text("".join(document.line() + "\n" for document in documents), encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def made(folder: Path, documents: list[Document] = WIKI, out: str = "out", **options: Any) -> Path:
    config = {"source": {"kind": "fandom", "makes": ALL, **options}, "inputs": str(write(folder, documents))}
    synthesize(SynthConfig.model_validate(config), folder / out, Silent())
    return folder / out


def normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def test_every_extracted_answer_stands_in_its_evidence_and_that_in_the_page(tmp_path: Path) -> None:
    pages = {document.id: document for document in WIKI}
    checked: Counter[str] = Counter()
    for row in rows(made(tmp_path) / "samples.jsonl"):
        rule = row["generator"]["strategy"].split("/")[1]
        if rule in ("infobox", "lead", "section"):
            document = json.loads(pages[row["parents"][0]].line())
            said = [document["text"], *(value for fact in document["infobox"] for value in fact["values"])]
            answer = row["messages"][1]["content"]
            assert answer in row["evidence"] or answer == ", ".join(row["evidence"])
            assert all(any(piece in text for text in said) for piece in row["evidence"])
            checked[rule] += 1
    assert checked["infobox"] == 4 * sum(len(document.infobox) for document in WIKI)
    assert checked["lead"] == 4 * len(WIKI) == checked["section"]


def test_every_derived_row_follows_from_the_documents(tmp_path: Path) -> None:
    from cirilla_cli.data.rows import Sample

    pages = {document.id: document for document in WIKI}
    checked: Counter[str] = Counter()
    for row in rows(made(tmp_path) / "samples.jsonl"):
        rule = row["generator"]["strategy"].split("/")[1]
        if rule not in ("infobox", "lead", "section"):
            assert recomputed(Sample.model_validate(row), pages) is None, row
            checked[rule] += 1
    whole_wiki = {"alias", "reverse", "list", "true_false", "unanswerable", "preference"}
    assert set(checked) == whole_wiki | {"text_claim", "unmentioned"}


def test_a_false_derived_row_is_found_out(tmp_path: Path) -> None:
    from cirilla_cli.data.rows import Sample

    pages = {document.id: document for document in WIKI}
    for row in rows(made(tmp_path) / "samples.jsonl"):
        rule = row["generator"]["strategy"].split("/")[1]
        if rule in ("alias", "reverse", "list", "true_false"):
            swapped = {"True": "False", "False": "True"}.get(row["messages"][1]["content"], "Nobody")
            row["messages"][1]["content"] = swapped
            assert recomputed(Sample.model_validate(row), pages) is not None
        if rule == "preference":
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
            assert recomputed(Sample.model_validate(row), pages) is not None


def test_held_out_phrasings_never_stand_in_training_rows(tmp_path: Path) -> None:
    out = made(tmp_path)
    trained = {
        normal(m["content"]) for row in rows(out / "samples.jsonl") for m in row["messages"] if m["role"] == "user"
    }
    questions = rows(out / "questions.jsonl")
    facts = sum(len(document.infobox) for document in WIKI)
    assert [q["seen"] for q in questions].count(True) == facts
    assert [q["seen"] for q in questions].count(False) == facts
    for question in questions:
        assert (normal(question["question"]) in trained) == question["seen"]
    assert {q["split_key"] for q in questions} == {document.id for document in WIKI}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = made(tmp_path, out="a"), made(tmp_path, out="b")
    for name in ("samples", "questions", "rejects", "duplicates"):
        assert (first / f"{name}.jsonl").read_bytes() == (second / f"{name}.jsonl").read_bytes()


def test_added_pages_do_not_change_the_phrasings_of_a_fact(tmp_path: Path) -> None:
    def asked(out: Path) -> list[str]:
        return [r["id"] for r in rows(out / "samples.jsonl") if r["generator"]["strategy"] == "fandom/infobox"]

    fewer, more = asked(made(tmp_path, WIKI[:2], "few")), asked(made(tmp_path, WIKI, "more"))
    assert set(fewer) < set(more)


def test_a_preference_is_a_right_and_a_wrong_value_of_similar_length(tmp_path: Path) -> None:
    pairs = [row for row in rows(made(tmp_path) / "samples.jsonl") if row["kind"] == "preference"]
    pages = {document.id: document for document in WIKI}
    assert len(pairs) >= 10
    for pair in pairs:
        values = [value for fact in pages[pair["parents"][0]].infobox for value in fact.values]
        assert pair["chosen"] == ", ".join(pair["evidence"])
        assert pair["rejected"] not in values
        assert 0.5 <= len(pair["rejected"]) / len(pair["chosen"]) <= 2
        assert pair["split_key"].startswith(pair["parents"][0] + "/")
        assert pair["generator"]["strategy"].endswith("not-a-value-of-this-page")


def test_two_pages_of_one_title_give_no_question_with_two_answers(tmp_path: Path) -> None:
    twin = page(6, "Odo", "Odo is a baker.", occupation="Baker")
    out = made(tmp_path, [*WIKI, twin])
    answers: dict[str, set[str]] = {}
    for row in rows(out / "samples.jsonl"):
        if row["kind"] == "chat":
            answers.setdefault(normal(row["messages"][0]["content"]), set()).add(normal(row["messages"][1]["content"]))
    assert all(len(different) == 1 for different in answers.values())
    assert "the question already has another answer" in {row["reason"] for row in rows(out / "rejects.jsonl")}


def test_options_choose_what_is_made(tmp_path: Path) -> None:
    out = made(tmp_path, makes=["infobox"], preferences=False, phrasings=2, facts_per_page=1, held_out_phrasings=0)
    strategies = Counter(row["generator"]["strategy"] for row in rows(out / "samples.jsonl"))
    assert strategies == {"fandom/infobox": 2 * len(WIKI)}
    assert all(question["seen"] for question in rows(out / "questions.jsonl"))
    reasons = Counter(row["reason"] for row in rows(out / "rejects.jsonl"))
    assert reasons["more facts than facts_per_page"] == sum(len(document.infobox) - 1 for document in WIKI)


def test_values_that_cannot_be_asked_for_are_rejected_with_a_reason(tmp_path: Path) -> None:
    box = {"Name": "Odo", "Title": "Odo", "home": [], "hair": "x" * 500, "job": "Smith", "occupation": "S"}
    odd = page(1, "Odo", "Odo is a smith.", **box)
    reasons = {row.get("label"): row["reason"] for row in rows(made(tmp_path, [odd]) / "rejects.jsonl")}
    assert reasons["Name"] == "a label that is no fact"
    assert reasons["Title"] == "the value repeats the title"
    assert reasons["Home"] == "no value"
    assert reasons["Hair"] == "the value is too long"
    assert reasons["Occupation"] == "another label of the page asks the same"


def test_enough_pairs_of_a_fact_key_fall_on_each_side_of_a_split(tmp_path: Path) -> None:
    keys = {row["split_key"] for row in rows(made(tmp_path) / "samples.jsonl") if row["kind"] == "preference"}
    assert 0 < sum(held_out(key, frac=0.5) for key in keys) < len(keys)


@pytest.mark.parametrize(
    ("label", "values", "expected"),
    [
        ("Shoe_size", ["44"], "Which shoe size is listed for Odo?"),
        ("Trade", ["Wool", "Salt"], "What is Odo's trade?"),
        ("Shoe size", ["44"], "What is Odo's shoe size?"),
        ("Hobbies", ["Chess", "Go"], "What are Odo's hobbies?"),
        ("Alias", ["Smith"], "What is Odo's other name?"),
        ("Alias", ["Smith", "Hammer"], "What are Odo's other names?"),
        ("Weapon", ["Hammer", "Tongs"], "Which weapons can Odo be seen with?"),
        ("Born", ["1204"], "When was Odo born?"),
        ("Born", ["Brook"], "Where was Odo born?"),
    ],
)
def test_questions_read_as_english(label: str, values: list[str], expected: str) -> None:
    group = load_phrases(None).find(label, ", ".join(values))
    asked = [fill(t, "Odo", plain_label(label), many=len(values) > 1) for t in group.templates]
    assert expected in asked
    assert len(set(asked)) >= 5


def test_one_alias_is_asked_for_in_the_singular(tmp_path: Path) -> None:
    out = made(tmp_path, [page(1, "Odo", "Odo is a smith.", alias="Hammer")], makes=["infobox"], preferences=False)
    assert not any("names" in row["question"] for row in rows(out / "questions.jsonl"))


def test_every_group_has_a_phrasing_to_spare() -> None:
    table = load_phrases(None)
    for group in table._groups:
        assert len({fill(t, "Odo", "thing", many=False) for t in group.templates}) >= 5, group.key


@pytest.mark.parametrize(
    ("title", "text", "subject"),
    [
        ("Battle of Dale", "It was short.", "the Battle of Dale"),
        ("Drowner", "A drowner is a monster.", "a drowner"),
        ("Lodge", "The Lodge is a house.", "the Lodge"),
        ("Odo", "Odo is a smith.", "Odo"),
    ],
)
def test_a_title_gets_the_article_that_its_page_gives_it(title: str, text: str, subject: str) -> None:
    assert subject_of(Document(id="1", title=title, text=text)) == subject


def test_names_that_end_in_s_take_a_bare_apostrophe() -> None:
    assert (possessive("Regis"), possessive("Odo")) == ("Regis'", "Odo's")


def test_a_phrase_table_of_ones_own_comes_first(tmp_path: Path) -> None:
    table = tmp_path / "mine.txt"
    table.write_text("home\n  Whither does {x} go at night?\n  Whither for {x}?\n")
    out = made(tmp_path, makes=["infobox"], preferences=False, phrases=str(table))
    questions = [row["messages"][0]["content"] for row in rows(out / "samples.jsonl")]
    assert sum("Whither" in question for question in questions) == 3


def test_every_mistake_in_a_phrase_table_is_named_with_its_line() -> None:
    with pytest.raises(CirillaError) as caught:
        parse_phrases("  early {x}?\nhome\n  no subject?\n  {y} of {x}?\nempty\n", "mine.txt")
    assert [where.line for where in caught.value.where] == [1, 3, 4, None, None]
    assert "mine.txt:4: only {x}" in str(caught.value)


LEADS = {
    "Ilsa was a weaver of note.": "was",
    "Ilsa is a weaver of note.": "is",
    "Ilsa, who was born in Brook, is a weaver.": "is",
    "Ilsa, who is sung of to this day, was a weaver.": "was",
    "Ilsa was a weaver who is remembered in Brook.": "was",
    "Ilsa was a weaver and is now the queen of Brook.": "is",
    "Ilsa was born in Brook. She is its best weaver.": "is",
    "Ilsa was a weaver of Brook. It is said that she sang.": "was",
    "Ilsa was a weaver. She was kind.": "was",
}


@pytest.mark.parametrize("lead", LEADS)
def test_a_subject_is_asked_for_in_the_tense_of_its_lead(lead: str, tmp_path: Path) -> None:
    document = page(1, "Ilsa", lead, occupation="Weaver", gender="Woman")
    out = made(tmp_path, [document], makes=["lead"], phrasings=6)
    asked = {row["messages"][0]["content"] for row in rows(out / "samples.jsonl")}
    verb = LEADS[lead]
    assert {f"Who {verb} Ilsa?", f"In one sentence, who {verb} Ilsa?"} <= asked
