"""A few cases of the fault campaign, and that it would notice what it looks for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_run_is_lost_and_none_becomes_another(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "benchmarks.faults", "--fast", "--results", str(tmp_path / "faults.jsonl")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("| all |")
    assert last.endswith("| 0 | 0 | 0 |")
    assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == int(last.split("|")[2])


def test_the_campaign_sees_a_run_that_is_another_and_a_refusal_that_names_nothing(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.fault_lab import Ended, refused
        from benchmarks.faults import table
    finally:
        sys.path.remove(str(ROOT))
    assert refused(Ended(1, "error: `seed` was 0, is 7"), "`seed`") == "refused"
    assert refused(Ended(1, "error: no"), "`seed`").startswith("DIFFERENT")
    assert refused(Ended(0, "`seed`"), "`seed`").startswith("DIFFERENT")
    assert refused(Ended(1, "Traceback\n`seed`"), "`seed`").startswith("DIFFERENT")
    record = {"case": "a", "kind": "k", "expected": "same bits", "outcome": "LOST: exit 1"}
    assert table([record]).splitlines()[-1] == "| all | 1 | 0 | 0 | 0 | 1 | 0 |"
