"""What is read from a page: expected texts are written by hand, and both readings must give them."""

# Pages are written as a wiki sends them, in long lines.
# ruff: noqa: E501

import html
import re
from typing import Any

import pytest

from cirilla_cli.scrape.html import read_html
from cirilla_cli.scrape.page import outline
from cirilla_cli.scrape.templates import Templates
from cirilla_cli.scrape.wikitext import read_wikitext

GERALT = """Evil is evil.
Geralt, to a mage

Geralt doesn't say "[1 to 3]" without reason. He's from Kaer Morhen \u2014 the Sea Witchers' keep; R\u00e9gis & Ang\u00ealme know.

Skills

- Signs
  - Fire
  - Aard
- Alchemy

1. First
2. Second

Oil
for blades

Prices

What it costs
Thing | Price
Drowner | 10, crowns
Cat | one, two
 | last

Other tales

Other people say 5 < 6 and [[this]] is {{raw}}.

See the site."""
FACTS = [
    ("Occupation", ("witcher",)),
    ("Also known as", ("White Wolf", "Butcher of Blaviken", "Gwynbleidd")),
    ("Weapons & tools", ("Steel sword", "Silver sword")),
    ("Born", ("unknown",)),
    ("plain", ("as it is",)),
]
CIRI = """Ciri is the child of Geralt's fate, and this says it at some length.

First line,
second line.

An indented line

a word kept."""


def _templates(wiki: Any) -> Templates:
    return Templates({page.title: page.text for page in wiki.pages if page.ns == 10})


def _facts(reading: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(fact.label, fact.values) for fact in reading.infobox]


def test_wikitext_gives_the_text_and_the_facts_that_stand_on_the_page(wiki: Any) -> None:
    reading = read_wikitext(wiki.page("Geralt of Rivia").text, "Geralt of Rivia", _templates(wiki))
    assert outline(reading.blocks)[0] == GERALT
    assert _facts(reading) == [fact for fact in FACTS if fact[0] != "plain"] + [("plain", ("as it is",))]
    assert set(reading.categories) == {"Witchers", "Characters"}


def test_html_gives_the_text_and_the_facts_that_stand_on_the_page(wiki: Any) -> None:
    reading = read_html(wiki.page("Geralt of Rivia").html)
    assert outline(reading.blocks)[0] == GERALT
    assert _facts(reading)[:4] == FACTS[:4]


def test_sections_keep_level_heading_and_their_own_text(wiki: Any) -> None:
    sections = outline(read_html(wiki.page("Geralt of Rivia").html).blocks)[1]
    assert [(s.level, s.heading) for s in sections] == [(2, "Skills"), (3, "Prices"), (2, "Other tales")]
    assert sections[1].text.startswith("What it costs\n")


def test_poems_indents_and_unknown_templates_read_alike(wiki: Any) -> None:
    page = wiki.page("Ciri")
    assert outline(read_html(page.html).blocks)[0] == CIRI
    assert outline(read_wikitext(page.text, "Ciri", _templates(wiki)).blocks)[0] == CIRI


def test_an_infobox_without_its_template_page_keeps_field_names() -> None:
    reading = read_wikitext("{{Infobox person|name=X|image=y.png|born=1200<br>1201}} text", "X", Templates())
    assert _facts(reading) == [("born", ("1200", "1201"))]


def test_templates_that_include_one_another_end() -> None:
    pages = {"A": "{{B}}{{B}}{{B}}", "B": "{{A}}{{A}}{{A}} word"}
    reading = read_wikitext("{{A}} after", "X", Templates(pages))
    assert outline(reading.blocks)[0].endswith("after")


def test_templates_that_multiply_end() -> None:
    pages = {f"T{n}": f"{{{{T{n + 1}}}}}" * 10 for n in range(9)} | {"T9": "word"}
    reading = read_wikitext("{{T0}} after", "X", Templates(pages))
    assert outline(reading.blocks)[0].endswith("after")


def test_a_missing_argument_gives_its_default(wiki: Any) -> None:
    reading = read_wikitext("{{Quote|Only this.}}", "X", _templates(wiki))
    assert outline(reading.blocks)[0] == "Only this.\nUnknown"


def test_switch_falls_through_to_the_next_result() -> None:
    pages = {"S": "{{#switch:{{{1}}}|a|b=second|#default=other}}"}
    texts = [outline(read_wikitext(f"x{{{{S|{v}}}}}y", "X", Templates(pages)).blocks)[0] for v in "abz"]
    assert texts == ["xsecondy", "xsecondy", "xothery"]


