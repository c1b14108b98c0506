"""The tree of a wikitext against mwparserfromhell's own, and the quick ways through HTML against Beautiful Soup's."""

from typing import Any

import mwparserfromhell
from bs4 import BeautifulSoup
from bs4.element import Tag
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mwparserfromhell import nodes as theirs

from cirilla_cli.scrape import tree
from cirilla_cli.scrape.html import _LISTS, _nearest, _within, read_html

WIKITEXT = [
    "{{", "}}", "{{{", "}}}", "[[", "]]", "|", "=", "\n", "\n* a", "\n# b", "\n; t : d", "\n== H ==\n", "''", "'''",
    '<ref name="a b" c>', "</ref>", "<ref name = a />", '{| class="x"\n', "\n|-\n", "\n| ", "|| ", "\n! style='q' | ",
    "!!", "\n|+ c", "\n|}\n", "[http://x.org y]", "[http://x.org]", "[http://x.org''y'']", "http://z.org", "&nbsp;",
    "&#65;", "&#x41;", "&no", "<div id=1>", "</div>", "<br>", "<br/>", "</br >", "<li>", "<nowiki>", "</nowiki>",
    "<!-- c -->", "{{T|1=x|y}}", "{{#if:x|a|b}}", "{{{n|d}}}", "----\n", "word", " ", ":", "<span {{T}}>", "</span>",
    "<b a=1 a=2>", "</b>",
]  # fmt: skip
HTML = [
    "<div>", "</div>", "<div class='navbox'>", "<span style='display: NONE'>", "</span>", "<p>", "</p>", "<ul><li>",
    "<li>", "</li>", "</ul>", "<ol>", "</ol>", "<dl><dt>", "<dd>", "</dl>", "<table>", "<caption>c", "<tr><td>", "<td>",
    "<th>", "</table>", "<sup class=reference>", "</sup>", "<script>x</script>", "<figure>", "</figure>", "<br>", "a b",
    "word", "<h2>", "</h2>", "<b>", "</b>", "<i class='toc'>", "</i>", "<nav>", "</nav>", "<!-- c -->",
]  # fmt: skip


def _theirs(code: Any) -> Any:
    """Their nodes as lists and texts."""
    return None if code is None else [_their_node(node) for node in code.nodes]


def _their_node(node: Any) -> Any:
    match node:
        case theirs.Text():
            return str(node.value)
        case theirs.Heading():
            return ["Heading", node.level, _theirs(node.title)]
        case theirs.Wikilink():
            return ["Link", _theirs(node.title), _theirs(node.text)]
        case theirs.ExternalLink():
            return ["Address", node.brackets, _theirs(node.url), _theirs(node.title)]
        case theirs.Template():
            params = [[_theirs(each.name) if each.showkey else None, _theirs(each.value)] for each in node.params]
            return ["Template", _theirs(node.name), params]
        case theirs.Argument():
            return ["Argument", _theirs(node.name), _theirs(node.default)]
        case theirs.Tag():
            values = {str(each.name): str(each.value or "") for each in node.attributes}
            assert all(str(node.get(name).value or "") == values[name] for name in values if node.has(name))
            return ["Tag", str(node.tag).strip().lower(), node.wiki_markup or "", values, _theirs(node.contents)]
    return [type(node).__name__.replace("HTML", ""), str(node)]


def _ours(nodes: tree.Nodes | None) -> Any:
    return None if nodes is None else [_our_node(node) for node in nodes]


def _our_node(node: Any) -> Any:
    match node:
        case str():
            return node
        case tree.Heading():
            return ["Heading", len(node.opening), _ours(node.first)]
        case tree.Link():
            return ["Link", _ours(node.first), _ours(node.second)]
        case tree.Address():
            return ["Address", node.opening == "[", _ours(node.first), _ours(node.second)]
        case tree.Template():
            return ["Template", _ours(node.name), [[_ours(name), _ours(value)] for name, value in node.params]]
        case tree.Argument():
            return ["Argument", _ours(node.first), _ours(node.second)]
        case tree.Tag():
            return ["Tag", node.name, node.markup, node.attributes, _ours(node.contents)]
    return [type(node).__name__, str(node)]


def _templates(code: Any) -> list[str]:
    """What their own search finds, without what stands in the attributes of tags."""
    found = []
    for node in code.nodes:
        found += [str(node)] if isinstance(node, theirs.Template) else []
        parts = [node.contents] if isinstance(node, theirs.Tag) else list(node.__children__())
        found += [name for part in parts for name in _templates(part)]
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WIKITEXT), max_size=40).map("".join))
@example("<b a=1 a=2 c>x</b >")
def test_the_tree_is_that_of_the_parser_and_its_source_the_text(text: str) -> None:
    ours, others = tree.parse(text), mwparserfromhell.parse(text)
    assert _ours(ours) == _theirs(others)
    assert tree.source(ours) == str(others) == text
    assert list(map(str, tree.templates(ours))) == _templates(others)


@settings(deadline=None)
@given(st.lists(st.sampled_from(HTML), max_size=40).map("".join))
def test_the_quick_ways_through_html_find_what_beautiful_soup_finds(html: str) -> None:
    soup = BeautifulSoup(html, "html.parser")
    for tag in [soup, *soup.find_all(True)]:
        assert isinstance(tag, Tag)
        assert list(map(id, _within(tag))) == list(map(id, tag.find_all(True)))
        assert list(map(id, _within(tag, _LISTS))) == list(map(id, tag.find_all(list(_LISTS))))
        assert _nearest(tag, ("table",)) is tag.find_parent("table")


@settings(deadline=None)
@given(st.lists(st.sampled_from(HTML), max_size=40).map("".join))
def test_noise_goes_with_all_that_lies_within(html: str) -> None:
    soup = BeautifulSoup(html, "html.parser")
    noise = ".navbox, .toc, sup.reference, script, figure, nav, [style]"
    while found := soup.select_one(noise):
        found.extract()
    assert read_html(html).blocks == read_html(str(soup)).blocks
