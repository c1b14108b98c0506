"""`cirilla scrape`, `synth`, `tokenize`: data in, rows or shards out."""

from typing import Annotated

import typer

from cirilla_cli.cli.options import DryRun, Fresh, Json, Out, Quiet, Verbose, Words


def scrape(
    words: Words = None,
    api: Annotated[
        str | None, typer.Option("--api", metavar="URL", help="A MediaWiki's api.php, or the wiki's address.")
    ] = None,
    dump: Annotated[
        str | None, typer.Option("--dump", metavar="FILE", help="A MediaWiki XML export: plain, .gz, .bz2, .7z.")
    ] = None,
    files: Annotated[str | None, typer.Option("--files", metavar="DIR", help="A folder of text files.")] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="Only pages of this category (with --api).")
    ] = None,
    contact: Annotated[
        str | None, typer.Option("--contact", metavar="MAIL", help="Who to write to; sent with every request.")
    ] = None,
    permission: Annotated[
        str | None,
        typer.Option("--permission", metavar="TEXT", help="Who allowed automated access, for hosts that forbid it."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Stop after so many documents.")] = None,
    out: Out = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Fetch a wiki's pages as documents: from its API, an XML dump, or files.

    Examples: cirilla scrape --dump wiki.xml.bz2; cirilla scrape wikipedia-witcher --contact me@example.org
    """
    from cirilla_cli.cli.verbs import Flags, scrape_verb

    flags = Flags(out=out, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run, fresh=fresh)
    given = {
        "api": api, "dump": dump, "files": files, "category": category, "contact": contact,
        "permission": permission, "limit": limit,
    }  # fmt: skip
    scrape_verb(words or [], {key: value for key, value in given.items() if value is not None}, flags)


def synth(
    words: Words = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="fandom, reasoning-gym, teacher, ollama or openai.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="KIND:MODEL@URL", help="ollama:MODEL@URL or openai:MODEL@URL.")
    ] = None,
    out: Out = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Make questions and answers: from documents by rules, from task generators, or with a teacher model.

    Examples: cirilla synth --source fandom documents.jsonl; cirilla synth --source teacher --teacher ollama:qwen3:4b
    """
    from cirilla_cli.cli.verbs import Flags, synth_verb

    flags = Flags(out=out, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run, fresh=fresh)
    synth_verb(words or [], source, teacher, flags)


def tokenize(
    words: Words = None,
    out: Out = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Train or load a tokenizer and write token shards.

    Examples: cirilla tokenize documents.jsonl tokenize.tokenizer.vocab_size=8k; cat samples.jsonl | cirilla tokenize -
    """
    from cirilla_cli.cli.verbs import Flags, tokenize_verb

    tokenize_verb(words or [], Flags(out=out, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run, fresh=fresh))