def test_a_function_the_parser_takes_for_text_leaves_no_markup() -> None:
    text = "It has {{#ifexpr: 2 > 1 | more | fewer }} towers{{#ifexpr: 2<3|,}}."
    assert outline(read_wikitext(text, "X", Templates()).blocks)[0] == "It has towers."


@pytest.mark.parametrize("alone", ["<nowiki/>", "<nowiki />", "<NOWIKI/>", "<pre/>", "<math/>"])
def test_a_tag_that_closes_itself_shields_nothing_after_it(alone: str) -> None:
    page = f"The ''hunter''{alone}s of [[Town 1|the town]] say <nowiki>''[[this]]''</nowiki>."
    assert outline(read_wikitext(page, "T", Templates()).blocks)[0] == "The hunters of the town say ''[[this]]''."


def test_a_padded_number_is_the_number_and_not_its_padding() -> None:
    reading = read_wikitext("Number {{padleft:7|3|0}} of {{padright:{{lc:NINE}}|9}}.", "X", Templates())
    assert outline(reading.blocks)[0] == "Number 7 of nine."


def test_text_in_tabs_and_quotes_is_kept() -> None:
    text = "{{Dialogue|One says|Another}}\n<tabber>First=Alpha text\n|-|Second=Beta [[text]]</tabber>"
    assert outline(read_wikitext(text, "X", Templates()).blocks)[0] == "One says\nAnother\n\nAlpha text\n\nBeta text"


def test_values_after_a_list_are_values_of_their_own() -> None:
    html = """<aside class="portable-infobox"><div class="pi-data" data-source="k"><h3 class="pi-data-label">K</h3>
    <div class="pi-data-value"><ul><li>a</li><li>b</li></ul><b>c</b>d</div></div></aside>"""
    assert _facts(read_html(html)) == [("K", ("a", "b", "cd"))]


def test_horizontal_and_old_infoboxes_give_facts() -> None:
    html = """<aside class="portable-infobox"><table class="pi-horizontal-group"><thead><tr><th class="pi-data-label">Price</th>
    <th class="pi-data-label">Weight</th></tr></thead><tbody><tr><td class="pi-data-value">10</td><td class="pi-data-value">2</td>
    </tr></tbody></table></aside><table class="infobox"><tr><th colspan="2">Head</th></tr><tr><th>Born</th><td>1 May</td></tr>
    </table><p>Prose.</p>"""
    reading = read_html(html)
    assert _facts(reading) == [("Price", ("10",)), ("Weight", ("2",)), ("Born", ("1 May",))]
    assert outline(reading.blocks)[0] == "Prose."


def test_nothing_but_elements_removes_references() -> None:
    text = "<p>From [1 to 3] and [note]<sup class='reference'>[1]</sup>, x[2] stays.</p>"
    assert outline(read_html(text).blocks)[0] == "From [1 to 3] and [note], x[2] stays."


UNNAMED = """<aside class="portable-infobox"><table class="pi-horizontal-group"><thead><tr>NAMES</tr></thead><tbody><tr>VALUES</tr>
</tbody></table><section class="pi-smart-group"><section><h3 class="pi-smart-data-label" data-source="c">Cost</h3></section>
<section><div class="pi-smart-data-value" data-source="d">dear</div><div class="pi-smart-data-value" data-source="c">5</div>
</section></section></aside>"""


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ('<th class="pi-data-label" data-source="b">Weight</th>', [("a", ("10",)), ("Weight", ("2",))]),
        ('<th></th><th class="pi-data-label">Weight</th>', [("a", ("10",)), ("Weight", ("2",))]),
        ('<th class="pi-data-label">Weight</th>', [("a", ("10",)), ("b", ("2",))]),
    ],
    ids=["by source", "by place", "unknown"],
)
def test_a_cell_without_a_label_takes_no_other_cells(names: str, first: list[tuple[str, tuple[str, ...]]]) -> None:
    cells = '<td class="pi-data-value" data-source="a">10</td><td class="pi-data-value" data-source="b">2</td>'
    box = UNNAMED.replace("NAMES", names).replace("VALUES", cells)
    assert _facts(read_html(box)) == [*first, ("d", ("dear",)), ("Cost", ("5",))]


