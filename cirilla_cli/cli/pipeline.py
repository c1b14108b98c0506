"""Runs a pipeline's stages in order, skipping those whose recipe and inputs have not changed.

pipeline.yaml --resolve--> stages, each a recipe --hash of recipe, inputs, version--> skip, continue or run
"""

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cirilla_cli import __version__
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_json, hash_path, read_json, write_json
from cirilla_cli.progress import Progress, Silent
from cirilla_cli.recipe.load import Resolved, load_recipe
from cirilla_cli.recipe.schema import TRAIN_VERBS
from cirilla_cli.recipe.tree import Origin

_REFERENCE = re.compile(r"\{([\w-]+)\}")
_GIVEN = re.compile(r"override `([\w.-]+)=[^`]*`")
_NAMES = ("out", "name", "extends")
"""Keys that change where a result goes, not what it is."""
_PATHS = ("path", "model")
"""Keys whose text is a path wherever such a path exists."""
_GROWING = ("cache",)
"""Keys that name what a stage adds to and whose content decides nothing."""
MARK = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One stage, its recipe resolved."""

    name: str
    verb: str
    resolved: Resolved
    needs: tuple[str, ...]
    """Stages whose results it reads."""


@dataclass
class PipelineReport:
    """What a pipeline left; `--json` prints it."""

    out: str
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    model: str | None = None
    """The published folder."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)


def resolve_stages(pipeline: Resolved) -> list[Stage]:
    """Every stage's recipe, with `{stage}` replaced by that stage's folder.

    Raises:
        CirillaError: mistakes in any of the recipes, all at once.
    """
    recipe: Any = pipeline.recipe
    if not recipe.stages:
        raise CirillaError(
            f"{pipeline.path}: the pipeline has no stages", hint="cirilla recipe show quickstart/pipeline"
        )
    stages, outs, errors = [], {}, []
    for name, stage in recipe.stages.items():
        out = str(Path(pipeline.out) / name)
        overrides = {"seed": recipe.seed, **stage.overrides}
        outs[name] = out
        given = [f"{key}={_written(value, outs)}" for key, value in overrides.items()]
        where = _recipe_of(stage.recipe, stage.verb, pipeline.path)
        try:
            resolved = load_recipe(where, stage.verb, overrides=given, out=out)
        except CirillaError as error:
            errors.append(_placed(error, name, pipeline))
            continue
        stages.append(Stage(name, stage.verb, resolved, _needs(name, stage)))
    if errors:
        wheres = [where for error in errors for where in error.where]
        raise CirillaError("\n".join(map(str, errors)), hint=errors[0].hint, where=wheres)
    return stages


def _placed(error: CirillaError, name: str, pipeline: Resolved) -> CirillaError:
    """The same complaints, those about overrides at the line of the pipeline that gives them."""

    def origin(key: str | None) -> Origin:
        at = f"stages.{name}.with.{key}"
        found = (o for path, o in pipeline.origins.items() if path == at or path.startswith(f"{at}."))
        return next(found, Origin())

    def line(text: str) -> str:
        given = _GIVEN.match(text)
        place = origin(given[1]) if given else Origin()
        return f"{place}: stage `{name}`{text[given.end() :]}" if given and place.file else f"stage `{name}`: {text}"

    wheres = [w if w.line else replace(w, file=origin(w.key).file, line=origin(w.key).line) for w in error.where]
    return CirillaError("\n".join(map(line, str(error).splitlines())), hint=error.hint, where=wheres)


def _recipe_of(recipe: str | None, verb: str, pipeline: Path) -> str | Path:
    if recipe is None:
        return "default"
    beside = pipeline.parent / recipe
    return beside if recipe.endswith((".yaml", ".yml")) else recipe


def _written(value: Any, outs: Mapping[str, str]) -> str:
    import json

    return json.dumps(_filled(value, outs), ensure_ascii=False)


