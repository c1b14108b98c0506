"""Speed of the check that rows go through before anything is made of them, and whether it finds what is wrong.

    python -m benchmarks.validate [--rows 1000000] [--faults 50]

Two measurements in one process and one thread, on rows of about 1 kB:

- MB/s of `check_inputs` on a file of good rows, against `json.loads` alone and against `json.loads` with
  pydantic, on the same lines, in turns; the fastest of several rounds each.
- A file of ``--rows`` rows, of which ``--faults`` of each of twenty kinds of corruption
  (`tests.data.corruptions`) stand at places drawn by seed. Every one must be named with its
  line, and nothing else; else exit 1.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cirilla_cli.data.inputs import check_inputs
from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.errors import CirillaError
from tests.data.corruptions import KINDS, good_rows

_SPEED_ROWS = 60_000
_ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--faults", type=int, default=50, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("document", "chat"):
            compare(kind, Path(folder) / f"{kind}.jsonl")
        return campaign(Path(folder) / "rows.jsonl", arguments.rows, arguments.faults)


def compare(kind: str, path: Path) -> None:
    """Print the speeds on good rows of one kind."""
    with path.open("wb") as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in good_rows(kind, _SPEED_ROWS))
    size = path.stat().st_size / 1e6
    model = Document if kind == "document" else Sample
    ways: dict[str, Callable[[], object]] = {
        "check_inputs": lambda: check_inputs([path]),
        "json.loads": lambda: sum(1 for _ in _loaded(path)),
        "json.loads + pydantic": lambda: sum(1 for data in _loaded(path) if model.model_validate(data)),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - start)
    print(f"{kind} rows of {size * 1e6 / _SPEED_ROWS:,.0f} bytes, {size:.0f} MB:")
    for name, seconds in best.items():
        ratio = best["check_inputs"] / seconds
        print(f"  {name:22} {size / seconds:7.1f} MB/s   {ratio:5.2f} of check_inputs")


def _loaded(path: Path) -> Iterator[object]:
    with path.open("rb") as file:
        yield from map(json.loads, file)


def campaign(path: Path, rows: int, faults: int) -> int:
    """Plant corruptions, look for all of them, and say what was missed."""
    planted = plant(path, rows, faults)
    start, found, clock = time.monotonic(), dict[int, str](), time.process_time()
    try:
        check_inputs([path])
    except CirillaError as error:
        found = {where.line: where.expected or "" for where in error.where if where.line and where.file == str(path)}
    wall, cpu = time.monotonic() - start, time.process_time() - clock
    missed, invented = planted.keys() - found.keys(), found.keys() - planted.keys()
    size = path.stat().st_size / 1e6
    print(
        f"\n{rows:,} rows, {size:,.0f} MB, {len(planted):,} corrupted, checked in {wall:.1f} s ({size / cpu:.0f} MB/s)"
    )
    for kind in KINDS:
        lines = [line for line, name in planted.items() if name == kind]
        hits = [line for line in lines if line in found]
        example = found[hits[0]][:70] if hits else "-"
        print(f"  {kind:28} {len(hits):5} of {len(lines):5} found   {example}")
    print(f"missed {len(missed)}, invented {len(invented)}")
    return 1 if missed or invented else 0


def plant(path: Path, rows: int, faults: int) -> dict[int, str]:
    """Write good rows with corruptions among them; returns the kind of each, by line."""
    draw = random.Random(0)
    torn = next(iter(name for name in KINDS if name == "torn last line"))
    names = [name for name in KINDS if name != torn] * faults
    planted = dict(zip(sorted(draw.sample(range(1, rows), len(names))), draw.sample(names, len(names)), strict=True))
    planted[rows] = torn
    sources = [
        json.dumps(row, ensure_ascii=False).encode() for kind in ("document", "chat") for row in good_rows(kind, 500)
    ]
    with path.open("wb") as file:
        for line in range(1, rows + 1):
            raw = sources[line % len(sources)]
            file.write(KINDS[planted[line]](raw) if line in planted else raw + b"\n")
    return planted


if __name__ == "__main__":
    sys.exit(main())
