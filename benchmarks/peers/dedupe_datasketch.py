"""Keep-first deduplication by datasketch's MinHashLSH: `python dedupe_datasketch.py ROWS.jsonl OUT.json`."""

import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path

from datasketch import MinHash, MinHashLSH


def grams(text: str) -> list[bytes]:
    plain = re.sub(r"[\W_]+", " ", text.casefold()).strip()
    return [plain[i : i + 5].encode() for i in range(max(1, len(plain) - 4))]


def peak_mb() -> float:
    """The most memory that this process has held, without what its parent held before it began."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1e3 if found else float("nan")


def main(source: str, out: str) -> None:
    before = peak_mb()
    started, work = time.perf_counter(), time.process_time()
    lsh, dropped = MinHashLSH(threshold=0.8, num_perm=128), []
    with open(source, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            own = MinHash(num_perm=128)
            own.update_batch(grams(row["text"]))
            if lsh.query(own):
                dropped.append(row["id"])
            else:
                lsh.insert(row["id"], own)
    seconds, work = time.perf_counter() - started, time.process_time() - work
    peak = peak_mb() - before
    version = importlib.metadata.version("datasketch")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(
            {"version": version, "seconds": seconds, "processor": work, "peak_mb": peak, "dropped": dropped}, file
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
