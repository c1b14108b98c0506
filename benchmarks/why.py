"""How much of what is planted `cirilla why` finds, and how long it takes; and what leaves when a page leaves.

    python -m benchmarks.why [--pages FOLDER] [--spans 400] [--tokens 1000000] [--removals 5]

Without `--pages` the bundled wiki of the quickstart is read. It is scraped, questioned and tokenized into a folder of
its own, with two folders that look like finished runs. Spans of 8 to 40 tokens are drawn from pages and chats, decoded,
and set between words that stand nowhere; found is a span that holds all of the planted text and names a row that
`str.find` finds it in. Times are of the processor, and as they passed, which other work
lengthens: the search alone, and a whole process with a warm index. Then a suffix
array over random text of `--tokens` tokens, with the peak of what sorting allocates; then pages are taken away one by
one, and rows that do not name the page and changed are counted.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import get_args

import numpy as np

from cirilla_cli.data.config import LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.shards import ShardIndex
from cirilla_cli.fs import write_json
from cirilla_cli.lineage.suffixes import suffix_array
from cirilla_cli.lineage.why import Searched, open_model, why
from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, ScrapeConfig
from cirilla_cli.scrape.run import scrape
from cirilla_cli.synth.config import FactKind, FandomConfig, SynthConfig
from cirilla_cli.synth.run import synthesize

WIKI = Path(__file__).parents[1] / "recipes" / "quickstart" / "wiki.xml"


def make(root: Path, pages: Path | None) -> Path:
    """Documents, samples, shards, and a run's lock that names them; returns the run."""
    source = DumpConfig(path=WIKI) if pages is None else FilesConfig(path=pages)
    scrape(ScrapeConfig(source=source), root / "wiki", Silent())
    synth = SynthConfig(inputs=(root / "wiki" / "documents.jsonl",), source=FandomConfig())
    synthesize(synth, root / "samples", Silent())
    trained = SentencePieceConfig(vocab_size=1536)
    tokenize(TokenizeConfig(inputs=(root / "wiki",), tokenizer=trained), root / "text", Silent())
    loaded = LoadTokenizerConfig(path=root / "text" / "tokenizer")
    tokenize(TokenizeConfig(inputs=(root / "samples",), tokenizer=loaded), root / "chats", Silent())
    for name, kind, start in (("text", "text", "none"), ("chats", "chat", str(root / "runs" / "text"))):
        data = root / name / "shards" / kind
        model = {"kind": "checkpoint", "path": start} if start != "none" else {"kind": "decoder"}
        recipe = {"name": name, "data": {"kind": "conversations", "path": [str(data)]}, "model": model}
        lock = {"resolved": recipe, "data": {"part0": ShardIndex.read(data).fingerprint()}}
        write_json(root / "runs" / name / "lock.json", lock)
        (root / "runs" / name / "checkpoints").mkdir()
    return root / "runs" / "chats"


