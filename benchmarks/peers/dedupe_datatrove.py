"""Deduplication by datatrove's MinHash pipeline, two workers: `python dedupe_datatrove.py ROWS.jsonl OUT.json`."""

import gzip
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages


def pipeline(rows: str, work: Path) -> list[LocalPipelineExecutor]:
    """Its own example with 14 bands of 8, and words in threes; hashed by SHA-1, as xxhash 4 refuses its text."""
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"), num_buckets=14, hashes_per_bucket=8, n_grams=3)
    steps = [
        ([JsonlReader(rows), MinhashDedupSignature(str(work / "sig"), config=config, language=Languages.english)], 2),
        ([MinhashDedupBuckets(str(work / "sig"), str(work / "buckets"), config=config)], 14),
        ([MinhashDedupCluster(str(work / "buckets"), str(work / "ids"), config=config)], 1),
        (
            [
                JsonlReader(rows),
                MinhashDedupFilter(str(work / "ids"), exclusion_writer=JsonlWriter(str(work / "dropped"))),
                JsonlWriter(str(work / "kept")),
            ],
            2,
        ),
    ]
    logs = str(work / "logs")
    return [
        LocalPipelineExecutor(pipeline=step, tasks=tasks, workers=2, logging_dir=f"{logs}/{number}")
        for number, (step, tasks) in enumerate(steps)
    ]


def main(source: str, out: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "rows").mkdir()
        lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
        for number, part in enumerate([lines[: len(lines) // 2], lines[len(lines) // 2 :]]):
            (work / "rows" / f"{number}.jsonl").write_text("".join(part), encoding="utf-8")
        started = time.perf_counter()
        for step in pipeline(str(work / "rows"), work):
            step.run()
        seconds = time.perf_counter() - started
        dropped = []
        for path in sorted((work / "dropped").glob("**/*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                dropped += [json.loads(line)["id"] for line in file]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    version = importlib.metadata.version("datatrove")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(
            {"version": version, "seconds": seconds, "processor": None, "peak_mb": peak, "dropped": dropped}, file
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
