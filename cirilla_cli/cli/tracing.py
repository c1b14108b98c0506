"""`cirilla trace` and `why`: where a model, a file or a sentence comes from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirilla_cli.cli.options import Json

if TYPE_CHECKING:
    from cirilla_cli.lineage.trace import Node, Trace

_MOST_SHOWN = 6


def trace(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A model folder, run, checkpoint, shards, samples or documents.", show_default=False
        ),
    ],
    pages: Annotated[bool, typer.Option("--pages", help="List every page with revision and licence.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a parent is missing or has changed.")] = False,
    json_: Json = False,
) -> None:
    """Follow an artefact up to the pages, revisions, licences, teachers and filters behind it, checked by hash.

    Examples: cirilla trace runs/quickstart/push/model; cirilla trace samples.jsonl --pages --json
    """
    from cirilla_cli.cli.render import one_line, show_json
    from cirilla_cli.lineage.trace import trace as follow

    found = follow(path)
    if json_:
        show_json(found.as_dict(pages=pages))
    else:
        listed = ["", *map(_page, found.pages)] if pages else []
        for line in [*_tree(found.root), "", *_summary(found), *listed]:
            print("\t".join(map(one_line, line.split("\t"))))
    for problem in found.problems:
        typer.echo(f"note: {one_line(problem)}", err=True)
    if strict and found.problems:
        raise typer.Exit(1)


def why(
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The text; `-` reads it from stdin.")],
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run, checkpoint or pushed model; default: the newest run under runs/.",
            show_default=False,
        ),
    ] = None,
    min_tokens: Annotated[int, typer.Option("--min-tokens", metavar="N", min=1, help="Shortest span.")] = 8,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Most spans, and most sources of each.")] = 10,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    json_: Json = False,
) -> None:
    """Show which pieces of an answer stand word for word in a model's training data, with page, revision and licence.

    Examples: cirilla why "Geralt of Rivia is a witcher" runs/quickstart/dpo; cirilla why - --json < answer.txt
    """
    from cirilla_cli.cli.render import one_line, progress_for, show_json
    from cirilla_cli.lineage.why import open_model
    from cirilla_cli.lineage.why import why as search

    text = _read(answer)
    with progress_for(quiet=quiet or json_) as progress:
        found = search(text, open_model(model or _newest(), progress), min_tokens=min_tokens, top=top)
    if json_:
        show_json(found.as_dict())
        return
    for span in found.spans:
        print(one_line(f"{span.tokens} tokens: {' '.join(span.text.split())}"))
        for source in span.sources:
            print(one_line(f"    {_source(source)}"))
        if not span.sources:
            print("    of rows that were tokenized before shards listed them; `cirilla tokenize` again lists them")
    if not found.spans:
        print(f"no {min_tokens} tokens in a row stand in the {found.searched_tokens:,} tokens of training data")


def _read(answer: str) -> str:
    """The answer, from standard input where it is `-`."""
    import sys

    from cirilla_cli.errors import CirillaError

    if answer == "-":
        try:
            answer = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise CirillaError(f"<stdin>: not UTF-8 (byte {error.start})") from None
    if not answer.strip():
        raise CirillaError("the answer is empty", hint='cirilla why "Geralt of Rivia is a witcher" runs/mine')
    return answer


def _newest() -> Path:
    """The run that was trained last; which is said."""
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.fs import newest

    found = newest(Path("runs").glob("**/checkpoints/step-*/state.json"))
    if found is None:
        raise CirillaError("no model under runs/", hint="cirilla why ANSWER MODEL; cirilla run quickstart makes one")
    typer.echo(f"model: {found.parents[2]}", err=True)
    return found.parents[2]


def _source(source: Any) -> str:
    page = source.title or source.permalink or f"row {source.row}"
    revision = "" if source.revision is None else f", revision {source.revision}"
    made = "" if source.strategy is None else f", through {source.strategy}"
    address = "" if source.permalink is None or source.title is None else f"  {source.permalink}"
    return f"{page}{revision}, {source.license or 'licence not stated'}{made}{address}"


def _tree(root: "Node") -> list[str]:
    """The nodes, each below what was made from it; what stands above already is only named."""
    lines: list[str] = []
    seen: set[int] = set()

    def add(node: "Node", depth: int) -> None:
        known = id(node) in seen
        seen.add(id(node))
        mark = {"same": "=", "changed": "!", "missing": "?", "unrecorded": " "}[node.state]
        shown = "(above)" if known else _facts(node.facts)
        lines.append(f"{mark} {'  ' * depth}{node.kind} {node.path}  {shown}".rstrip())
        for parent in () if known else node.parents:
            add(parent, depth + 1)

    add(root, 0)
    return lines


def _facts(facts: dict[str, Any]) -> str:
    parts = []
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            listed = [f"{name} {count}" for name, count in list(value.items())[:_MOST_SHOWN]]
            more = [f"and {len(value) - _MOST_SHOWN} more"] if len(value) > _MOST_SHOWN else []
            parts.append(f"{key}: {', '.join([*listed, *more])}")
        elif value is not None and not isinstance(value, dict):
            parts.append(f"{key} {value[:12] if key.endswith('sha256') else value}")
    return "; ".join(parts)


def _summary(found: "Trace") -> list[str]:
    revised = sum(page.revision is not None for page in found.pages)
    terms = ", ".join(f"{name} ({count})" for name, count in found.licenses.items())
    lines = ["=  as recorded   !  changed   ?  missing   (no mark: nothing recorded to compare with)"]
    if not found.pages:
        return [*lines, "no pages are known"]
    return [*lines, f"{len(found.pages)} pages, {revised} with revision; licences: {terms}"]


def _page(page: Any) -> str:
    revision = "revision not known" if page.revision is None else f"revision {page.revision}"
    parts = (page.title or page.id, revision, page.license or "licence not stated", page.permalink or "")
    return "\t".join(" ".join(part.split()) for part in parts)


COMMANDS = {"trace": trace, "why": why}
