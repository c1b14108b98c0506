"""Checks the scores that the quickstart promises, from the object `cirilla run quickstart --json` printed.

    cirilla run quickstart --json > quickstart.json; python benchmarks/quickstart_scores.py quickstart.json

Scores only: the number of steps is fixed, so they do not depend on how busy the machine is.
Times are printed, not judged. And the finished model must lead back to every page, with revision and licence.
"""

import json
import sys
from pathlib import Path

from cirilla_cli.lineage.trace import trace

PAGES = 72
"""Of the bundled wiki."""


def untraced(model: Path, documents: Path) -> list[str]:
    """What a trace of the finished model does not tell of the pages that were scraped."""
    found = trace(model)
    told = {(page.id, page.revision, page.license) for page in found.pages}
    rows = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    scraped = {(row["id"], row["revision"], row["license"]["name"]) for row in rows}
    rules = {
        f"{PAGES} pages are scraped": len(scraped) == PAGES,
        "the model's trace names each page with revision and licence, and no other": told == scraped,
        "nothing has changed or is missing on the way": not found.problems,
    }
    return [name for name, holds in rules.items() if not holds]


def misses(report: dict[str, object], tasks: dict[str, dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    """Every promise that the scores break."""
    scores = report["scores"]
    assert isinstance(scores, dict)
    facts = tasks["seen_facts"]["model"]["seen"]
    unseen = scores["unseen_tasks"]
    above = scores["preference_chosen_above"]
    rules = {
        "at least 300 facts": facts["facts"] >= 300,
        "3 facts or more from each of at least 50 pages": facts["pages_with_3_facts"] >= 50,
        "seen_facts at least 80%": scores["seen_facts"] >= 0.8,
        "the untrained model answers none": scores["seen_facts_untrained"] == 0,
        "the better unseen task at least 60%": max(unseen.values()) >= 0.6,
        "at least 100 held-out pairs": scores["preference_pairs"] >= 100,
        "chosen above rejected: 10 points more, or 90%": above["after"] >= min(0.9, above["before"] + 0.1),
        "DPO costs at most 3 points of seen_facts": scores["seen_facts"] >= scores["seen_facts_before"] - 0.03,
        "at most 4 GiB of memory": int(str(report["peak_memory_bytes"])) <= 4 << 30,
    }
    return [name for name, holds in rules.items() if not holds]


def main() -> int:
    """Print scores and what they break."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(report["stages"]["eval"]["out"])
    tasks = json.loads((out / "scores.json").read_text(encoding="utf-8"))["tasks"]
    print(
        json.dumps(
            {"seconds": report["seconds"], "peak_memory_bytes": report["peak_memory_bytes"], **report["scores"]},
            indent=1,
        )
    )
    documents = Path(report["stages"]["scrape"]["out"]) / "documents.jsonl"
    broken = [*misses(report, tasks), *untraced(Path(report["model"]), documents)]
    for name in broken:
        print(f"broken: {name}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
