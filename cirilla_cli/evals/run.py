"""What `cirilla eval` does: every task on every model, written down and shown."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from cirilla_cli.checkpoint import AnyFound, Loaded
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.evals.base import Task
from cirilla_cli.evals.config import (
    ChoicesTaskConfig,
    ClassificationTaskConfig,
    EvalConfig,
    PreferencesTaskConfig,
    QuestionsTaskConfig,
    ReasoningTaskConfig,
    TaskSection,
    TextTaskConfig,
)
from cirilla_cli.evals.judge import ModelJudge
from cirilla_cli.evals.report import table
from cirilla_cli.evals.subject import ModelSubject
from cirilla_cli.evals.tasks.classification import ClassificationTask
from cirilla_cli.evals.tasks.preferences import PreferencesTask
from cirilla_cli.evals.tasks.questions import ChoicesTask, QuestionsTask
from cirilla_cli.evals.tasks.reasoning import COMMON, ReasoningTask, SeenQuestions
from cirilla_cli.evals.tasks.text import NamedText, TextTask
from cirilla_cli.fs import write_json, write_text
from cirilla_cli.infer.run import dtype_of
from cirilla_cli.loading import other_uses
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


F = TypeVar("F", bound=AnyFound)


def untrained(loaded: F, *, seed: int = 0) -> F:
    """The same shape and tokenizer with fresh weights."""
    parameter = next(loaded.model.parameters())
    model = fresh(loaded.config, seed=seed).to(device=parameter.device, dtype=parameter.dtype).eval()
    return replace(loaded, model=model, step=0)


def evaluate(config: EvalConfig, models: Mapping[str, AnyFound], out: Path | None, progress: Progress) -> Scores:
    """Score every model on every task of ``config``.

    Args:
        config: the tasks.
        models: by column name, the main one (`model`) first.
        out: where the scores are written too: a folder, which gets scores.json, or a file ending in .json.
        progress: who watches.

    Raises:
        CirillaError: material that is missing or malformed (all of it named), a model without a tokenizer, or tasks
            that a model of its kind cannot be given.
    """
    started = time.monotonic()
    _check_names(config)
    _check_kinds(config, models)
    for loaded in models.values():
        loaded.model.to(dtype_of(config.dtype, next(loaded.model.parameters()).device))
    names_labels = any(isinstance(section, ClassificationTaskConfig) for section in config.tasks.values())
    tasks = (_judge if names_labels else _examine)(config, models, progress)
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


def _check_kinds(config: EvalConfig, models: Mapping[str, AnyFound]) -> None:
    """Raises: CirillaError: a task asks of a model what its kind cannot do; every such pair is named."""
    wrong, hint = list[Where](), None
    for name, section in config.tasks.items():
        wanted = "classifier" if isinstance(section, ClassificationTaskConfig) else "decoder"
        for found in models.values():
            kind, where = found.config.kind, found.run or found.path
            if kind != wanted:
                expected = f"{where} is of kind {kind}, which cannot {_ABILITY[wanted]}; kind {wanted} is wanted"
                wrong.append(Where(key=f"eval.tasks.{name}", value=section.kind, expected=expected))
                hint = hint or (_MAKE_ONE if kind == "decoder" else other_uses(kind, where))
    if wrong:
        said = "\n".join(f"`{place.key}` is of kind {place.value}: {place.expected}" for place in wrong)
        raise CirillaError(said, hint=hint, where=wrong)


_ABILITY = {"classifier": "name labels", "decoder": "continue text"}
_MAKE_ONE = "`cirilla sft` with data.kind=labelled_text and objective.kind=classification makes a classifier of it"


def _examine(config: EvalConfig, models: Mapping[str, AnyFound], progress: Progress) -> dict[str, dict[str, Any]]:
    """By task what language models score."""
    subjects = {name: ModelSubject(cast(Loaded, found), config.batch) for name, found in models.items()}
    tasks: dict[str, dict[str, Any]] = {}
    with GymScorer() as worker:
        seen = SeenQuestions()
        made = _made(config, lambda section: _task(section, worker, seen))
        for name, task in made.items():
            tasks[name] = {"kind": task.kind}
            for column, subject in subjects.items():
                progress.step(f"{name}, {column}", len(tasks), len(made))
                tasks[name][column] = task.score(subject)
            _remark(name, tasks[name], progress)
    return tasks


def _judge(config: EvalConfig, models: Mapping[str, AnyFound], progress: Progress) -> dict[str, dict[str, Any]]:
    """By task how often classifiers are right; their answers are written where a task says so."""
    judges = {name: ModelJudge(found, config.batch) for name, found in models.items()}
    sections = {
        name: section for name, section in config.tasks.items() if isinstance(section, ClassificationTaskConfig)
    }
    _check_predictions(sections)
    made = _made(config, lambda section: _labelled(section, judges))
    tasks: dict[str, dict[str, Any]] = {}
    for name, task in made.items():
        tasks[name], rows = {"kind": task.kind}, list[dict[str, Any]]()
        for column, judge in judges.items():
            progress.step(f"{name}, {column}", len(tasks), len(made))
            verdicts = judge.verdicts(task.texts)
            tasks[name][column] = task.numbers(verdicts, judge.labels)
            rows += task.lines(column, verdicts)
        if (path := sections[name].predictions) is not None:
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        _remark(name, tasks[name], progress)
    return tasks


def _check_predictions(sections: Mapping[str, ClassificationTaskConfig]) -> None:
    """Raises: CirillaError: predictions would replace rows, or one another's."""
    written = dict[Path, str]()
    read = {path.resolve(): name for name, section in sections.items() for path in section.path}
    for name, section in sections.items():
        if section.predictions is None:
            continue
        path, key = section.predictions.resolve(), f"eval.tasks.{name}.predictions"
        other = f"the rows of {read[path]}" if path in read else f"the predictions of {written.get(path)}"
        if path in read or path in written:
            raise CirillaError(
                f"`{key}` is {section.predictions}, the file of {other}", hint="name another file",
                where=[Where(key=key, value=str(section.predictions), expected="a file of its own")],
            )  # fmt: skip
        written[path] = name


