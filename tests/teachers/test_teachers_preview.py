"""A look before a long run, and the account after it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import Server, config, rows, run

from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import look, synthesize


def test_a_look_asks_about_the_first_parts_alone_and_the_run_does_not_ask_again(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(lambda prompt, n: "prose" if "Mill 1\n" in prompt else None)
    section = config(tmp_path, server.teacher("ollama"), 12, retries=1)
    found = look(section, tmp_path / "out", 3, Silent())
    assert [row["parents"] for row in found.samples] == [["0"], ["2"]]
    assert [row["reason"] for row in found.rejected] == ["not the JSON asked for"]
    assert len(server.bodies) == 4
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    assert "What is told of Mill 2?" in found.text()
    assert "rejected: not the JSON asked for" in found.text()
    synthesize(section, tmp_path / "out", Silent())
    assert len(server.bodies) == 4 + 9


def test_the_estimate_is_the_first_parts_cost_times_the_number_of_parts(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    section = config(tmp_path, serve().teacher("openai"), 12, strategy={"kind": "variants", "rounds": 2})
    estimate = look(section, tmp_path / "out", 4, Silent()).estimate
    assert estimate is not None
    # The scripted server counts 100 tokens for each prompt and 10 for each answer.
    assert (estimate.parts, estimate.requests, estimate.prompt_tokens, estimate.tokens) == (12, 24, 2400, 240)
    assert estimate.seconds > 0
    assert look(section, tmp_path / "out", 4, Silent()).estimate is None, "all on record: nothing was measured"


def test_the_estimate_has_a_cost_where_prices_are_known(tmp_path: Path, serve: Callable[..., Server]) -> None:
    teacher = serve().teacher("openai", price={"input": 2000.0, "output": 50_000.0})
    found = look(config(tmp_path, teacher, 12), tmp_path / "out", 4, Silent())
    assert found.estimate is not None
    # 12 requests: 1,200 tokens read at 0.002, 120 written at 0.05.
    assert found.estimate.cost == pytest.approx(2.4 + 6.0)
    assert found.text().endswith(", at a cost of about 8.40")
    free = look(config(tmp_path, serve().teacher("openai"), 3), tmp_path / "free", 3, Silent())
    assert "cost" not in free.text()


def test_a_price_of_the_judge_s_own_is_refused(tmp_path: Path) -> None:
    judge = {"teacher": {"kind": "openai", "price": {"input": 1.0, "output": 1.0}}}
    with pytest.raises(ValueError, match="counted with the teacher's: leave it out"):
        config(tmp_path, {"kind": "openai"}, judge=judge)


def test_a_limit_bounds_the_look_and_its_estimate(tmp_path: Path, serve: Callable[..., Server]) -> None:
    section = config(tmp_path, serve().teacher("openai"), 12, limit=5)
    found = look(section, tmp_path / "out", 9, Silent())
    assert len(found.samples) == 5
    assert found.estimate is not None
    assert found.estimate.parts == 5


def test_rules_show_their_first_samples(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": "1", "title": "Odo", "text": "Odo is a smith. He forges."}\n')
    found = look(SynthConfig.model_validate({"inputs": str(path)}), tmp_path / "out", 2, Silent())
    assert len(found.samples) == 2
    assert found.estimate is None


def test_standard_input_cannot_be_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match="standard input can be read once"):
        look(SynthConfig.model_validate({"inputs": "-"}), tmp_path / "out", 2, Silent())


def test_the_account_counts_requests_and_shows_rejects_with_their_reasons(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(
        lambda prompt, n: "prose" if "Mill 1" in prompt else "busy" if n == 0 and "Mill 0" in prompt else None
    )
    report = run(tmp_path, server.teacher("openai"), 3, retries=1)
    assert report.spent is not None
    assert {key: report.spent[key] for key in ("asked", "on_record", "failed", "prompt_tokens", "tokens")} == {
        "asked": 4, "on_record": 0, "failed": 0, "prompt_tokens": 400, "tokens": 40,
    }  # fmt: skip
    told = (tmp_path / "out" / "summary.md").read_text()
    assert "2 samples of 2 pages" in told
    assert "| not the JSON asked for | 1 |" in told
    assert "does not parse" in told.partition("## not the JSON asked for")[2]
    again = run(tmp_path, server.teacher("openai"), 3, retries=1)
    assert again.spent is not None
    assert (again.spent["asked"], again.spent["on_record"]) == (0, 4)


def test_the_command_prints_the_look_or_one_object(tmp_path: Path, serve: Callable[..., Server]) -> None:
    section = config(tmp_path, serve().teacher("ollama"), 6)
    url = section.source.teacher.url  # type: ignore[union-attr]
    command = [sys.executable, "-m", "cirilla_cli", "synth", str(section.inputs[0]), "--teacher", f"ollama:tiny@{url}"]
    for flags in ([], ["--json"]):
        done = subprocess.run(
            [*command, "--preview", "2", "--out", str(tmp_path / f"out{len(flags)}"), *flags],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        if flags:
            assert json.loads(done.stdout)["estimate"]["parts"] == 6
        else:
            assert "user: What is told of Mill 1?" in done.stdout
            assert "all of it: 6 parts of pages, about 6 requests, 6,000 tokens read" in done.stdout
    assert len(rows(tmp_path / "out0" / "journal.jsonl")) == 2
    done = subprocess.run([*command, "--preview", "0"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "`--preview` is 0: must be at least 1" in done.stderr
