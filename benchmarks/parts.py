"""What an array of parts can gain: seconds of processor time of one process, of a part of many, and of the merge.

`python -m benchmarks.parts`; --of 8 and --pages 2000 are what is assumed. A part reads all of the input and works on
its share, and the merge looks results up: on enough machines an array takes as long as a part and the merge.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.curate.run import curate
from cirilla_cli.curate.shared import curate_merge, curate_share
from cirilla_cli.data.config import TokenizeConfig
from cirilla_cli.data.parts import Share
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shared import tokenize_merge, tokenize_share
from cirilla_cli.progress import SILENT
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.scrape.shared import scrape_merge, scrape_share
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import synthesize
from cirilla_cli.synth.shared import synth_merge, synth_share

_Work = Callable[..., Any]


def _prose(number: int, words: list[str]) -> str:
    draw = random.Random(number)
    return ". ".join(" ".join(draw.choices(words, k=14)).capitalize() for _ in range(30)) + "."


def _words() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices("aeioulmnrstdkpg", k=draw.randrange(2, 9))) for _ in range(4000)]


def _documents(path: Path, texts: list[str]) -> Path:
    rows = ({"id": str(n), "title": f"Page {n}", "text": text} for n, text in enumerate(texts))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _boxed(path: Path, texts: list[str]) -> Path:
    """The same with what rules ask for: a subject, and labelled values that pages share."""
    rows = (
        {"id": str(n), "title": f"Page {n}", "text": f"Page {n} is a keep. {text}", "infobox": _box(n)}
        for n, text in enumerate(texts)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _box(number: int) -> list[dict[str, Any]]:
    draw = random.Random(number)
    return [{"label": name, "values": [f"{name} {draw.randrange(400)}"]} for name in ("Lord", "Land", "River", "Crest")]


def _dump(path: Path, texts: list[str]) -> ScrapeConfig:
    pages = (
        f"<page><title>Page {n}</title><ns>0</ns><id>{n + 1}</id><revision><id>{n + 1}</id><model>wikitext</model>"
        f"<text>{escape(f'{{{{Box|name=[[Page {n}]]|kind=keep}}}} {text}')}</text></revision></page>\n"
        for n, text in enumerate(texts)
    )
    path.write_text(f"<mediawiki>{''.join(pages)}</mediawiki>", encoding="utf-8")
    return ScrapeConfig.model_validate({"source": {"kind": "dump", "path": str(path)}})


def _saved(folder: Path, texts: list[str]) -> ScrapeConfig:
    """A folder of saved pages."""
    folder.mkdir()
    for n, text in enumerate(texts):
        page = f"<html><title>Page {n}</title><body><h1>Page {n}</h1><p>{escape(text)}</p></body></html>"
        (folder / f"{n:05d}.html").write_text(page, encoding="utf-8")
    return ScrapeConfig.model_validate({"source": {"kind": "files", "path": str(folder)}})


def _lines(folder: Path, texts: list[str], files: int) -> ScrapeConfig:
    """The same texts as rows of a few files."""
    folder.mkdir()
    for n in range(files):
        _documents(folder / f"{n:05d}.jsonl", texts[n::files])
    return ScrapeConfig.model_validate({"source": {"kind": "files", "path": str(folder)}})


def _curation(documents: Path, questions: Path, texts: list[str]) -> CurateConfig:
    rows = ({"question": text[:120], "answers": ["x"], "seen": False, "split_key": "q"} for text in texts[:200])
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    filters = {"length": {"kind": "length"}, "repetition": {"kind": "repetition"}, "words": {"kind": "words"}}
    sources = {"wiki": {"path": str(documents)}}
    return CurateConfig.model_validate(
        {"sources": sources, "filters": filters, "evaluation": {"q": str(questions)}, "duplicates": {"match": "near"}}
    )


def _tokens(folder: Path, documents: Path) -> TokenizeConfig:
    fields = {"inputs": str(documents), "tokenizer": {"kind": "sentencepiece", "vocab_size": 4096}}
    tokenize(TokenizeConfig.model_validate(fields), folder, SILENT)
    loaded = {"kind": "load", "path": str(folder / "tokenizer")}
    return TokenizeConfig.model_validate({"inputs": str(documents), "tokenizer": loaded, "shard_tokens": 100_000})


def _seconds(work: _Work, *given: Any) -> float:
    """Of this process and of those it started and waited for."""
    before = time.process_time() + sum(os.times()[2:4])
    work(*given)
    return time.process_time() + sum(os.times()[2:4]) - before


def measure(name: str, config: Any, whole: _Work, share: _Work, merge: _Work, of: int, folder: Path) -> None:
    """One line: a process alone, the slowest part, the merge, and how much sooner an array is done."""
    alone = _seconds(whole, config, folder / "alone", SILENT)
    parts = [_seconds(share, config, folder / "array", Share(n, of), SILENT) for n in range(1, of + 1)]
    merged = _seconds(merge, config, folder / "array", SILENT)
    gain = alone / (max(parts) + merged)
    print(f"{name:<20} {alone:>9.2f} {max(parts):>9.2f} {merged:>9.2f} {gain:>8.1f}x", flush=True)


def main() -> None:
    """Make inputs, and measure each verb."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=int, default=8)
    parser.add_argument("--pages", type=int, default=2000)
    asked = parser.parse_args()
    words = _words()
    texts = [_prose(number, words) for number in range(asked.pages)]
    print(f"{asked.pages} pages of {sum(map(len, texts)) / 1e6:.1f} MB, {asked.of} parts; processor seconds")
    print(f"{'':<20} {'one call':>9} {'a part':>9} {'merge':>9} {'gain':>9}")
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        documents = _documents(at / "documents.jsonl", texts)
        tasks = {"sudoku": {"count": 100}}
        gym = SynthConfig.model_validate({"source": {"kind": "reasoning-gym", "tasks": tasks, "seed": 1}})
        synthesize(gym, at / "warm", SILENT)  # imports
        dump = _dump(at / "wiki.xml", texts)
        measure("scrape --dump", dump, scrape, scrape_share, scrape_merge, asked.of, at / "scrape")
        saved = _saved(at / "saved", texts)
        measure("scrape, saved pages", saved, scrape, scrape_share, scrape_merge, asked.of, at / "pages")
        lines = _lines(at / "lines", texts, 2 * asked.of)
        measure("scrape, rows", lines, scrape, scrape_share, scrape_merge, asked.of, at / "rows")
        measure("synth, sudoku", gym, synthesize, synth_share, synth_merge, asked.of, at / "synth")
        rules = SynthConfig.model_validate({"inputs": str(_boxed(at / "boxed.jsonl", texts))})
        measure("synth, rules", rules, synthesize, synth_share, synth_merge, asked.of, at / "rules")
        curation = _curation(documents, at / "questions.jsonl", texts)
        measure("curate", curation, curate, curate_share, curate_merge, asked.of, at / "curate")
        # The report of `tokenize` looks at 500 rows, however many there are: more rows show what grows.
        many = _documents(at / "many.jsonl", [_prose(number, words) for number in range(5 * asked.pages)])
        tokens = _tokens(at / "tok", many)
        measure("tokenize, 5 times", tokens, tokenize, tokenize_share, tokenize_merge, asked.of, at / "tokens")


if __name__ == "__main__":
    main()