PANEL = """<aside class="portable-infobox"><section class="pi-item pi-panel"><div class="pi-section-navigation">
<div class="pi-section-tab" data-ref="0"><div class="pi-section-label">Normal</div></div>
<div class="pi-section-tab" data-ref="1"><div class="pi-section-label">Hard</div></div></div>
<div class="pi-section-contents"><div class="pi-section-content" data-ref="0"><div class="pi-item pi-data" data-source="hp">
<h3 class="pi-data-label">HP</h3><div class="pi-data-value">10</div></div></div><div class="pi-section-content" data-ref="1">
<div class="pi-item pi-data" data-source="hp2"><h3 class="pi-data-label">HP</h3><div class="pi-data-value">20</div></div></div>
</div></section></aside>"""
PANEL_TEMPLATE = """<infobox><panel><section><label>Normal</label><data source="hp"><label>HP</label></data></section>
<section><label>Hard</label><data source="hp2"><label>HP</label></data></section></panel></infobox>"""


def test_the_facts_of_tabs_name_their_tab() -> None:
    facts = [("HP (Normal)", ("10",)), ("HP (Hard)", ("20",))]
    assert _facts(read_html(PANEL)) == facts
    assert _facts(read_html(re.sub(' data-ref="."', "", PANEL))) == facts
    assert _facts(read_wikitext("{{Foe|hp=10|hp2=20}}", "X", Templates({"Foe": PANEL_TEMPLATE}))) == facts


FORMULAS = [  # wikitext, what a wiki's renderer states of it, what both readings give
    ("<math>E = mc^2</math>", r"{\displaystyle E=mc^{2}}", "$E=mc^2$"),
    (
        r"<math>\int_0^\infty e^{-x^2}\,dx</math>",
        r"{\displaystyle \int _{0}^{\infty }e^{-x^{2}}\,dx}",
        r"$\int_0^\infty e^{-x^2}\,dx$",
    ),
    (r"<math display=block>\frac{{a}}{b}</math>", r"{\displaystyle {\frac {{a}}{b}}}", r"$\frac{{a}}{b}$"),
    ("<math>a &lt; b < c</math>", r"{\displaystyle a<b<c}", "$a<b<c$"),
    (r"<math>\{a\} + \alpha b</math>", r"{\displaystyle \{a\}+\alpha b}", r"$\{a\}+\alpha b$"),
    ("<ce>H2O</ce>", r"{\displaystyle {\ce {H2O}}}", r"$\ce{H2O}$"),
]
FRAMES = [
    '<span class="mwe-math-element"><span style="display: none;"><math alttext="TEX"><semantics><mi>x</mi>'
    '<annotation encoding="application/x-tex">TEX</annotation></semantics></math></span>'
    '<img class="mwe-math-fallback-image-inline" alt="TEX"></span>',
    '<span class="katex"><span class="katex-mathml"><math><semantics><mi>x</mi><annotation encoding="application/x-tex">'
    'TEX</annotation></semantics></math></span><span class="katex-html"><span>x</span></span></span>',
    '<math><semantics><mi>x</mi><annotation encoding="application/x-tex">TEX</annotation></semantics></math>',
    '<img class="tex" alt="TEX">', '<span class="mwe-math-fallback-source-inline tex">$ TEX $</span>',
]  # fmt: skip


@pytest.mark.parametrize("frame", FRAMES, ids=["element", "katex", "annotation", "picture", "source"])
@pytest.mark.parametrize(("source", "stated", "shown"), FORMULAS)
def test_formulas_stay_as_tex_in_both_readings(frame: str, source: str, stated: str, shown: str) -> None:
    rendered = frame.replace("TEX", html.escape(stated))
    assert outline(read_html(f"<p>with {rendered} and</p>").blocks)[0] == f"with {shown} and"
    assert outline(read_wikitext(f"with {source} and", "X", Templates()).blocks)[0] == f"with {shown} and"


def test_formulas_from_templates_and_in_infoboxes_stay() -> None:
    pages = Templates({"Law": "by <math>F = ma</math>"})
    assert outline(read_wikitext("It goes {{Law}}.", "X", pages).blocks)[0] == "It goes by $F=ma$."
    box = read_wikitext("{{Infobox law|formula=<math>F = {{m}}a</math>}} text", "X", pages)
    assert _facts(box) == [("formula", ("$F={{m}}a$",))]


def test_no_markup_is_left_in_the_bundled_style_of_page(wiki: Any) -> None:
    for page in wiki.pages:
        if page.ns == 0 and page.id >= 100:
            text = outline(read_wikitext(page.text, page.title, Templates()).blocks)[0]
            assert not re.search(r"\[\[|\]\]|\{\{|<[a-z]", text)
