"""What counts as equal, and what counts as supported."""

import pytest

from cirilla_cli.data.rows import Document
from cirilla_cli.verify.literal import unsupported
from cirilla_cli.verify.match import matches, normalise


@pytest.mark.parametrize("given", ["White Wolf", "white  wolf", " WHITE WOLF. ", "White\nWolf", "white wolf ."])
def test_case_spacing_and_one_final_full_stop_do_not_matter(given: str) -> None:
    assert matches(given, ["Butcher", "White Wolf"])


@pytest.mark.parametrize("given", ["White Wolf..", "White-Wolf", "The White Wolf", "White Wol", ""])
def test_anything_else_matters(given: str) -> None:
    assert not matches(given, ["White Wolf"])


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert normalise("Angoule\u0302me") == normalise("Angoul\u00eame")


PAGE = Document.model_validate(
    {"id": "1", "title": "Roach", "text": "A bay mare.", "infobox": [{"label": "Colour", "values": ["Bay", "Brown"]}]}
)


@pytest.mark.parametrize(("answer", "evidence"), [("Bay, Brown", ["Bay", "Brown"]), ("bay", ["A bay mare."])])
def test_what_stands_in_the_page_is_supported(answer: str, evidence: list[str]) -> None:
    assert unsupported(answer, evidence, PAGE) is None


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [("Bay", []), ("White", ["Bay"]), ("white", ["A white mare."]), ("Brown, Bay", ["Bay", "Brown"])],
)
def test_what_does_not_is_not(answer: str, evidence: list[str]) -> None:
    assert unsupported(answer, evidence, PAGE) is not None
