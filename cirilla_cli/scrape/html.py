"""Rendered pages of a wiki to plain text, sections and infobox facts."""

import re
from collections.abc import Container, Iterator

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement, PreformattedString, Tag

from cirilla_cli.data.rows import Fact
from cirilla_cli.scrape.page import Block, Reading
from cirilla_cli.scrape.tex import shown_tex

_NOISE_TAGS = frozenset({
    "script", "style", "noscript", "nav", "figure", "img", "audio", "video", "iframe", "form", "input", "button",
    "svg", "math", "map", "object", "template", "gallery",
})  # fmt: skip
_NOISE_CLASSES = frozenset({
    "mw-editsection", "mw-references-wrap", "references", "reflist", "navbox", "navbox-styles", "noprint", "metadata",
    "toc", "mw-empty-elt", "printfooter", "mw-cite-backlink", "gallery", "wds-tabs__wrapper", "hatnote", "dablink",
    "stub", "thumb", "catlinks", "sistersitebox", "ambox", "mbox-small", "nomobile", "mw-jump-link", "pi-navigation",
    "mw-indicators", "shortdescription", "sidebar", "vertical-navbox", "side-box", "authority-control",
})  # fmt: skip
_BLOCK_TAGS = frozenset({
    "p", "div", "section", "article", "aside", "blockquote", "center", "header", "footer", "main", "details", "summary",
    "figcaption", "address", "fieldset", "hr", "body", "html", "caption",
})  # fmt: skip
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_LISTS = frozenset({"ul", "ol", "dl"})
_BREAKS = frozenset({"br", "li", "p", "div", "ul", "ol", "dl", "dt", "dd", "tr", "table", "hr", "blockquote"})
HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
"""The style of what nobody sees."""
_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")
_DISAMBIGUATION = frozenset({"disambig", "disambigbox", "dmbox-disambig", "disambiguation"})


def read_html(html: str) -> Reading:
    """The reading of a page's rendered HTML, as `action=parse` gives it.

    Noise goes by element, never by pattern, so "[1 to 3]" in prose stays.
    """
    return read_tree(BeautifulSoup(html, "html.parser"))


def read_tree(soup: Tag) -> Reading:
    """The reading of what an element holds, which is taken apart."""
    tags = [(tag, _classes(tag)) for tag in _within(soup)]
    marked = any(not _DISAMBIGUATION.isdisjoint(classes) for _, classes in tags)
    if any([_spell_out(tag) for tag, classes in tags if _is_formula(tag, classes)]):
        tags = [(tag, classes) for tag, classes in tags if not tag.decomposed]
    boxes = [tag for tag, classes in tags if tag.name == "aside" and "portable-infobox" in classes]
    boxes += [tag for tag, classes in tags if tag.name == "table" and "infobox" in classes]
    # From the end: what lies within other noise goes before it.
    for tag in [tag for tag, classes in tags if _is_noise(tag, classes)][::-1]:
        tag.decompose()
    facts = tuple(fact for box in boxes if not box.decomposed for fact in _infobox(box))
    walker = _Walker()
    walker.children(soup)
    return Reading(tuple(walker.finish()), facts, disambiguation=marked)


def _within(tag: Tag, names: Container[str] | None = None) -> list[Tag]:
    """Every element within, or those of these names, in order; four times as fast as `find_all`."""
    found = (node for node in tag.descendants if isinstance(node, Tag))
    return [node for node in found if names is None or node.name in names]


def _nearest(tag: Tag, names: Container[str]) -> Tag | None:
    """The innermost element of these names around one."""
    return next((parent for parent in tag.parents if parent.name in names), None)


def _is_noise(tag: Tag, classes: list[str]) -> bool:
    if tag.name in _NOISE_TAGS:
        return True
    if not tag.attrs:
        return False
    if tag.name == "sup" and "reference" in classes:
        return True
    return not _NOISE_CLASSES.isdisjoint(classes) or bool(HIDDEN.search(str(tag.get("style", ""))))