def planted(root: Path, searched: Searched, count: int) -> list[tuple[str, set[str]]]:
    """Pieces of training text cut at its own tokens, each with the ids of all rows that hold it."""
    draw, texts = random.Random(0), dict[str, list[str]]()
    for line in (root / "wiki" / "documents.jsonl").read_text(encoding="utf-8").splitlines():
        texts.setdefault(json.loads(line)["id"], []).append(json.loads(line)["text"])
    for line in (root / "samples" / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "chat":
            texts.setdefault(row["id"], []).extend(turn["content"] for turn in row["messages"])
    flat, pieces = [text for group in texts.values() for text in group], []
    while len(pieces) < count:
        ids = searched.tokenizer.encode(draw.choice(flat))
        size = draw.randint(8, 40)
        if len(ids) >= size:
            first = draw.randrange(len(ids) - size + 1)
            text = searched.tokenizer.decode(ids[first : first + size])
            holders = {id_ for id_, group in texts.items() if any(text in whole for whole in group)}
            if holders:  # none where the cut split a character
                pieces.append((text, holders))
    return pieces


def measure(root: Path, run: Path, count: int) -> None:
    """Recall of planted spans and the time of a question."""
    started = time.perf_counter()
    searched = open_model(run, Silent())
    built = time.perf_counter() - started
    started = time.perf_counter()
    searched = open_model(run, Silent())
    opened = time.perf_counter() - started
    size = sum(shard.info.tokens for shard in searched.shards)
    print(
        f"{size:,} tokens in {len(searched.shards)} shards: indexed in {built:.2f} s, opened in {1000 * opened:.0f} ms"
    )
    pieces, found, named, times, passed = planted(root, searched, count), 0, 0, [], []
    for text, holders in pieces:
        started = time.thread_time()
        result = why(f"Zqx vwq {text} zqx vwq.", searched, min_tokens=8, top=50)
        times.append(1000 * (time.thread_time() - started))
        passed.append(result.query_ms)
        spans = [span for span in result.spans if text in span.text or text.strip() in span.text]
        found += bool(spans)
        named += any(holders & {source.row for source in span.sources} for span in spans)
    print(f"planted {count} spans of 8 to 40 tokens: {found / count:.1%} found, {named / count:.1%} with a right row")
    print(f"one span an answer, processor: {spread(times)}; passed: {spread(passed)}")
    long = " ".join(text for text, _ in pieces[:20])
    started = time.thread_time()
    why(long, searched, min_tokens=8, top=10)
    taken = 1000 * (time.thread_time() - started)
    print(f"an answer of {len(searched.tokenizer.encode(long))} tokens, all of them copied: processor {taken:.1f} ms")
    command = [sys.executable, "-m", "cirilla_cli", "why", pieces[0][0], str(run), "--json"]
    whole, passed = [], []
    for _ in range(5):
        before, started = children(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        whole.append(1000 * (children() - before))
        passed.append(1000 * (time.perf_counter() - started))
    print(f"whole process, processor: {spread(whole)}; passed: {spread(passed)}")


def children() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(times: list[float]) -> str:
    """Fastest, middle and slowest."""
    return f"{min(times):.1f} / {statistics.median(times):.1f} / {max(times):.1f} ms"


def sort(tokens: int) -> None:
    """Time and memory of one suffix array over skewed random tokens."""
    draw = np.random.default_rng(0)
    ids = np.minimum(draw.zipf(1.3, tokens), 8000).astype(np.uint16)
    ends = np.arange(500, tokens + 500, 500).clip(max=tokens)
    tracemalloc.start()
    started = time.thread_time()
    suffix_array(ids, ends)
    taken, (_, peak) = time.thread_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"suffix array of {tokens:,} tokens: {taken:.2f} s, at most {peak / tokens:.0f} bytes a token, 4 kept")


def remove(root: Path, removals: int) -> None:
    """Rows that do not name a page and are not the same without it."""
    lines = (root / "wiki" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    before, changed = rows_of(lines, root / "whole"), 0
    for number in random.Random(0).sample(range(len(lines)), min(removals, len(lines))):
        page = json.loads(lines[number])["id"]
        after = rows_of(lines[:number] + lines[number + 1 :], root / f"without-{number}")
        changed += sum(page not in naming and line not in after for line, naming in before.items())
    print(
        f"{min(removals, len(lines))} pages taken away: {changed} of {len(before):,} rows changed that do not name them"
    )


def rows_of(lines: list[str], folder: Path) -> dict[str, set[str]]:
    """Every sample and reject of some documents, each with what it names."""
    folder.mkdir()
    (folder / "documents.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    source = FandomConfig(makes=get_args(FactKind))
    synthesize(SynthConfig(inputs=(folder / "documents.jsonl",), source=source), folder, Silent())
    texts = [(folder / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("samples", "rejects")]
    rows = ((line, json.loads(line)) for text in texts for line in text.splitlines())
    return {line: {row["id"], *row.get("parents", []), *row.get("pages", [])} for line, row in rows}


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, help="a folder of text files in place of the bundled wiki")
    parser.add_argument("--spans", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--removals", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cirilla-why-") as folder:
        root = Path(folder)
        run = make(root, given.pages)
        measure(root, run, given.spans)
        sort(given.tokens)
        remove(root, given.removals)


if __name__ == "__main__":
    main()
