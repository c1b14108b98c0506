"""Quality filters: every kind of the union drops what it is for and keeps plain prose; measures against plain loops."""

import random
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from cirilla_cli.curate.base import Refused
from cirilla_cli.curate.config import (
    BoilerplateConfig,
    FilterSection,
    Language,
    LanguageConfig,
    LengthConfig,
    RepetitionConfig,
)
from cirilla_cli.curate.language import language_of
from cirilla_cli.curate.repetition import repeated_gram_share, repeated_share, top_share
from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.errors import CirillaError

PROSE = """\
The old mill stands where the river bends, and for many years nobody had any use for it but the swallows.
In spring the water rises to the second step of its door, and children of the village sail their boats inside.

One winter a miller from the south bought it for a small sum, put new teeth into the wheel and began to grind.
People who had walked for half a day with their sacks now came before breakfast and were home again by noon."""

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "length": ({"min_chars": 20}, "Too short.", "too few characters"),
    "repetition": ({}, "Buy now.\nBuy now.\nBuy now.\nOr not.", "repeated lines"),
    "words": ({}, "a b c d e f g 1 2", "words too short"),
    "language": (
        {},
        "Die alte Muehle steht an dem Fluss, und seit vielen Jahren hat sie niemand mehr genutzt, nur die Schwalben "
        "wohnen noch in ihr und ziehen im Herbst mit den anderen fort.",
        "another language",
    ),
}
"""For each filter that judges texts alone: its options, a text it drops, and why."""
KINDS = {section.model_fields["kind"].default: section for section in get_args(get_args(FilterSection)[0])}


def page(text: str, key: str = "1") -> Document:
    return Document(id=key, title="T", text=text)


def chat(*turns: str) -> Sample:
    roles = ("user", "assistant")
    return Sample.model_validate({
        "kind": "chat", "id": "1", "split_key": "1", "source": "s", "generator": {"strategy": "test"},
        "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)],
    })  # fmt: skip


def test_every_kind_has_its_case_here() -> None:
    assert set(KINDS) == {*BAD, "boilerplate"}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_prose_passes_unchanged(kind: str) -> None:
    rule, row = KINDS[kind]().build(), page(PROSE)
    rule.look(row, "wiki")
    assert rule.apply(row, "wiki") == row


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_text_goes_with_its_reason_and_the_number_that_says_so(kind: str) -> None:
    options, text, reason = BAD[kind]
    found = KINDS[kind].model_validate(options).build().apply(page(text), "wiki")
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert found.numbers


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_goes_and_a_bad_question_does_not(kind: str) -> None:
    """What is learnt is the answer; a user may write as users do."""
    options, text, reason = BAD[kind]
    rule = KINDS[kind].model_validate(options).build()
    good = chat(text, PROSE)
    assert rule.apply(good, "s") == good
    found = rule.apply(chat("Why?", PROSE, "And then?", text), "s")
    assert isinstance(found, Refused)
    assert found.reason == reason


# Measures, by Gopher's words in plain loops


def repeated_in_loops(parts: list[str]) -> tuple[float, float]:
    count = chars = 0
    for i in range(len(parts)):
        for j in range(i):
            if parts[j] == parts[i]:
                count, chars = count + 1, chars + len(parts[i])
                break
    return count / len(parts), chars / sum(len(part) for part in parts)


def grams_in_loops(words: list[str], n: int) -> float:
    marked = [False] * len(words)
    for i in range(len(words) - n + 1):
        for j in range(i):
            if words[j : j + n] == words[i : i + n]:
                for k in range(i, i + n):
                    marked[k] = True
    return sum(len(w) for w, m in zip(words, marked, strict=True) if m) / sum(len(word) for word in words)


def test_repeated_lines_and_ngrams_are_those_of_plain_loops() -> None:
    draw = random.Random(0)
    for _ in range(60):
        words = [draw.choice(("a", "bb", "ccc", "dddd")) for _ in range(draw.randrange(1, 40))]
        assert repeated_share(words) == pytest.approx(repeated_in_loops(words), abs=1e-12)
        for n in (2, 5, 7):
            assert repeated_gram_share(words, n) == pytest.approx(grams_in_loops(words, n), abs=1e-12)


def test_the_commonest_gram_counts_every_character_of_its_occurrences_once() -> None:
    assert top_share(["of", "the", "x", "of", "the", "yy"], 2) == 10 / 13
    assert top_share(["no", "gram", "stands", "here", "twice"], 2) == 0.0
    assert top_share(["na"] * 8, 2) == 1.0  # occurrences that overlap


def test_short_texts_are_not_judged_by_ngrams() -> None:
    text = "He is a witcher of the School of the Wolf and the best known of the hunters of the age."
    assert isinstance(RepetitionConfig(min_words=5).build().apply(page(text), "s"), Refused)
    assert RepetitionConfig().build().apply(page(text), "s") == page(text)


def test_limits_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be at least min_chars"):
        LengthConfig(min_chars=10, max_chars=9)


# Languages: article 1 of the Universal Declaration of Human Rights

ARTICLE_1 = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
    "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de "
    "consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
    "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}


@pytest.mark.parametrize("language", get_args(Language))
def test_every_language_that_can_be_named_is_told(language: str) -> None:
    assert language_of(ARTICLE_1[language])[0] == language


@pytest.mark.parametrize(
    "text", ["", "42 + 17 = 59", "Geralt Yennefer Ciri", "x = f(y); return z " * 8, "Vesemir Lambert Eskel " * 9]
)
def test_what_cannot_be_told_is_undecided_and_stays_unless_asked_otherwise(text: str) -> None:
    assert language_of(text)[0] is None
    assert LanguageConfig().build().apply(page(text), "s") == page(text)
    assert isinstance(LanguageConfig(undecided="drop").build().apply(page(text), "s"), Refused)


# Boilerplate


def pages(count: int) -> list[Document]:
    common = "All rights reserved."
    return [
        Document.model_validate({
            "id": str(i), "title": "T", "text": f"Page {i} has a line of its own.\n{common}\nAnd {i} more words.",
            "sections": [{"level": 2, "heading": "H", "text": f"{common}\nKept {i}."}],
        })
        for i in range(count)
    ]  # fmt: skip


def test_a_line_of_many_pages_is_taken_out_of_text_and_sections() -> None:
    rule, rows = BoilerplateConfig(min_pages=3).build(), pages(4)
    for row in rows:
        rule.look(row, "wiki")
    found = rule.apply(rows[2], "wiki")
    assert isinstance(found, Document)
    assert found.text == "Page 2 has a line of its own.\nAnd 2 more words."
    assert found.sections[0].text == "Kept 2."
    assert found.sha256 != rows[2].sha256


def test_few_pages_or_another_source_make_no_boilerplate() -> None:
    rule, rows = BoilerplateConfig(min_pages=4).build(), pages(3)
    for row in rows:
        rule.look(row, "wiki")
    other = page("All rights reserved.")
    rule.look(other, "web")
    assert rule.apply(rows[0], "wiki") == rows[0]
    assert rule.apply(other, "web") == other


def test_a_page_of_boilerplate_alone_goes() -> None:
    rule = BoilerplateConfig(min_pages=2).build()
    rows = [page("Nothing here yet."), page("Nothing here yet.")]
    for row in rows:
        rule.look(row, "wiki")
    found = rule.apply(rows[0], "wiki")
    assert isinstance(found, Refused)
    assert found.reason == "nothing but boilerplate"


def test_samples_have_no_boilerplate() -> None:
    with pytest.raises(CirillaError, match="source `s` holds samples"):
        BoilerplateConfig().build().look(chat("Why?", "Because."), "s")
