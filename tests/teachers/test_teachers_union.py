"""What holds of every way of asking a teacher: shares, looks, and servers that fail now and then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import STRATEGIES, Server, config, rows
from test_teachers_resume import RUNS

from cirilla_cli.data.parts import Share
from cirilla_cli.progress import Silent
from cirilla_cli.synth.run import look, synthesize
from cirilla_cli.synth.shared import synth_merge, synth_share

PAGES = 6
ROWS = ("samples.jsonl", "rejects.jsonl", "duplicates.jsonl")
EVERY = pytest.mark.parametrize("name", STRATEGIES)


def section(folder: Path, server: Server, name: str, pages: int = PAGES, **more: Any) -> Any:
    kind, _, _, options = RUNS[name]
    source = {"strategy": {"kind": name, **options}, "max_tokens": 512, **more}
    return config(folder, server.teacher(kind), pages, **source)


def left(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ROWS]


def test_every_way_of_asking_is_killed_and_resumed_somewhere() -> None:
    assert sorted(RUNS) == sorted(STRATEGIES)


PASSING = ["busy", "torn", "closed", "half a body", "thinking", "length", "prose", "no text", "fields missing"]


@EVERY
def test_faults_that_pass_change_no_byte_of_the_rows(tmp_path: Path, serve: Callable[..., Server], name: str) -> None:
    calm = section(tmp_path, serve(), name)
    synthesize(calm, tmp_path / "calm", Silent())
    assert rows(tmp_path / "calm" / "samples.jsonl")

    # A prompt's first answer fails, in a way that its length decides, so that every class comes about.
    def fault(prompt: str) -> str:
        return PASSING[len(prompt) % len(PASSING)]

    rough = serve(lambda prompt, n: fault(prompt) if n == 0 else None)
    synthesize(section(tmp_path, rough, name, workers=12), tmp_path / "rough", Silent())
    assert left(tmp_path / "rough") == left(tmp_path / "calm")
    assert rough.asked == {prompt: 1 if fault(prompt) == "thinking" else 2 for prompt in rough.asked}


@EVERY
def test_what_never_fits_ends_among_the_rejects_and_the_other_pages_stay(
    tmp_path: Path, serve: Callable[..., Server], name: str
) -> None:
    for fault, reason in {
        "prose": "not the JSON asked for", "length": "the answer was cut off twice",
        "refused": "the server refused the request",
    }.items():  # fmt: skip
        server = serve(lambda prompt, n, fault=fault: fault if "tells of mill 0" in prompt else None)
        report = synthesize(section(tmp_path, server, name, 3, retries=1), tmp_path / fault, Silent())
        assert report.rejected.get(reason, 0) >= 1
        made = rows(tmp_path / fault / "samples.jsonl")
        assert made
        assert not any(row["parents"][0] == "0" for row in made)


@EVERY
def test_shares_make_the_rows_of_one_process_and_ask_nothing_twice(
    tmp_path: Path, serve: Callable[..., Server], name: str
) -> None:
    whole, shared = serve(), serve()
    synthesize(section(tmp_path, whole, name), tmp_path / "whole", Silent())
    parts = section(tmp_path, shared, name)
    for number in (2, 1, 3):
        synth_share(parts, tmp_path / "shared", Share(number, 3), Silent())
    synth_merge(parts, tmp_path / "shared", Silent())
    assert left(tmp_path / "shared") == left(tmp_path / "whole")
    assert shared.requests == whole.requests


@EVERY
def test_a_look_shows_rows_and_tells_the_cost_and_its_answers_are_kept(
    tmp_path: Path, serve: Callable[..., Server], name: str
) -> None:
    server = serve()
    asking = section(tmp_path, server, name)
    found = look(asking, tmp_path / "out", 2, Silent())
    sent = len(server.bodies)
    assert found.estimate is not None
    assert (found.estimate.parts, found.estimate.requests) == (PAGES, round(sent * PAGES / 2))
    synthesize(asking, tmp_path / "out", Silent())
    assert max(server.requests.values()) == 1
    assert found.samples
    for sample in found.samples:
        assert sample["generator"]["strategy"] in found.text()
        said = sample.get("text") or sample.get("chosen") or sample["messages"][-1]["content"]
        assert said in found.text()
        assert json.dumps(sample["id"]) in (tmp_path / "out" / "samples.jsonl").read_text()
