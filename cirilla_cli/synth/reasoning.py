"""Verifiable tasks from reasoning-gym, each row with what is needed to judge an answer later."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import Any

from cirilla_cli.data.parts import ALONE, Form, Spread
from cirilla_cli.data.rows import Document, Message, Origin, Sample, Verify, short_id
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import GymTaskConfig, ReasoningGymConfig
from cirilla_cli.verify.curated import curated
from cirilla_cli.verify.gym import check_task, entries
from cirilla_cli.verify.gym import options as options_at

Item = tuple[str, int]
"""An entry of `tasks` and the index of one instance."""

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
            CirillaError: reasoning-gym is not installed, or a name, level or option is wrong (before the first row).
        """
        tasks = self._tasks
        options = self._options()
        items = ((name, index) for name, task in tasks.items() for index in self._range(task))
        make = partial(self._entries, options)
        for (name, index), entry in self._spread.each(items, _key, make, ENTRY):
            yield self._row(name, options[name], index, entry)
            progress.step(name, index - tasks[name].start + 1, len(self._range(tasks[name])))

    def _options(self) -> dict[str, dict[str, Any]]:
        """The options of each entry, all checked.

        Raises:
            CirillaError: naming all that is wrong.
        """
        options: dict[str, dict[str, Any]] = {}
        wrong: list[CirillaError] = []
        for name, task in self._tasks.items():
            try:
                options[name] = options_at(self._name(name), task.level, task.levels, task.config)
                if self.config.tasks:
                    check_task(self._name(name), options[name], needs_answer=True)
            except CirillaError as error:
                wrong.append(error)
        if wrong:
            hints = "; ".join(str(error.hint) for error in wrong if error.hint)
            raise CirillaError("\n".join(map(str, wrong)), hint=hints or None)
        return options

    def _name(self, entry: str) -> str:
        """Of the generator of an entry."""
        return self._tasks[entry].task or entry

    def _range(self, task: GymTaskConfig) -> range:
        return range(task.start, task.start + (task.count or self.config.count))

    def _entries(self, options: Mapping[str, dict[str, Any]], items: Iterator[Item]) -> Iterator[dict[str, Any]]:
        for name, group in groupby(items, key=lambda item: item[0]):
            indices = (index for _, index in group)
            yield from entries(self._name(name), options[name], self._seed, indices)

    def _row(self, entry_name: str, options: dict[str, Any], index: int, entry: dict[str, Any]) -> Made:
        key, name = _key((entry_name, index)), self._name(entry_name)
        if not isinstance(entry["answer"], str):
            return Rejected(key, "no reference answer")
        strategy = f"reasoning-gym/{name}"
        return Sample(
            kind="task",
            id=short_id(strategy, options, self._seed, index),
            messages=(Message(role="user", content=entry["question"]),),
            answer=entry["answer"],
            verify=Verify(name=name, config=options, seed=self._seed, index=index, entry=entry),
            split_key=key,
            source="reasoning-gym",
            generator=Origin(strategy=strategy),
        )


def _key(item: Item) -> str:
    return f"reasoning-gym/{item[0]}/{item[1]}"
