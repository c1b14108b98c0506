"""Pages as a wiki's answers hold them: with their wikitext, and which templates they use."""

from collections.abc import Iterable, Mapping
from typing import Any

from cirilla_cli.scrape.page import RawPage
from cirilla_cli.scrape.templates import NOT_IN_TITLES, REDIRECT, template_name
from cirilla_cli.scrape.tree import parse, source, templates

CONTENT = {
    "prop": "revisions|categories", "rvprop": "ids|timestamp|content", "rvslots": "main", "cllimit": "max",
    "clshow": "!hidden",
}  # fmt: skip
"""What to ask for, so that `with_content` finds it."""


def with_content(page: Mapping[str, Any]) -> RawPage | None:
    """A page of an answer with its wikitext, or None where it is missing or hidden."""
    revision = (page.get("revisions") or [{}])[0]
    text = in_any_form((revision.get("slots") or {}).get("main", revision))
    if not page.get("pageid") or not isinstance(text, str):
        return None
    return RawPage(
        int(page["pageid"]), str(page["title"]), int(page.get("ns", 0)), revision.get("revid"),
        revision.get("timestamp"), "wikitext", text, categories(page.get("categories") or [], "title"), marked(page),
    )  # fmt: skip


def marked(page: Mapping[str, Any]) -> bool:
    """Whether the wiki says that the page only tells others apart."""
    return "disambiguation" in (page.get("pageprops") or {})


def in_any_form(value: Any) -> Any:
    """A text in the new form of an answer (itself, or under `content`) or the old one (under `*`)."""
    if isinstance(value, dict):
        return value.get("content", value.get("*"))
    return value


def categories(entries: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    """Names without prefix and underscores; hidden ones (maintenance) are left out."""
    shown = (str(entry.get(key, entry.get("*", ""))) for entry in entries if entry.get("hidden", False) is False)
    return tuple((name.partition(":")[2] if key == "title" else name).replace("_", " ") for name in shown)


def used_templates(texts: Iterable[str]) -> set[str]:
    """Names of the templates that wikitexts use or redirect to; parser functions left out."""
    names = set()
    for text in texts:
        target = REDIRECT.match(text)
        if target:
            names.add(template_name(target[1]))
        if "{{" in text:
            names |= {template_name(source(template.name)) for template in templates(parse(text))}
    return {name for name in names if name and ":" not in name and not NOT_IN_TITLES.search(name)}
