"""The reference of every key of every recipe, as Markdown made from the sections themselves."""

from collections.abc import Iterator

from pydantic import BaseModel

from cirilla_cli.recipe.explain import brief
from cirilla_cli.recipe.fields import Field, about, doc, keys, kind_of, sections_of
from cirilla_cli.recipe.schema import TRAIN_VERBS, VERBS, schema_for


def reference_markdown() -> str:
    """A table of keys for every section of every verb's recipe."""
    parts = [
        "# Recipe reference",
        "Made from the sections in every area's `config.py`; `cirilla recipe explain KEY` says the same.",
    ]
    done: set[tuple[str, type[BaseModel]]] = set()
    for verb in VERBS:
        title = f"## cirilla {verb}"
        parts += [title, about(schema_for(verb))]
        if verb in TRAIN_VERBS[1:]:
            parts.append(f"Sections that {TRAIN_VERBS[0]} has too are described there.")
        parts += _section(schema_for(verb), "", done)
    return "\n\n".join(parts) + "\n"


def _section(section: type[BaseModel], path: str, done: set[tuple[str, type[BaseModel]]]) -> Iterator[str]:
    """The table of a section, then those of the sections below it that were not shown yet."""
    if (path, section) in done:
        return
    done.add((path, section))
    kind = kind_of(section)
    if path:
        yield f"### `{path}`" + (f", kind `{kind}`" if kind else "")
        yield about(section)
    yield "\n".join(("| key | takes | meaning |", "|---|---|---|", *_rows(section)))
    for key, info in keys(section).items():
        for below, inner in sections_of(info.annotation, (path, key) if path else (key,)):
            yield from _section(inner, ".".join(below), done)


def _rows(section: type[BaseModel]) -> Iterator[str]:
    for key, info in keys(section).items():
        if key == "kind":
            continue
        cells = (f"`{key}`", brief(Field((), section, key, info)), " ".join(doc(section, key).split()))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
