"""Wikitext as a tree, built from mwparserfromhell's tokens.

Its own tree is made to be edited: every part that a node is given goes through a parser first, which costs several
times what finding the tokens does. This one is made to be read; `str` gives the source back, character by character.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

from mwparserfromhell.parser import Parser, tokens

Nodes: TypeAlias = list[Union[str, "Part", "Tag", "Template"]]
"""Text and marked-up parts in order."""


def parse(text: str) -> Nodes:
    """The tree of a wikitext."""
    return _Builder().build(Parser()._tokenizer.tokenize(text, 0, False))


def source(nodes: Nodes) -> str:
    """The wikitext of nodes."""
    return "".join([node if type(node) is str else str(node) for node in nodes])


@dataclass(slots=True)
class Part:
    """What stands between two marks: one half, or two with a mark that parts them."""

    opening: str
    first: Nodes
    closing: str
    gap: str = ""
    second: Nodes | None = None

    def __str__(self) -> str:
        more = "" if self.second is None else self.gap + source(self.second)
        return self.opening + source(self.first) + more + self.closing


class Comment(Part):
    """What no reader sees."""


class Entity(Part):
    """A character by its name or number, such as ``&nbsp;``."""


class Heading(Part):
    """A heading; its level is the length of its marks."""


class Link(Part):
    """A link to a page, and the text it shows where it has one."""


class Address(Part):
    """A link out of the wiki, in brackets or bare, and the text it shows where it has one."""


class Argument(Part):
    """Where a template shows what it was given, and its default where it has one."""


@dataclass(slots=True)
class Tag:
    """A tag, or what stands for one: bold and italics, list marks, tables."""

    markup: str
    """What stands for it; empty for a tag in angle brackets."""
    start: str = ""
    """The source before its contents."""
    name: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    contents: Nodes = field(default_factory=list)
    end: str = ""

    def __str__(self) -> str:
        return self.start + source(self.contents) + self.end


@dataclass(slots=True)
class Template:
    """The use of a template, or of a parser function; its parameters are pairs of a name, if given, and a value."""

    name: Nodes
    params: list[tuple[Nodes | None, Nodes]]

    def given(self) -> list[str]:
        """The source of each parameter."""
        return [source(value) if name is None else f"{source(name)}={source(value)}" for name, value in self.params]

    def __str__(self) -> str:
        return "{{" + "|".join([source(self.name), *self.given()]) + "}}"


def templates(nodes: Nodes) -> Iterator[Template]:
    """Every template within nodes, at any depth, but those within the attributes of tags."""
    for node in nodes:
        match node:
            case Tag():
                yield from templates(node.contents)
            case Template():
                yield node
                for part in (node.name, *(half for pair in node.params for half in pair)):
                    yield from templates(part or [])
            case Part() if not isinstance(node, Comment):
                yield from templates([*node.first, *(node.second or [])])


Token: TypeAlias = dict[str, Any]


class _Builder:
    """Turns tokens into nodes; a handler is called when a part has begun, and takes the tokens up to its end."""

    def build(self, found: Iterable[Token]) -> Nodes:
        self._tokens = iter(found)
        return self._until()[0]

    def _until(self, *ends: type[Token]) -> tuple[Nodes, Token]:
        """(the nodes up to the next token of these kinds, that token)."""
        nodes: Nodes = []
        for token in self._tokens:
            kind = type(token)
            if kind is tokens.Text:
                nodes.append(token["text"])
            elif kind in ends:
                return nodes, token
            else:
                nodes.append(_HANDLERS[kind](self, token))
        return nodes, {}

    def _template(self, _: Token) -> Template:
        name, end = self._until(tokens.TemplateParamSeparator, tokens.TemplateClose)
        template = Template(name, [])
        while type(end) is tokens.TemplateParamSeparator:
            key: Nodes | None = None
            value, end = self._until(*_PARAMETER_ENDS)
            if type(end) is tokens.TemplateParamEquals:
                key, (value, end) = value, self._until(*_PARAMETER_ENDS)
            template.params.append((key, value))
        return template

    def _argument(self, _: Token) -> Argument:
        name, default, _ = self._halves(tokens.ArgumentSeparator, tokens.ArgumentClose)
        return Argument("{{{", name, "}}}", "|", default)

    def _link(self, _: Token) -> Link:
        title, text, _ = self._halves(tokens.WikilinkSeparator, tokens.WikilinkClose)
        return Link("[[", title, "]]", "|", text)

    def _address(self, token: Token) -> Address:
        url, title, separator = self._halves(tokens.ExternalLinkSeparator, tokens.ExternalLinkClose)
        marks = ("[", "]") if token["brackets"] else ("", "")
        return Address(marks[0], url, marks[1], "" if separator.get("suppress_space") else " ", title)

    def _halves(self, separator: type[Token], end: type[Token]) -> tuple[Nodes, Nodes | None, Token]:
        """(what stands before a separator, what after it if there is one, the separator)."""
        first, token = self._until(separator, end)
        return first, self._until(end)[0] if type(token) is separator else None, token

    def _entity(self, _: Token) -> Entity:
        text = ""
        for token in self._tokens:
            if type(token) is tokens.HTMLEntityEnd:
                break
            text += "#" if type(token) is tokens.HTMLEntityNumeric else token.get("text") or token["char"]
        return Entity("&", [text], ";")

    def _heading(self, token: Token) -> Heading:
        marks = "=" * token["level"]
        return Heading(marks, self._until(tokens.HeadingEnd)[0], marks)

    def _comment(self, _: Token) -> Comment:
        return Comment("<!--", self._until(tokens.CommentEnd)[0], "-->")

    def _tag(self, token: Token) -> Tag:
        tag = Tag(token.get("wiki_markup") or "")
        nodes, end = self._until(*_TAG_STARTS)
        name = source(nodes)
        tag.name, tag.start = name.strip().lower(), tag.markup or ("</" if token.get("invalid") else "<") + name
        while type(end) is tokens.TagAttrStart:
            end = self._attribute(end, tag)
        tag.start += end.get("padding") or ""
        if type(end) is tokens.TagCloseSelfclose:
            tag.start += "" if tag.markup else ">" if end.get("implicit") else "/>"
        else:
            tag.start += end.get("wiki_markup") or "" if tag.markup else ">"
            tag.contents, end = self._until(tokens.TagOpenClose)
            name = source(self._until(tokens.TagCloseClose)[0])
            markup = end.get("wiki_markup")
            tag.end = f"</{name}>" if not tag.markup else tag.markup if markup is None else markup
        return tag

    def _attribute(self, start: Token, tag: Tag) -> Token:
        """Add an attribute to a tag, the last of a name counts; returns the token that ends it."""
        nodes, end = self._until(tokens.TagAttrEquals, *_TAG_STARTS)
        name, value, quotes = source(nodes), "", ""
        tag.start += (start.get("pad_first") or "") + name + (start.get("pad_before_eq") or "")
        if type(end) is tokens.TagAttrEquals:
            nodes, end = self._until(tokens.TagAttrQuote, *_TAG_STARTS)
            if type(end) is tokens.TagAttrQuote:
                quotes = end["char"]
                nodes, end = self._until(*_TAG_STARTS)
            value = source(nodes)
            tag.start += "=" + (start.get("pad_after_eq") or "") + quotes + value + quotes
        tag.attributes[name] = value
        return end


_PARAMETER_ENDS = (tokens.TemplateParamEquals, tokens.TemplateParamSeparator, tokens.TemplateClose)
_TAG_STARTS = (tokens.TagAttrStart, tokens.TagCloseOpen, tokens.TagCloseSelfclose)
_HANDLERS: dict[type[Token], Callable[[_Builder, Token], Any]] = {
    tokens.TemplateOpen: _Builder._template, tokens.ArgumentOpen: _Builder._argument,
    tokens.WikilinkOpen: _Builder._link, tokens.ExternalLinkOpen: _Builder._address,
    tokens.HTMLEntityStart: _Builder._entity, tokens.HeadingStart: _Builder._heading,
    tokens.CommentStart: _Builder._comment, tokens.TagOpenOpen: _Builder._tag,
}  # fmt: skip
