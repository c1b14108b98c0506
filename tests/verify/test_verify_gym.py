"""reasoning-gym behind its door: instances repeat exactly, and model text never runs as code."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym.factory as factory
from hostile import BRACKETS, CODE, ODD, POWERS

from cirilla_cli.errors import CirillaError
from cirilla_cli.verify import gym
from cirilla_cli.verify.gym_worker import CORRECT, GymScorer
from cirilla_cli.verify.whitelist import EVALUATING, allowed

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ["leg_counting", "word_sequence_reversal", "gsm_symbolic", "rearc", "acre", "word_ladder", "bf"]


@functools.cache
def _made(name: str) -> str:
    return json.dumps(gym.make(name, {}, 0, 0))


def made(name: str) -> dict[str, Any]:
    """A fresh copy of one instance; some take a second to make."""
    entry: dict[str, Any] = json.loads(_made(name))
    return entry


@pytest.fixture(scope="module")
def scorer() -> Iterator[GymScorer]:
    with GymScorer() as scorer:
        yield scorer


@pytest.mark.parametrize("name", SAMPLE)
def test_the_reference_answer_scores_one_after_a_round_trip_through_json(scorer: GymScorer, name: str) -> None:
    for entry in gym.entries(name, {}, 3, [0, 1_000_000]):
        entry = json.loads(json.dumps(entry))
        assert scorer.score(name, {}, 3, entry, entry["answer"]) >= CORRECT
        assert scorer.score(name, {}, 3, entry, "surely not this") < CORRECT


RISKY = (*sorted(EVALUATING), "prime_factorization", "palindrome_partitioning", "complex_arithmetic")
"""All whose scorers run answers as code, and three that parse numbers and JSON of their own; the last takes NaN."""


@pytest.mark.parametrize("name", RISKY)
def test_hostile_answers_are_never_executed_never_hang_and_score_nothing(
    scorer: GymScorer, name: str, tmp_path: Path
) -> None:
    entry, trap = made(name), tmp_path / "owned"
    code = [text.format(trap=trap) for text in CODE]
    for answer in (*code, *POWERS, *BRACKETS, *ODD):
        assert scorer.score(name, {}, 0, entry, answer) < CORRECT, answer[:80]
    assert not trap.exists()
    assert name not in EVALUATING or not any(allowed(name, answer, entry) for answer in code)
    assert scorer.score(name, {}, 0, entry, entry["answer"]) >= CORRECT, "the next answer is scored"


@pytest.mark.parametrize("name", ["polynomial_multiplication", "simple_integration", "intermediate_integration"])
def test_a_hostile_row_creates_no_file_either(scorer: GymScorer, name: str, tmp_path: Path) -> None:
    trap = tmp_path / "owned"
    hostile = f"__import__('os').system('touch {trap}')"
    entry = made(name)
    entry["answer"], entry["metadata"]["integrand"] = hostile, hostile
    assert scorer.score(name, {}, 0, entry, "x") < CORRECT
    assert not trap.exists()


def test_a_scorer_that_takes_too_long_is_killed_and_the_next_answer_is_scored() -> None:
    """What the whitelist lets through is stopped by the limit on processor time; C code cannot hold it off."""
    entry = gym.make("simple_integration", {}, 0, 0)
    variable = entry["metadata"]["variable"]
    slow = "*".join(f"({variable}+{i})**99" for i in range(9))
    assert allowed("simple_integration", slow, entry)
    with GymScorer(seconds=0.3) as scorer:
        assert scorer.score("simple_integration", {}, 0, entry, slow) == 0.0
        assert scorer.restarts == 1
        assert scorer.score("simple_integration", {}, 0, entry, entry["answer"]) >= CORRECT


def test_a_scorer_that_raises_gives_nothing(scorer: GymScorer) -> None:
    entry = gym.make("prime_factorization", {}, 0, 0)
    assert scorer.score("prime_factorization", {}, 0, entry, "not a number") == 0.0
    assert scorer.score("prime_factorization", {}, 0, entry, entry["answer"]) >= CORRECT


def test_any_text_is_not_a_right_answer_to_game_of_life_halting(scorer: GymScorer) -> None:
    entry = gym.make("game_of_life_halting", {}, 0, 0)
    wrong = "False" if entry["answer"] == "True" else "True"
    assert scorer.score("game_of_life_halting", {}, 0, entry, wrong) == 0.0
    assert scorer.score("game_of_life_halting", {}, 0, entry, entry["answer"]) == 1.0


def test_instances_do_not_depend_on_the_hash_seed_or_the_order_of_access() -> None:
    code = (
        "import json, sys; from cirilla_cli.verify import gym; "
        "print(json.dumps([list(gym.entries(name, {}, 5, json.loads(sys.argv[1]))) for name in sys.argv[2:]]))"
    )

    def run(hash_seed: str, indices: list[int]) -> list[Any]:
        command = [sys.executable, "-c", code, json.dumps(indices), "ransom_note", "list_functions"]
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

    forward, backward = run("1", [0, 1, 2, 3, 4, 5]), run("2", [5, 4, 3, 2, 1, 0])
    assert forward == [entries[::-1] for entries in backward]


def test_item_i_of_a_seed_is_item_zero_of_the_seed_plus_i() -> None:
    later, first = gym.make("leg_counting", {}, 10, 7), gym.make("leg_counting", {}, 17, 0)
    assert later["question"] == first["question"]


def oracle(name: str, level: int, further: str, seed: int, index: int) -> Any:
    """What reasoning-gym's own curriculum makes, with one attribute one level higher."""
    curriculum = factory.create_curriculum(name)
    curriculum.set_global_level(level)
    assert not further or curriculum.increment_attr_level(further)
    config = curriculum.generate_configuration({"seed": seed, "size": 10})
    return json.loads(json.dumps(factory.DATASETS[name][0](config)[index], default=str))


