"""Time to help and to a checked recipe, whole processes: `python benchmarks/startup.py`. Goals: 100, 200 and 200 ms."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

CALLS = {
    "cirilla --help": (["--help"], 100),
    "cirilla pretrain --help": (["pretrain", "--help"], 200),
    "cirilla recipe check quickstart/pretrain": (["recipe", "check", "quickstart/pretrain"], 200),
}


def median_ms(words: list[str], runs: int = 15) -> float:
    """Median wall time of a call, after one that warms the file cache."""
    program = str(Path(sys.executable).parent / "cirilla")
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run([program, *words], check=True, capture_output=True)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


if __name__ == "__main__":
    bare = statistics.median(_ for _ in [median_ms(["--version"])])
    print(f"{'cirilla --version':<44} {bare:6.0f} ms")
    for name, (words, goal) in CALLS.items():
        print(f"{name:<44} {median_ms(words):6.0f} ms   goal {goal}")
