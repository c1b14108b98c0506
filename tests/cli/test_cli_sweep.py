"""`cirilla sweep`: what is tried, that it goes on, and what it refuses."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from program import call

from cirilla_cli.cli.sweep import read_spaces, settings_of
from cirilla_cli.errors import CirillaError

WORDS = ["sweep", "tiny.yaml", "optim.lr=log(1e-4,1e-2)", "train.batch_tokens=of(128,256)", "-q"]


def swept(*words: str) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_trials_are_runs_and_the_least_loss_is_the_best(lab: Path) -> None:
    found = swept(*WORDS, "--trials", "2", "--out", "swept")
    losses = [json.loads((lab / trial["out"] / "report.json").read_text())["loss"] for trial in found["trials"]]
    assert [trial["loss"] for trial in found["trials"]] == losses
    assert found["best"]["loss"] == min(losses)
    assert [Path(trial["out"]).name for trial in found["trials"]] == ["trial-000", "trial-001"]
    table = call(*WORDS, "--trials", "2", "--out", "swept").out.splitlines()
    assert float(table[2].split()[3]) == pytest.approx(min(losses), abs=1e-4)


def test_a_sweep_that_was_cut_short_goes_on_with_the_same_trials(lab: Path) -> None:
    whole = swept(*WORDS, "--trials", "3", "--out", "whole")
    swept(*WORDS, "--trials", "1", "--out", "part")
    first = (lab / "part" / "trial-000" / "metrics.jsonl").stat().st_mtime_ns
    part = swept(*WORDS, "--trials", "3", "--out", "part")
    assert (lab / "part" / "trial-000" / "metrics.jsonl").stat().st_mtime_ns == first
    assert [(t["settings"], t["loss"]) for t in part["trials"]] == [(t["settings"], t["loss"]) for t in whole["trials"]]
    other = call(*WORDS[:2], "optim.lr=log(1e-4,1e-1)", *WORDS[3:], "--out", "part")
    assert (other.code, "another sweep: `spaces` was" in other.err) == (1, True)


def test_a_value_that_will_not_do_is_refused_before_the_first_trial(lab: Path) -> None:
    done = call("sweep", "tiny.yaml", "train.batch_tokens=of(128,-1)", "--by", "grid", "--out", "refused")
    assert (done.code, "`train.batch_tokens`" in done.err) == (1, True), done
    assert not (lab / "refused").exists()


def test_random_trials_follow_from_seed_number_and_key_alone() -> None:
    spaces, plain = read_spaces(["a.b=log(1e-4,1e-2)", "c=int(2,4)", "d=lin(0,1)", "e=of(x,y)", "f=3"])
    assert plain == ["f=3"]
    drawn = [settings_of(spaces, "random", 7, number, ()) for number in range(200)]
    assert drawn[5] == settings_of(spaces[::-1], "random", 7, 5, ()) != settings_of(spaces, "random", 8, 5, ())
    assert {one["c"] for one in drawn} == {2, 3, 4}
    assert {one["e"] for one in drawn} == {"x", "y"}
    logs = sorted(math.log10(one["a.b"]) for one in drawn)
    assert -4 <= logs[0] < logs[-1] <= -2
    assert logs[100] == pytest.approx(-3, abs=0.25)  # evenly over magnitudes


def test_a_grid_is_every_combination_once() -> None:
    spaces, _ = read_spaces(["a=log(1e-4,1e-2,3)", "b=of(x,y)"])
    found = [settings_of(spaces, "grid", 0, number, ()) for number in range(6)]
    assert [one["a"] for one in found[::2]] == [1e-4, 1e-3, 1e-2]
    assert len({tuple(one.values()) for one in found}) == 6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tiny.yaml", "train.steps=2"], "nothing is varied"),
        (["tiny.yaml", "optim.lr=lg(1,2)"], "must be one of log(1e-4, 3e-3)"),
        (["tiny.yaml", "optim.lr=log(0,2)"], "the first must be below the second, and above 0"),
        (["tiny.yaml", "optim.lr=log(3,2)"], "the first must be below the second"),
        (["tiny.yaml", "optim.lr=log(1,x)"], "wants numbers"),
        (["tiny.yaml", "optim.lr=log(1,2,1)"], "the number of points of a grid"),
        (["tiny.yaml", "a=int(1.5,3)"], "wants whole numbers"),
        (["tiny.yaml", "a=of(1)"], "two different values"),
        (["tiny.yaml", "a=of(1,2)", "a=of(1,3)"], "`a` is varied twice"),
        (["tiny.yaml", "a=log(1,2)", "--by", "grid"], "a grid needs its number of points"),
        (["tiny.yaml", "a=of(1,2)", "--by", "grid", "--trials", "3"], "at most 2"),
        (["tiny.yaml", "a=of(1,2)", "--by", "luck"], "`--by` is 'luck'"),
        (["tiny.yaml", "optim.lrr=log(1,2)"], "did you mean `lr`"),
        (["quickstart/scrape", "seed=of(1,2)"], "which trains no model"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(words: list[str], says: str, lab: Path) -> None:
    done = call("sweep", *words, "--out", "nothing")
    assert (done.code, says in done.err) == (1, True), done
    assert not (lab / "nothing").exists()


def test_optuna_proposes_within_the_ranges_and_says_how_to_install_it() -> None:
    spaces, _ = read_spaces(["a=log(1e-4,1e-2)", "b=of(x,y)", "c=int(1,3)"])
    try:
        import optuna  # noqa: F401
    except ImportError:
        from cirilla_cli.errors import CirillaError

        with pytest.raises(CirillaError) as refused:
            settings_of(spaces, "optuna", 0, 0, ())
        assert refused.value.hint == "pip install 'cirilla-cli[optuna]'"
        return
    found = settings_of(spaces, "optuna", 0, 0, ())
    assert found == settings_of(spaces, "optuna", 0, 0, ())
    assert 1e-4 <= found["a"] <= 1e-2
    assert (found["b"] in {"x", "y"}, found["c"] in {1, 2, 3}) == (True, True)


def test_a_grid_is_counted_and_not_built() -> None:
    spaces, _ = read_spaces(["train.steps=int(1,4000000000)", "optim.kind=of(adamw,muon)"])
    assert settings_of(spaces, "grid", 0, 5, ()) == {"train.steps": 3, "optim.kind": "muon"}


def test_a_key_is_varied_or_given() -> None:
    with pytest.raises(CirillaError, match="is varied, and given one value too"):
        read_spaces(["optim.lr=of(1e-3,1e-4)", "optim.lr=1e-3"])


def test_a_run_that_finds_no_way_back_has_diverged(lab: Path) -> None:
    words = ["tiny.yaml", "optim.lr=of(1e-3,1e30)", "train.steps=12", "train.divergence.action=rollback",
             "checkpoint.every=2", "--by", "grid", "--json"]  # fmt: skip
    done = call("sweep", *words)
    assert done.code == 0, done
    trials = json.loads(done.out)["trials"]
    assert [trial["loss"] is None for trial in trials] == [False, True]
    assert trials[1]["step"] > 0


def test_a_sweep_all_of_whose_trials_diverged_fails_and_has_no_best(lab: Path) -> None:
    words = ["tiny.yaml", "optim.lr=of(1e29,1e30)", "train.steps=12", "--by", "grid", "--out", "swept", "--json"]
    done = call("sweep", *words)
    assert done.code == 1, done
    found = json.loads(done.out)
    assert found["best"] is None
    assert [trial["loss"] for trial in found["trials"]] == [None, None]