@pytest.mark.parametrize(
    ("name", "level", "further"),
    [
        ("chain_sum", 0, ""),
        ("chain_sum", 10, ""),  # num_digits ends at 9
        ("chain_sum", 2, "num_terms"),
        ("leg_counting", 3, ""),
        ("complex_arithmetic", 1, "operations_weights"),  # a list
        ("calendar_arithmetic", 1, "tasks"),  # a list of texts
        ("gcd", 2, ""),
    ],
)
def test_a_level_makes_what_the_curriculum_of_reasoning_gym_makes(
    scorer: GymScorer, name: str, level: int, further: str
) -> None:
    options = gym.options(name, level, {further: level + 1} if further else {}, {})
    options = json.loads(json.dumps(options))  # as a row keeps them
    for index in (0, 4):
        entry = gym.make(name, options, 6, index)
        wanted = oracle(name, level, further, 6, index)
        assert (entry["question"], entry["answer"]) == (wanted["question"], wanted["answer"])
        assert scorer.score(name, options, 6, entry, entry["answer"]) >= CORRECT
    assert level == 0 or gym.make(name, options, 6, 4) != gym.make(name, gym.options(name, 0, {}, {}), 6, 4)


def test_levels_of_attributes_begin_at_the_first_and_own_options_come_on_top() -> None:
    assert gym.options("chain_sum", None, {}, {"max_terms": 3}) == {"max_terms": 3}
    first = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    assert gym.options("chain_sum", 0, {}, {}) == first
    assert gym.options("chain_sum", None, {"num_digits": 3}, {}) == first | {"max_digits": 4}
    assert gym.options("chain_sum", 2, {"num_digits": 0}, {}) == first | {"max_terms": 4}
    assert gym.options("chain_sum", 2, {}, {"min_terms": 4}) == first | {
        "min_terms": 4,
        "max_terms": 4,
        "max_digits": 3,
    }


@pytest.mark.parametrize(
    ("name", "level", "levels", "said", "hint"),
    [
        ("chain_sum", 11, {}, "`level` is 11, and the highest of `chain_sum` is 10", "10, num_digits 0 to 9"),
        ("chain_sum", None, {"num_digits": 10}, "`levels.num_digits` is 10, and the highest .* is 9", "_terms 0 to 10"),
        ("chain_sum", 99, {"terms": 1}, "`level` is 99(.|\n)*names `terms`, which is no attribute", "_digits 0 to 9"),
        ("acre", 0, {}, "`acre` has no curriculum", "under `config`"),
        ("chan_sum", 0, {}, "no task `chan_sum`", "did you mean `chain_sum`"),
    ],
)  # fmt: skip
def test_what_a_curriculum_does_not_have_is_named(
    name: str, level: int | None, levels: dict[str, int], said: str, hint: str
) -> None:
    with pytest.raises(CirillaError, match=said) as caught:
        gym.options(name, level, levels, {})
    assert hint in str(caught.value.hint)


def test_a_misspelt_task_names_the_nearest() -> None:
    with pytest.raises(CirillaError) as caught:
        gym.make("leg_countin", {}, 0, 0)
    assert caught.value.hint == "did you mean `leg_counting`?"


def test_a_misspelt_option_names_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(CirillaError, match="did you mean `min_animals`") as caught:
        gym.make("leg_counting", {"min_animal": 1}, 0, 0)
    assert "max_animals" in str(caught.value.hint)


def test_a_refused_option_is_a_users_mistake() -> None:
    with pytest.raises(CirillaError, match="refuses its options"):
        gym.make("leg_counting", {"min_animals": 9, "max_animals": 1}, 0, 0)


def test_tasks_without_a_reference_answer_make_no_samples() -> None:
    with pytest.raises(CirillaError, match="no reference answer"):
        gym.check_task("rush_hour", {}, needs_answer=True)
    assert gym.make("rush_hour", {}, 0, 0)["answer"] is None