def _is_formula(tag: Tag, classes: list[str]) -> bool:
    """A formula, or the element in which MediaWiki or KaTeX puts it several times: as MathML, and as what is shown."""
    several = "mwe-math-element" in classes or "katex" in classes
    return several or tag.name == "math" or ("tex" in classes and tag.name in ("img", "span"))


def _spell_out(tag: Tag) -> bool:
    """Put a formula's TeX in its place, if it has any and has not been replaced together with what it lies in."""
    if tag.decomposed:
        return False
    tex = next(filter(None, map(_tex, (tag, *_within(tag)))), None)
    if tex is None:
        return False
    tag.insert_before(shown_tex(tex))
    tag.decompose()
    return True


def _tex(tag: Tag) -> str:
    """The TeX that an element states: as the alternative to a formula or a picture, or as an annotation."""
    if tag.name == "math":
        return str(tag.get("alttext", "")).strip()
    if tag.name == "img":
        return str(tag.get("alt", "")).strip()
    stated = tag.get("encoding") == "application/x-tex" or "tex" in _classes(tag)
    return tag.get_text().strip().strip("$").strip() if stated else ""


def _classes(tag: Tag) -> list[str]:
    value = tag.get("class")
    return value if isinstance(value, list) else []


def _infobox(box: Tag) -> Iterator[Fact]:
    """The facts of an infobox, which leaves the tree."""
    if box.name == "aside":
        yield from _portable(box)
    else:
        for row in box.find_all("tr"):
            if row.th and row.td:
                yield from _named(_flat(row.th), row.td)
    box.decompose()


def _portable(box: Tag) -> Iterator[Fact]:
    """Facts of a portable infobox: plain rows, horizontal groups and smart groups, in tabs or not."""
    for item in box.find_all(class_=["pi-data", "pi-horizontal-group", "pi-smart-group"]):
        tab = _tab(item)
        for label, value in _cells(item):
            yield from _named(f"{label} ({tab})" if label and tab else label, value)


def _cells(item: Tag) -> Iterator[tuple[str, Tag]]:
    """Label and value of a row, or those of a group, which belong together by source, or else by place."""
    if "pi-data" in _classes(item):
        value, label = _first(item, "pi-data-value"), _first(item, "pi-data-label")
        if value is not None:
            yield _flat(label) if label else str(item.get("data-source", "")), value
        return
    kind = "pi-smart-data" if "pi-smart-group" in _classes(item) else "pi-data"
    names = item.find_all(class_=f"{kind}-label")
    labels = {str(name.get("data-source", "")) or _place(name): _flat(name) for name in names}
    for value in item.find_all(class_=f"{kind}-value"):
        source = str(value.get("data-source", ""))
        yield labels.get(source) or labels.get(_place(value)) or source, value


def _place(cell: Tag) -> tuple[int, int]:
    """(cells before it, cells behind it): rows of unequal length do not tell which label a value has."""
    before, behind = cell.previous_siblings, cell.next_siblings
    return sum(isinstance(node, Tag) for node in before), sum(isinstance(node, Tag) for node in behind)


def _tab(item: Tag) -> str:
    """The name of the tab of a panel in which an item stands; empty outside, and where the tabs are not named."""
    content = next((tag for tag in item.parents if "pi-section-content" in _classes(tag)), None)
    panel = next((tag for tag in item.parents if "pi-panel" in _classes(tag)), None)
    if content is None or panel is None:
        return ""
    names, contents = panel.find_all(class_="pi-section-label"), panel.find_all(class_="pi-section-content")
    for name, own in zip(names, contents, strict=True) if len(names) == len(contents) else ():
        reference = name.get("data-ref") or (name.parent.get("data-ref") if name.parent else None)
        if reference == content.get("data-ref") if reference else own is content:
            return _flat(name)
    return ""


def _first(tag: Tag, name: str) -> Tag | None:
    return next(iter(tag.find_all(class_=name, limit=1)), None)


def _named(label: str, value: Tag) -> Iterator[Fact]:
    values = tuple(_split(value))
    if label and values:
        yield Fact(label=label, values=values)


def _split(value: Tag) -> Iterator[str]:
    """The values in a cell: list items and lines are values of their own, never run together."""
    pieces = [""]
    _gather(value, pieces)
    return filter(None, (_SPACES.sub(" ", piece).strip() for piece in pieces))


