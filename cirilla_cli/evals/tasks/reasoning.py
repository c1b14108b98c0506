"""reasoning-gym tasks on instances no training row holds, scored by their own scorers in another process."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as numbers_from
from itertools import islice
from pathlib import Path
from typing import Any

from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.rows import Sample
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Ask, Subject, user_turn
from cirilla_cli.evals.config import ReasoningTaskConfig
from cirilla_cli.evals.stats import share
from cirilla_cli.verify.gym import entries
from cirilla_cli.verify.gym import options as options_at
from cirilla_cli.verify.gym_worker import CORRECT, GymScorer
from cirilla_cli.verify.match import normalise

LEAST = 200
"""Fewer unseen instances than this are no measurement, unless fewer were asked for."""

COMMON = 0.1
"""From this share on, always giving the commonest answer is too good a guess."""

_TRIES = 50
"""Instances looked at for each one wanted, before a task counts as exhausted."""

SHOWN = 5
"""Wrong answers kept as examples."""

Scorer = Callable[[Mapping[str, Any], str], float]
"""An instance and an answer to a score from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Instances:
    """What is asked, and what was dropped on the way."""

    entries: list[dict[str, Any]]
    seen: int = 0
    """Dropped because their question stands in a training row."""
    repeated: int = 0
    """Dropped because the same question is asked already."""


@dataclass
class SeenQuestions:
    """Questions of training rows by the files they stand in, each file read once for all tasks."""

    _known: dict[tuple[Path, ...], frozenset[str]] = field(default_factory=dict)

    def of(self, paths: tuple[Path, ...]) -> frozenset[str]:
        """Every user turn of the samples in ``paths``, normalised."""
        if paths not in self._known:
            self._known[paths] = frozenset(
                normalise(message.content)
                for record in (read_inputs(paths) if paths else ())
                if isinstance(record, Sample)
                for message in record.messages
                if message.role == "user"
            )
        return self._known[paths]


class ReasoningTask:
    """Instances of one generator; an answer is right when the task's own scorer gives it 1."""

    kind = "reasoning_gym"

    def __init__(self, instances: Instances, scorer: Scorer, most_new: int = 48) -> None:
        self.instances, self.scorer, self.most_new = instances, scorer, most_new

    @classmethod
    def make(cls, config: ReasoningTaskConfig, worker: GymScorer, seen: SeenQuestions) -> "ReasoningTask":
        """Make instances from index ``start`` on until ``count`` unseen ones stand.

        Raises:
            CirillaError: unknown task, level or option, or too few unseen instances.
        """
        options = options_at(config.name, config.level, config.levels, config.config)
        made = entries(config.name, options, config.seed, _indices(config))
        instances = unseen(made, seen.of(config.exclude), config.count)
        n = len(instances.entries)
        if n < min(config.count, LEAST):
            raise CirillaError(
                f"reasoning-gym's `{config.name}`: only {n} unseen instances among {config.count * _TRIES} "
                f"({instances.seen} stand in training rows, {instances.repeated} repeat others); {LEAST} are needed",
                hint="give the task options that make more different instances, or ask for fewer (`count`)",
            )

        def score(entry: Mapping[str, Any], answer: str) -> float:
            return worker.score(config.name, options, config.seed, entry, answer)

        return cls(instances, score, config.max_new_tokens)

    def score(self, subject: Subject) -> dict[str, Any]:
        """n, correct, accuracy, interval, what was dropped, the commonest answer's share, and a few wrong answers."""
        asked = self.instances.entries
        said = subject.answers([Ask(user_turn(str(entry["question"])), self.most_new) for entry in asked])
        # The template keeps white space around an answer; no scorer should stumble over it.
        right = [self.scorer(entry, text.strip()) >= CORRECT for entry, text in zip(asked, said, strict=True)]
        wrong = [(entry, text) for entry, text, ok in zip(asked, said, right, strict=True) if not ok]
        return {
            **share(sum(right), len(right)),
            "dropped_as_seen": self.instances.seen,
            "dropped_as_repeated": self.instances.repeated,
            "commonest_answer": commonest(asked),
            "wrong": [_example(entry, text) for entry, text in wrong[:SHOWN]],
        }


def unseen(made: Iterable[dict[str, Any]], seen: frozenset[str], wanted: int) -> Instances:
    """The first ``wanted`` instances whose questions are neither in ``seen`` nor asked already."""
    kept: list[dict[str, Any]] = []
    asked: set[str] = set()
    dropped = Counter[str]()
    for entry in made:
        question = normalise(str(entry["question"]))
        if question in seen or question in asked:
            dropped["seen" if question in seen else "repeated"] += 1
            continue
        asked.add(question)
        kept.append(entry)
        if len(kept) == wanted:
            break
    return Instances(kept, dropped["seen"], dropped["repeated"])


def commonest(asked: Sequence[Mapping[str, Any]]) -> float:
    """Share of instances with the commonest reference answer: what always giving it would score."""
    given = Counter(normalise(str(entry["answer"])) for entry in asked)
    return round(max(given.values(), default=0) / max(1, len(asked)), 6)


def _indices(config: ReasoningTaskConfig) -> Iterable[int]:
    return islice(numbers_from(config.start), config.count * _TRIES)


def _example(entry: Mapping[str, Any], said: str) -> dict[str, Any]:
    return {"question": entry["question"], "answers": [entry["answer"]], "said": said}
