"""The tasks of reasoning-gym that are made where none is named: all but those listed here, each with its reason.

`python -m benchmarks.gym_tasks` tries every task anew and fails where it comes to another end (reasoning-gym 0.1.25).
"""

from cirilla_cli.verify import gym
from cirilla_cli.verify.whitelist import EVALUATING

_SLOW = ("futoshiki", "quantum_lock", "sokoban", "zebra_puzzles")
_REPEATING = ("coin_flip", "string_splitting", "string_synthesis", "tower_of_hanoi")

EXCLUDED: dict[str, str] = {
    **dict.fromkeys(_SLOW, "fewer than 30 instances a second"),
    **dict.fromkeys(_REPEATING, "instances repeat one another"),
    **dict.fromkeys(sorted(gym.UNSTABLE), "instances depend on the hash seed or the order of access"),
    **dict.fromkeys(sorted(EVALUATING), "its scorer runs answers as code"),
    **dict.fromkeys(sorted(gym.ANSWERLESS), "no reference answer"),
}


def curated() -> list[str]:
    """Names of the tasks that are fast, repeatable, have an answer, and whose scorers are safe and fair.

    Raises:
        CirillaError: reasoning-gym is not installed.
    """
    return [name for name in gym.names() if name not in EXCLUDED]
