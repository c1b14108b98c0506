"""Deduplication by `cirilla_cli.curate`: `python -m benchmarks.peers.dedupe_ours ROWS.jsonl OUT.json WAY`.

WAY: `kinds` tells tasks and text apart, as the product does; `text` takes every row for free text, as the peers do;
`facts` is `kinds` with the product's default that near-duplicates have the same numbers and names.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.curate.duplicates import Deduper, Entry


def entries(source: Path, way: str) -> Iterator[Entry]:
    with source.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            task = way != "text" and row["kind"] == "task"
            yield Entry(row["id"], row["text"], "task" if task else "chat", near=not task, signs=task)


def peak_mb() -> float:
    """The most memory that this process has held, without what its parent held before it began."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1e3 if found else float("nan")


def main(source: str, out: str, way: str) -> None:
    before = peak_mb()
    started, work = time.perf_counter(), time.process_time()
    deduper = Deduper(DuplicatesConfig(same_facts=way == "facts"))
    dropped = [found.dropped for found in deduper.entries(entries(Path(source), way)) if found is not None]
    seconds, work = time.perf_counter() - started, time.process_time() - work
    peak = peak_mb() - before
    told = {"version": "", "seconds": seconds, "processor": work, "peak_mb": peak, "dropped": dropped}
    Path(out).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