def _filled(value: Any, outs: Mapping[str, str]) -> Any:
    """``value`` with `{stage}` replaced; the recipe's own check has seen that such a stage stands above."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: outs.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {key: _filled(child, outs) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(child, outs) for child in value]
    return value


def _needs(name: str, stage: Any) -> tuple[str, ...]:
    found = set(stage.after)

    def look(value: Any) -> None:
        if isinstance(value, str):
            found.update(_REFERENCE.findall(value))
        elif isinstance(value, Mapping):
            for child in value.values():
                look(child)
        elif isinstance(value, list | tuple):
            for child in value:
                look(child)

    look(stage.overrides)
    return tuple(sorted(found - {name}))


def run_pipeline(pipeline: Resolved, progress: Progress, *, fresh: bool) -> PipelineReport:
    """Run what is not up to date; interrupted stages continue."""
    from cirilla_cli.cli.contamination import Comparison

    started = time.perf_counter()
    stages = resolve_stages(pipeline)
    report = PipelineReport(out=pipeline.out)
    hashes: dict[str, str] = {}
    recipe: Any = pipeline.recipe
    comparison = Comparison(stages, Path(pipeline.out), refuse=recipe.contamination == "refuse")
    for number, stage in enumerate(stages, 1):
        hashes[stage.name] = key = _stage_hash(stage, hashes)
        out = Path(stage.resolved.out)
        before = _mark(out / MARK)
        if before.get("hash") == key and before.get("done") and not fresh:
            progress.say(f"[{number}/{len(stages)}] {stage.name}: up to date")
            report.stages[stage.name] = {"seconds": 0.0, "skipped": True, "out": str(out)}
            continue
        progress.say(f"[{number}/{len(stages)}] {stage.name}")
        comparison.before(stage, progress)
        report.stages[stage.name] = _run_stage(stage, key, progress, anew=fresh or before.get("hash", key) != key)
    _conclude(report, stages)
    report.seconds = round(time.perf_counter() - started, 2)
    return report


def _run_stage(stage: Stage, key: str, progress: Progress, *, anew: bool) -> dict[str, Any]:
    """Run a stage between its two marks; ``anew`` removes what another recipe left."""
    from cirilla_cli.cli.execute import Control, run

    begun, mark = time.perf_counter(), Path(stage.resolved.out) / MARK
    if anew:
        _begin_anew(stage)
    write_json(mark, {"hash": key, "done": False})
    result = run(stage.resolved, progress, Control())
    seconds = round(time.perf_counter() - begun, 2)
    write_json(mark, {"hash": key, "done": True, "seconds": seconds, "verb": stage.verb})
    return {"seconds": seconds, "skipped": False, "out": str(mark.parent), **_figures(stage.verb, result)}


def _begin_anew(stage: Stage) -> None:
    """Remove what a stage left, once it is sure that its new run will be taken."""
    from cirilla_cli.cli.execute import Control, forget, plan

    out = Path(stage.resolved.out)
    if stage.verb in TRAIN_VERBS and out.is_dir():
        # What would refuse the new run must not cost the earlier one.
        plan(stage.resolved, Silent(), Control(fresh=True))
    # First the mark, then what it vouched for: killed in between, the stage does not continue another recipe's work.
    (out / MARK).unlink(missing_ok=True)
    forget(stage.resolved)


def _mark(path: Path) -> dict[str, Any]:
    """What a stage noted of itself; nothing where the note is missing or damaged."""
    try:
        mark = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _figures(verb: str, result: Any) -> dict[str, Any]:
    """A few numbers of a stage's own report."""
    names = {
        "scrape": ("documents",), "synth": ("samples",), "curate": ("rows",),
        "pretrain": ("step", "loss", "val_loss", "parameters"), "sft": ("step", "loss", "val_loss"),
        "dpo": ("step", "loss", "first_validation", "last_validation"),
    }  # fmt: skip
    return {name: getattr(result, name) for name in names.get(verb, ())}


def _stage_hash(stage: Stage, before: Mapping[str, str]) -> str:
    """Of the recipe, the content of what it reads, and the program's version."""
    data = {key: value for key, value in stage.resolved.data.items() if key not in _NAMES}
    read = [
        getattr(stage.resolved.recipe, key) for key in type(stage.resolved.recipe).model_fields if key not in _NAMES
    ]
    return hash_json([data, {name: before[name] for name in stage.needs}, _external(read), __version__])


def _external(value: Any) -> dict[str, str]:
    """Hashes of the files and folders that a recipe names and no stage makes."""
    if isinstance(value, BaseModel):
        parts = {key: getattr(value, key) for key in type(value).model_fields if key not in _GROWING}
        value = [Path(part) if key in _PATHS and isinstance(part, str) else part for key, part in parts.items()]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return {k: v for child in value for k, v in _external(child).items()}
    # Text may name a model; a word that is no path only looks like one where a folder happens to be called so.
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value and not value.startswith("dir:")):
        return _content(str(value))
    return {}


def _content(name: str) -> dict[str, str]:
    from cirilla_cli.recipe.builtin import bundled

    if name.startswith("builtin:"):
        return {name: hash_path(bundled(name))}
    with contextlib.suppress(OSError):
        path = Path(name)
        if path.exists() and not (path / MARK).is_file():
            return {name: hash_path(path)}
    return {}


def _conclude(report: PipelineReport, stages: list[Stage]) -> None:
    from cirilla_cli.compat import peak_resident

    report.peak_memory_bytes = peak_resident()
    for stage in stages:
        recipe: Any = stage.resolved.recipe
        if stage.verb == "push" and str(recipe.push.to).startswith("dir:"):
            report.model = str(recipe.push.to).removeprefix("dir:")
        scores = Path(stage.resolved.out) / "scores.json"
        if stage.verb == "eval" and scores.is_file():
            report.scores |= headline(read_json(scores))


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The few scores a pipeline reports: facts, the same for the untrained model, unseen tasks, preferences."""
    found: dict[str, Any] = {}
    for name, task in scores.get("tasks", {}).items():
        model, before, untrained = task.get("model", {}), task.get("before", {}), task.get("untrained", {})
        match task["kind"]:
            case "questions":
                for side, key in (("seen", name), ("unseen", f"{name}_rephrased")):
                    if model.get(side):
                        found[key] = model[side]["accuracy"]
                    if before.get(side):
                        found[f"{key}_before"] = before[side]["accuracy"]
                    if untrained.get(side):
                        found[f"{key}_untrained"] = untrained[side]["accuracy"]
            case "reasoning_gym":
                found.setdefault("unseen_tasks", {})[task.get("name", name)] = model.get("accuracy")
            case "preferences":
                found["preference_margin"] = {"before": before.get("margin"), "after": model.get("margin")}
                found["preference_chosen_above"] = {"before": before.get("accuracy"), "after": model.get("accuracy")}
                found["preference_pairs"] = model.get("n")
            case "text":
                found.setdefault("bits_per_byte", {})[name] = model.get("bits_per_byte")
    return found