def _gather(tag: Tag, pieces: list[str]) -> None:
    for node in tag.children:
        if isinstance(node, Tag):
            edges = [""] if node.name in _BREAKS else []
            pieces.extend(edges)
            _gather(node, pieces)
            pieces.extend(edges)
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            pieces[-1] += str(node)


def _flat(tag: Tag) -> str:
    return _SPACES.sub(" ", tag.get_text(" ", strip=True)).strip()


class _Walker:
    """Goes through a tree in order and gathers blocks of plain text."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._inline: list[str] = []

    def children(self, tag: Tag) -> None:
        for node in tag.children:
            self._visit(node)

    def finish(self) -> list[Block]:
        self._flush()
        return self.blocks

    def _visit(self, node: PageElement) -> None:
        if isinstance(node, NavigableString):
            if not isinstance(node, PreformattedString):
                self._inline.append(_SPACES.sub(" ", str(node)))
            return
        assert isinstance(node, Tag)
        if node.name == "br":
            self._inline.append("\n")
        elif node.name in _HEADINGS:
            self._add(_flat_inline(node), _HEADINGS[node.name])
        elif node.name in _LISTS:
            self._add("\n".join(_list_lines(node, 0)))
        elif node.name == "table":
            self._add("\n".join(_table_lines(node)))
        elif node.name == "pre":
            self._add(node.get_text().strip("\n").rstrip())
        elif node.name in _BLOCK_TAGS:
            self._flush()
            self.children(node)
            self._flush()
        else:
            self.children(node)

    def _add(self, text: str, level: int = 0) -> None:
        self._flush()
        if text.strip():
            self.blocks.append(Block(text, level))

    def _flush(self) -> None:
        text = _tidy("".join(self._inline))
        self._inline = []
        if text:
            self.blocks.append(Block(text))


def _tidy(text: str) -> str:
    """Lines without outer spaces, none of them empty."""
    lines = (re.sub(" +", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _flat_inline(tag: Tag) -> str:
    """The text of an element on one line; lines and blocks within are joined by spaces."""
    walker = _Walker()
    walker.children(tag)
    return " ".join(block.text.replace("\n", " ") for block in walker.finish())


def _list_lines(tag: Tag, depth: int) -> Iterator[str]:
    """One line an item, nested lists indented; terms and definitions are plain lines."""
    number = 0
    for item in tag.children:
        if not isinstance(item, Tag):
            continue
        if item.name in _LISTS:
            yield from _list_lines(item, depth + 1)
        elif item.name in ("li", "dt", "dd"):
            number += 1
            mark = "" if item.name != "li" else f"{number}. " if tag.name == "ol" else "- "
            yield from _item_lines(item, "  " * depth + mark, depth)


def _item_lines(item: Tag, lead: str, depth: int) -> Iterator[str]:
    nested = [child for child in _within(item, _LISTS) if _nearest(child, _LISTS) is item.parent]
    for child in nested:
        child.extract()
    text = _flat_inline(item)
    if text:
        yield lead + text
    for child in nested:
        yield from _list_lines(child, depth + 1)


def _table_lines(table: Tag) -> Iterator[str]:
    """One line a row, cells parted by `` | ``; empty cells keep their place, empty rows go."""
    caption = next(iter(_within(table, ("caption",))), None)
    if caption is not None and _nearest(caption, ("table",)) is table:
        yield from filter(None, [_flat_inline(caption)])
    for row in _within(table, ("tr",)):
        if _nearest(row, ("table",)) is not table:
            continue
        cells = [_cell(cell) for cell in row.children if isinstance(cell, Tag) and cell.name in ("td", "th")]
        if any(cells):
            yield " | ".join(cells)


def _cell(cell: Tag) -> str:
    """What stands in a cell, on one line: its lines and blocks are parted by commas."""
    walker = _Walker()
    walker.children(cell)
    lines = (line for block in walker.finish() for line in block.text.split("\n"))
    return ", ".join(line.strip().removeprefix("- ") for line in lines)
