"""What `cirilla eval` does: every task on every model, written down and shown."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Task
from cirilla_cli.evals.config import (
    ChoicesTaskConfig,
    EvalConfig,
    PreferencesTaskConfig,
    QuestionsTaskConfig,
    ReasoningTaskConfig,
    TaskSection,
    TextTaskConfig,
)
from cirilla_cli.evals.report import table
from cirilla_cli.evals.subject import ModelSubject
from cirilla_cli.evals.tasks.preferences import PreferencesTask
from cirilla_cli.evals.tasks.questions import ChoicesTask, QuestionsTask
from cirilla_cli.evals.tasks.reasoning import COMMON, ReasoningTask, SeenQuestions
from cirilla_cli.evals.tasks.text import NamedText, TextTask
from cirilla_cli.fs import write_json
from cirilla_cli.infer.run import dtype_of
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Progress
from cirilla_cli.verify.gym_worker import GymScorer

__all__ = ["Scores", "bits_per_byte", "evaluate", "table", "untrained"]

MAIN, UNTRAINED = "model", "untrained"
"""Columns whose names are taken: the model itself, and its shape with fresh weights."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured; `as_dict` is the content of scores.json."""

    model: str
    """Folder of the model."""
    columns: list[str]
    """Names of the models compared, the main one first."""
    tasks: dict[str, dict[str, Any]]
    """By task: its ``kind``, and by column its numbers."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The scores as JSON can hold them."""
        return asdict(self)


def untrained(loaded: Loaded, *, seed: int = 0) -> Loaded:
    """The same shape and tokenizer with fresh weights."""
    parameter = next(loaded.model.parameters())
    model = fresh(loaded.config, seed=seed).to(device=parameter.device, dtype=parameter.dtype).eval()
    return replace(loaded, model=model, step=0)


def evaluate(config: EvalConfig, models: Mapping[str, Loaded], out: Path | None, progress: Progress) -> Scores:
    """Score every model on every task of ``config``.

    Args:
        config: the tasks.
        models: by column name, the main one (`model`) first.
        out: where the scores are written too: a folder, which gets scores.json, or a file ending in .json.
        progress: who watches.

    Raises:
        CirillaError: material that is missing or malformed (all of it named), a model without a tokenizer.
    """
    started = time.monotonic()
    _check_names(config)
    for loaded in models.values():
        loaded.model.to(dtype_of(config.dtype, next(loaded.model.parameters()).device))
    subjects = {name: ModelSubject(loaded, config.batch) for name, loaded in models.items()}
    tasks: dict[str, dict[str, Any]] = {}
    with GymScorer() as worker:
        made = _tasks(config, worker)
        for name, task in made.items():
            tasks[name] = {"kind": task.kind}
            for column, subject in subjects.items():
                progress.step(f"{name}, {column}", len(tasks), len(made))
                tasks[name][column] = task.score(subject)
            _remark(name, tasks[name], progress)
    main = next(iter(models.values()))
    scores = Scores(str(main.path), list(models), tasks, round(time.monotonic() - started, 3))
    if out is not None:
        write_json(out if out.suffix == ".json" else out / "scores.json", scores.as_dict())
    return scores


def bits_per_byte(loaded: Loaded, documents: Iterable[str], *, batch: int = 32) -> dict[str, Any]:
    """``bits_per_byte``, ``perplexity``, ``bytes`` and ``tokens`` of texts, each a document of its own.

    Raises:
        CirillaError: no text, or the model has no tokenizer.
    """
    task = TextTask(NamedText(str(number), text) for number, text in enumerate(documents))
    numbers = task.score(ModelSubject(loaded, batch))
    return {key: numbers[key] for key in ("bits_per_byte", "perplexity", "bytes", "tokens")}


def _check_names(config: EvalConfig) -> None:
    taken = sorted({"kind", MAIN, UNTRAINED} & config.compare.keys())
    if taken:
        raise CirillaError(
            f"`eval.compare` has a model named {taken[0]!r}, a name that is taken", hint="call it `before`, for example"
        )


def _tasks(config: EvalConfig, worker: GymScorer) -> dict[str, Task]:
    """Every task with its material; what is wrong with any of them is told at once."""
    seen, made, wrong = SeenQuestions(), dict[str, Task](), list[tuple[str, CirillaError]]()
    for name, section in config.tasks.items():
        try:
            made[name] = _task(section, worker, seen)
        except CirillaError as error:
            wrong.append((name, error))
    if wrong:
        said = "\n".join(f"`eval.tasks.{name}`: {error}" for name, error in wrong)
        where = [place for _, error in wrong for place in error.where]
        raise CirillaError(said, hint=wrong[0][1].hint, where=where)
    return made


def _task(section: TaskSection, worker: GymScorer, seen: SeenQuestions) -> Task:
    match section:
        case TextTaskConfig():
            return TextTask.read(section)
        case QuestionsTaskConfig():
            return QuestionsTask.read(section)
        case ChoicesTaskConfig():
            return ChoicesTask.read(section)
        case ReasoningTaskConfig():
            return ReasoningTask.make(section, worker, seen)
        case PreferencesTaskConfig():
            return PreferencesTask.read(section)


def _remark(name: str, scored: Mapping[str, Any], progress: Progress) -> None:
    """Say what makes a number mean less than it seems to."""
    numbers = next(numbers for column, numbers in scored.items() if column != "kind")
    if scored["kind"] == ReasoningTask.kind and numbers["commonest_answer"] >= COMMON:
        progress.say(f"{name}: always giving the commonest answer would score {numbers['commonest_answer']:.1%}")
    if numbers.get("too_long"):
        progress.say(f"{name}: {numbers['too_long']} pairs longer than the model's context were left out")
