"""Verifiable tasks from reasoning-gym, each row with what is needed to judge an answer later."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from cirilla_cli.data.parts import ALONE, Form, Spread
from cirilla_cli.data.rows import Document, Message, Origin, Sample, Verify, short_id
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import GymTaskConfig, ReasoningGymConfig
from cirilla_cli.verify.curated import curated
from cirilla_cli.verify.gym import check_task, entries

Item = tuple[str, int]
"""A task and the index of one instance."""

ENTRY: Form[dict[str, Any]] = Form(dict, dict)
"""An instance, which is JSON already."""


class ReasoningGym:
    """Rows of each task in turn, indices ``start`` to ``start + count``."""

    reads_documents = False

    def __init__(self, config: ReasoningGymConfig, spread: Spread = ALONE) -> None:
        self.config, self._spread = config, spread
        self._seed = config.seed or 0
        self._tasks = config.tasks or {name: GymTaskConfig() for name in curated()}

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield task rows; instances without a reference answer are rejected.

        Raises:
            CirillaError: reasoning-gym is not installed, or a name or option is wrong (before the first row).
        """
        tasks = self._tasks
        for name, task in self.config.tasks.items():
            check_task(name, task.config, needs_answer=True)
        items = ((name, index) for name, task in tasks.items() for index in self._range(task))
        for (name, index), entry in self._spread.each(items, _key, self._entries, ENTRY):
            yield self._row(name, tasks[name], index, entry)
            progress.step(name, index - tasks[name].start + 1, len(self._range(tasks[name])))

    def _range(self, task: GymTaskConfig) -> range:
        return range(task.start, task.start + (task.count or self.config.count))

    def _entries(self, items: Iterator[Item]) -> Iterator[dict[str, Any]]:
        for name, group in groupby(items, key=lambda item: item[0]):
            indices = (index for _, index in group)
            yield from entries(name, self._tasks[name].config, self._seed, indices)

    def _row(self, name: str, task: GymTaskConfig, index: int, entry: dict[str, Any]) -> Made:
        key = _key((name, index))
        if not isinstance(entry["answer"], str):
            return Rejected(key, "no reference answer")
        strategy = f"reasoning-gym/{name}"
        return Sample(
            kind="task",
            id=short_id(strategy, task.config, self._seed, index),
            messages=(Message(role="user", content=entry["question"]),),
            answer=entry["answer"],
            verify=Verify(name=name, config=task.config, seed=self._seed, index=index, entry=entry),
            split_key=key,
            source="reasoning-gym",
            generator=Origin(strategy=strategy),
        )


def _key(item: Item) -> str:
    return f"reasoning-gym/{item[0]}/{item[1]}"
