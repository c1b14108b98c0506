"""`cirilla scrape`, `synth`, `curate`, `tokenize`: data in, rows or shards out."""

from dataclasses import dataclass

from cirilla_cli.cli.options import Flags, Group, Words, option, takes


@dataclass(frozen=True)
class Source(Group):
    """What is scraped, and how."""

    api: str | None = option("--api", metavar="URL", help="A MediaWiki's api.php, or the wiki's address.")
    dump: str | None = option("--dump", metavar="FILE|URL", help="A MediaWiki XML export: plain, .gz, .bz2, .7z.")
    files: str | None = option("--files", metavar="DIR", help="A folder of texts, HTML pages or JSONL.")
    again: str | None = option(
        "--again", metavar="DIR", help="An earlier scrape: make its rows again from what it kept, offline."
    )
    category: str | None = option("--category", metavar="NAME", help="Only pages of this category (with --api).")
    contact: str | None = option("--contact", metavar="MAIL", help="Who to write to; sent with every request.")
    permission: str | None = option(
        "--permission", metavar="TEXT", help="Who allowed automated access, for hosts that forbid it."
    )
    limit: int | None = option("--limit", metavar="N", help="Stop after so many documents.")


@takes("out", "fresh", "shard", "merge")
def scrape(words: Words = None, *, source: Source, flags: Flags) -> None:
    """Fetch a wiki's pages as documents: from its API, an XML dump, or files.

    Examples: cirilla scrape --dump wiki.xml.bz2; cirilla scrape wikipedia-witcher --contact me@example.org
    """
    from cirilla_cli.cli.verbs import scrape_verb

    scrape_verb(words or [], source.given(), flags)


@dataclass(frozen=True)
class Maker(Group):
    """What makes samples."""

    source: str | None = option("--source", metavar="NAME", help="fandom, reasoning-gym, teacher, ollama or openai.")
    teacher: str | None = option("--teacher", metavar="KIND:...", help="ollama:MODEL@URL, openai:MODEL@URL, own:PATH.")
    preview: int | None = option(
        "--preview", metavar="N", help="Show the rows of the first N parts of pages, and what all would take."
    )


@takes("out", "fresh", "shard", "merge")
def synth(words: Words = None, *, maker: Maker, flags: Flags) -> None:
    """Make questions and answers: from documents by rules, from task generators, or with a teacher model.

    Examples: cirilla synth --source fandom documents.jsonl; cirilla synth --source teacher --teacher ollama:qwen3:4b
    """
    from cirilla_cli.cli.verbs import synth_verb

    synth_verb(words or [], maker.source, maker.teacher, flags, preview=maker.preview)


@takes("out", "fresh", "shard", "merge")
def curate(words: Words = None, *, flags: Flags) -> None:
    """Make one set of several: drop bad, repeated and contaminated rows, mix, and hold some out.

    Examples: cirilla curate wiki.jsonl web.jsonl curate.split.test=1%; cirilla curate mine.yaml --out curated
    """
    from cirilla_cli.cli.verbs import curate_verb

    curate_verb(words or [], flags)


@takes("out", "fresh", "shard", "merge")
def tokenize(words: Words = None, *, flags: Flags) -> None:
    """Train or load a tokenizer and write token shards.

    Examples: cirilla tokenize documents.jsonl tokenize.tokenizer.vocab_size=8k; cat samples.jsonl | cirilla tokenize -
    """
    from cirilla_cli.cli.verbs import tokenize_verb

    tokenize_verb(words or [], flags)


COMMANDS = {"scrape": scrape, "synth": synth, "curate": curate, "tokenize": tokenize}
