"""The one door to reasoning-gym: names, options, and instance i of a task.

Instance i of seed s comes from ``s + i``, so training and test must be disjoint index ranges of one seed. Some
generators read the global random state or the order of hashes; those run in a worker process where both are pinned.
"""

import contextlib
import functools
import importlib
import io
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from cirilla_cli.errors import CirillaError

UNSTABLE = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder", "list_functions",
     "codeio"}
)  # fmt: skip
"""Tasks whose instances depend on PYTHONHASHSEED or on the global random state (measured, reasoning-gym 0.1.25)."""

ANSWERLESS = frozenset({"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"})
"""Tasks whose reference answer is None: there is nothing to train on, only a scorer."""

_BOUNDED = frozenset({"acre", "gsm_symbolic", "list_functions", "word_ladder"})
"""Tasks that refuse indices beyond their size; instance i is taken as instance 0 of seed + i."""


def names() -> list[str]:
    """All task names, sorted; without `composite`, which only mixes the others.

    Raises:
        CirillaError: reasoning-gym is not installed.
    """
    return sorted(set(_datasets()) - {"composite"})


def check_task(name: str, config: Mapping[str, Any], *, needs_answer: bool = False) -> None:
    """Refuse a task that cannot be made.

    Raises:
        CirillaError: unknown name (with the nearest), unknown or refused option (with the known ones), or a task
            without reference answers where one is needed.
    """
    _check_name(name)
    if needs_answer and name in ANSWERLESS:
        raise CirillaError(f"reasoning-gym's `{name}` has a scorer but no reference answer, so no sample can be made")
    known = {field.name for field in fields(_datasets()[name][1])} - {"seed", "size"}
    unknown = sorted(set(config) - known)
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        nearest = f"; did you mean `{close[0]}`?" if close else ""
        said = f"`{name}` has no option {', '.join(f'`{key}`' for key in unknown)}{nearest}"
        raise CirillaError(said, hint=f"its options: {', '.join(sorted(known))}")
    dataset(name, config, 0)


def _check_name(name: str) -> None:
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known tasks: {', '.join(names())}"
        raise CirillaError(f"reasoning-gym has no task `{name}`", hint=hint)


def options(name: str, level: int | None, levels: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task at a level of its curriculum; those in ``config`` come on top.

    Args:
        name: of the task.
        level: of all attributes, each as far as it goes; None: their first.
        levels: of single attributes.
        config: options, which the result is where neither level nor levels are given.

    Raises:
        CirillaError: the task is unknown or has no curriculum, or this has no such attribute or level; all named.
    """
    if level is None and not levels:
        return dict(config)
    _check_name(name)
    factory = importlib.import_module("reasoning_gym.factory")
    if name not in factory.CURRICULA:
        said = f"reasoning-gym's `{name}` has no curriculum, so it takes neither `level` nor `levels`"
        raise CirillaError(said, hint="its options can be set under `config`")
    curriculum = factory.create_curriculum(name)
    _check_levels(name, curriculum, level or 0, levels)
    curriculum.set_global_level(level or 0)
    for key, own in levels.items():
        curriculum.set_attr_level(key, own)
    made = asdict(curriculum.generate_configuration({"seed": 0, "size": 1}))
    chosen = {key: plain(made[key]) for attribute in curriculum.attributes.values() for key in _keys_of(attribute)}
    return chosen | dict(config)


def _check_levels(name: str, curriculum: Any, level: int, levels: Mapping[str, int]) -> None:
    most = {key: len(attribute.levels) - 1 for key, attribute in curriculum.attributes.items()}
    unknown = [key for key in levels if key not in most]
    over = [key for key in levels if levels[key] > most.get(key, levels[key])]
    wrong = [f"`level` is {level}, and the highest of `{name}` is {max(most.values())}"] * (level > max(most.values()))
    wrong += [f"`levels` names `{key}`, which is no attribute of the curriculum of `{name}`" for key in unknown]
    wrong += [f"`levels.{key}` is {levels[key]}, and the highest of `{name}` is {most[key]}" for key in over]
    if wrong:
        shown = ", ".join(f"{key} 0 to {highest}" for key, highest in most.items())
        raise CirillaError("\n".join(wrong), hint=f"levels of `{name}`: {shown}")


def _keys_of(attribute: Any) -> tuple[str, ...]:
    """The options that an attribute of a curriculum sets."""
    coaching = importlib.import_module("reasoning_gym.coaching")
    if isinstance(attribute, coaching.RangeAttributeDefinition):
        return attribute.lower_field_name, attribute.upper_field_name
    return (attribute.field_name,)


def make(name: str, config: Mapping[str, Any], seed: int, index: int) -> dict[str, Any]:
    """Instance ``index`` of a task: ``question``, ``answer`` (None in `ANSWERLESS`), ``metadata``; JSON-safe."""
    return next(entries(name, config, seed, [index]))


def entries(name: str, config: Mapping[str, Any], seed: int, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The instances at ``indices``, the same on every machine and in every order.

    Raises:
        CirillaError: unknown name or bad option, or a generator that fails by itself.
    """
    check_task(name, config)
    if name in UNSTABLE:
        from cirilla_cli.verify.gym_worker import GymWorker

        with GymWorker() as worker:
            for index in indices:
                yield worker.make(name, config, seed, index)
        return
    for index in indices:
        yield make_here(name, config, seed, index)


def make_here(name: str, config: Mapping[str, Any], seed: int, index: int) -> dict[str, Any]:
    """`make` in this very process; for names in `UNSTABLE` only sound where PYTHONHASHSEED is pinned."""
    if name in UNSTABLE:
        random.seed(f"{seed}+{index}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # `bf` prints dots; standard output is for rows
            if name in _BOUNDED:
                return _entry(dataset(name, config, seed + index)[0])
            return _entry(dataset(name, config, seed)[index])
    except (AssertionError, ValueError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise CirillaError(f"reasoning-gym's `{name}` failed at instance {index} of seed {seed}: {error}") from error


def dataset(name: str, config: Mapping[str, Any], seed: int) -> Any:
    """The generator object.

    Raises:
        CirillaError: an option's value is refused.
    """
    return _dataset(name, json.dumps(config, sort_keys=True), seed)


@functools.lru_cache(maxsize=8)
def _dataset(name: str, config: str, seed: int) -> Any:
    options = {key: _tuples(value) for key, value in json.loads(config).items()}
    try:
        return importlib.import_module("reasoning_gym").create_dataset(name, seed=seed, size=1, **options)
    except (AssertionError, ValueError, TypeError) as error:
        said = str(error) or type(error).__name__
        raise CirillaError(f"reasoning-gym's `{name}` refuses its options {config}: {said}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _entry(made: Any) -> dict[str, Any]:
    return {str(key): plain(value) for key, value in made.items()}


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: tuples become lists, keys strings, fractions and anything else their text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if abs(value) < float("inf") else str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=str)
        case Fraction():
            return f"{value.numerator}/{value.denominator}"
    return plain(value.tolist()) if callable(getattr(value, "tolist", None)) else str(value)


@functools.cache
def _datasets() -> Mapping[str, Any]:
    try:
        importlib.import_module("reasoning_gym")
        factory = importlib.import_module("reasoning_gym.factory")
    except ImportError as error:
        raise CirillaError(
            f"this needs the package `reasoning-gym`, which cannot be imported: {error}",
            hint="pip install reasoning-gym (where there is no wheel of its part pycosat, a C compiler is needed too: "
            "apt-get install gcc python3-dev)",
        ) from None
    found: Mapping[str, Any] = factory.DATASETS
    return found
