"""Answers that runs share: nothing that decides an answer is left out, and two processes may use one folder."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import STRATEGIES, Server, config, rows, run
from test_teachers_resume import ROOT, RUNS

from cirilla_cli.cli.pipeline import _external
from cirilla_cli.data.parts import Share
from cirilla_cli.data.rows import Message
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.cache import Cache
from cirilla_cli.synth.run import synthesize
from cirilla_cli.synth.shared import synth_merge, synth_share
from cirilla_cli.teachers.base import Completion, Request
from cirilla_cli.teachers.config import OllamaConfig


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", STRATEGIES)
def test_another_run_of_the_same_requests_asks_nobody_and_makes_the_same_bytes(
    tmp_path: Path, serve: Callable[..., Server], name: str
) -> None:
    server = serve()
    kind, _, _, options = RUNS[name]
    more = {"strategy": {"kind": name, **options}, "max_tokens": 512, "cache": str(tmp_path / "answers"), "judge": {}}
    first = run(tmp_path, server.teacher(kind), 3, out="one", **more)
    assert first.spent is not None
    sent = len(server.bodies)
    assert len(files(tmp_path / "answers")) == len(server.requests) == sent
    again = run(tmp_path, server.teacher(kind), 3, out="two", **more)
    assert again.spent is not None
    assert (again.spent["asked"], len(server.bodies)) == (0, sent)
    for file in ("samples.jsonl", "rejects.jsonl", "duplicates.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    server.close()
    (tmp_path / "answers").rename(tmp_path / "gone")
    run(tmp_path, server.teacher(kind), 3, out="two", **more)  # its own journal has all of it


def test_whatever_decides_an_answer_is_part_of_its_name(tmp_path: Path) -> None:
    teachers = [
        OllamaConfig(model="a"), OllamaConfig(model="b"), OllamaConfig(model="a", think=True),
        OllamaConfig(model="a", num_ctx=100),
    ]  # fmt: skip
    said = (Message(role="user", content="x"),)
    requests = [
        Request(said), Request((Message(role="user", content="y"),)), Request(said, {"type": "object"}),
        Request(said, max_tokens=7), Request(said, temperature=0.5), Request(said, seed=1), Request(said, until="."),
    ]  # fmt: skip
    caches = [Cache(tmp_path, teacher.build()) for teacher in teachers]
    for one, cache in enumerate(caches):
        for other, request in enumerate(requests):
            assert cache.get(request) is None
            cache.put(request, Completion(f"{one} {other}", True, 3, None))
    for one, cache in enumerate(caches):
        for other, request in enumerate(requests):
            assert cache.get(request) == Completion(f"{one} {other}", True, 3, None)
    assert len(files(tmp_path)) == len(teachers) * len(requests)


@pytest.mark.parametrize("harm", [b"", b'{"text": "ha', b"[]", b'{"cut": false}', b'{"text": 3}', b"\xff\xfe"])
def test_a_damaged_answer_is_asked_for_again_and_replaced(
    tmp_path: Path, serve: Callable[..., Server], harm: bytes
) -> None:
    server, cache = serve(), tmp_path / "answers"
    run(tmp_path, server.teacher("ollama"), 3, out="one", cache=str(cache))
    whole = [path.read_bytes() for path in files(cache)]
    files(cache)[1].write_bytes(harm)
    run(tmp_path, server.teacher("ollama"), 3, out="two", cache=str(cache))
    assert len(server.bodies) == 4
    assert [path.read_bytes() for path in files(cache)] == whole


RUNNER = """
import sys
from pathlib import Path
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import synthesize
sys.stdin.readline()
synthesize(SynthConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Silent())
"""


def test_two_processes_at_once_share_a_folder(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server, cache = serve(), tmp_path / "answers"
    cache.mkdir()
    section = config(tmp_path, server.teacher("ollama"), 12, cache=str(cache), workers=4).model_dump_json()
    command = [sys.executable, "-W", "error", "-c", RUNNER, section]
    both = [
        subprocess.Popen([*command, str(tmp_path / name)], stdin=subprocess.PIPE, text=True, cwd=ROOT)
        for name in ("one", "two")
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(120) for process in both] == [0, 0]
    for process in both:
        assert process.stdin is not None
        process.stdin.close()
    assert (tmp_path / "one" / "samples.jsonl").read_bytes() == (tmp_path / "two" / "samples.jsonl").read_bytes()
    assert len(rows(tmp_path / "one" / "samples.jsonl")) == 12
    assert len(files(cache)) == 12, "nothing half-written is left"
    assert all(json.loads(path.read_bytes())["text"] for path in files(cache))
    assert max(server.requests.values()) <= 2


def test_shares_with_a_folder_of_their_own_merge(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    run(tmp_path, server.teacher("ollama"), 4, out="whole")

    def shared(cache: str) -> Any:
        return config(tmp_path, server.teacher("ollama"), 4, cache=str(tmp_path / cache))

    synth_share(shared("a"), tmp_path / "out", Share(1, 2), Silent())
    synth_share(shared("b"), tmp_path / "out", Share(2, 2), Silent())
    synth_merge(shared("c"), tmp_path / "out", Silent())
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert set(server.requests.values()) == {2}


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path, serve: Callable[..., Server]) -> None:
    (tmp_path / "file").write_text("x")
    section = config(tmp_path, serve().teacher("ollama"), 1, cache=str(tmp_path / "file"))
    with pytest.raises(CirillaError, match=r"`synth\.source\.cache` is .*file: must be a folder"):
        synthesize(section, tmp_path / "out", Silent())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which nobody may write, root included")
def test_a_folder_that_cannot_be_written_is_named_before_anything_is_asked(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    with pytest.raises(CirillaError, match=r"`synth\.source\.cache` is /proc: must be a folder that can be written"):
        synthesize(config(tmp_path, server.teacher("ollama"), 1, cache="/proc"), tmp_path / "out", Silent())
    assert not server.bodies


def test_a_folder_of_answers_makes_no_stage_stale(tmp_path: Path, serve: Callable[..., Server]) -> None:
    (tmp_path / "answers").mkdir()
    section = config(tmp_path, serve().teacher("ollama"), 1, cache=str(tmp_path / "answers"))
    before = _external(section)
    (tmp_path / "answers" / "more").write_text("x")
    assert _external(section) == before
    assert list(before) == [str(tmp_path / "documents.jsonl")]
