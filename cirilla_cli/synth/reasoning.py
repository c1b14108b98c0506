"""Verifiable tasks from reasoning-gym, each row with what is needed to judge an answer later."""

from collections.abc import Iterable, Iterator

from cirilla_cli.data.rows import Document, Message, Origin, Sample, Verify, short_id
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected
from cirilla_cli.synth.config import GymTaskConfig, ReasoningGymConfig
from cirilla_cli.verify.curated import curated
from cirilla_cli.verify.gym import check_task, entries


class ReasoningGym:
    """Rows of each task in turn, indices ``start`` to ``start + count``."""

    reads_documents = False

    def __init__(self, config: ReasoningGymConfig) -> None:
        self.config = config
        self._seed = config.seed or 0

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield task rows; instances without a reference answer are rejected.

        Raises:
            CirillaError: reasoning-gym is not installed, or a name or option is wrong (before the first row).
        """
        tasks = self.config.tasks or {name: GymTaskConfig() for name in curated()}
        for name, task in self.config.tasks.items():
            check_task(name, task.config, needs_answer=True)
        for name, task in tasks.items():
            yield from self._task(name, task, progress)

    def _task(self, name: str, task: GymTaskConfig, progress: Progress) -> Iterator[Made]:
        count = task.count or self.config.count
        indices = range(task.start, task.start + count)
        for index, entry in zip(indices, entries(name, task.config, self._seed, indices), strict=True):
            key = f"reasoning-gym/{name}/{index}"
            if not isinstance(entry["answer"], str):
                yield Rejected(key, "no reference answer")
                continue
            strategy = f"reasoning-gym/{name}"
            yield Sample(
                kind="task",
                id=short_id(strategy, task.config, self._seed, index),
                messages=(Message(role="user", content=entry["question"]),),
                answer=entry["answer"],
                verify=Verify(name=name, config=task.config, seed=self._seed, index=index, entry=entry),
                split_key=key,
                source="reasoning-gym",
                generator=Origin(strategy=strategy),
            )
            progress.step(name, index - task.start + 1, count)