T = TypeVar("T")


def _made(config: EvalConfig, make: Callable[[TaskSection], T]) -> dict[str, T]:
    """Every task with its material; what is wrong with any of them is told at once."""
    made, wrong = dict[str, T](), list[tuple[str, CirillaError]]()
    for name, section in config.tasks.items():
        try:
            made[name] = make(section)
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
        case ClassificationTaskConfig():
            raise AssertionError("told apart by what its models are")


def _labelled(section: TaskSection, judges: Mapping[str, ModelJudge]) -> ClassificationTask:
    """A task whose every label all of the models know."""
    assert isinstance(section, ClassificationTaskConfig), "told apart by what its models are"
    task = ClassificationTask.read(section)
    wrong = [f"{name}: {why}" for name, judge in judges.items() if (why := task.unknown(judge.labels)) is not None]
    if wrong:
        raise CirillaError("\n".join(wrong), hint="write the labels as the model names them, or leave such rows out")
    return task


def _remark(name: str, scored: Mapping[str, Any], progress: Progress) -> None:
    """Say what makes a number mean less than it seems to."""
    numbers = next(numbers for column, numbers in scored.items() if column != "kind")
    if scored["kind"] == ReasoningTask.kind and numbers["commonest_answer"] >= COMMON:
        progress.say(f"{name}: always giving the commonest answer would score {numbers['commonest_answer']:.1%}")
    if numbers.get("truncated"):
        progress.say(f"{name}: {numbers['truncated']} texts longer than the model's context were cut, as in training")
    if numbers.get("too_long"):
        progress.say(f"{name}: {numbers['too_long']} pairs longer than the model's context were left out")
