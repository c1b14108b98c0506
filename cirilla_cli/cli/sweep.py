"""`cirilla sweep`: one recipe trained several times with other values, each a run of its own; a table at the end."""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cirilla_cli.cli.options import Json
from cirilla_cli.errors import CirillaError

_SPACE = re.compile(r"^([A-Za-z_][\w.\-]*)=(log|lin|int|of)\((.*)\)$")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_SHAPES = {"log": "log(1e-4, 3e-3)", "lin": "lin(0, 0.2)", "int": "int(2, 8)", "of": "of(adamw, muon)"}
_FILE = "sweep.json"

How = Literal["random", "grid", "optuna"]
_HOW: tuple[How, ...] = ("random", "grid", "optuna")


@dataclass(frozen=True)
class Space:
    """The values that one key may take."""

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    points: int = 0
    """Of a grid; 0 where it was not said."""
    choices: tuple[str, ...] = ()

    def at(self, place: float) -> Any:
        """The value at a place between 0 and 1."""
        if self.kind == "of":
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            return min(int(self.low + place * (self.high - self.low + 1)), int(self.high))
        if self.kind == "log":
            return float(f"{self.low * (self.high / self.low) ** place:.4g}")
        return float(f"{self.low + place * (self.high - self.low):.4g}")

    def grid(self) -> Sequence[Any]:
        """Every value of a grid, first to last.

        Raises:
            CirillaError: nobody said how many.
        """
        if self.kind == "of":
            return self.choices
        if self.kind == "int":
            return range(int(self.low), int(self.high) + 1)
        if self.points < 2:
            raise CirillaError(
                f"`{self.key}` is a range, and a grid needs its number of points",
                hint=f"{self.key}={self.kind}({self.low:g}, {self.high:g}, 5)",
            )
        last = self.points - 1
        return [self.at(i / last) for i in range(self.points)]


def read_spaces(words: Sequence[str]) -> tuple[list[Space], list[str]]:
    """What is varied, and the words that are plain overrides.

    Raises:
        CirillaError: nothing is varied, or a range is none; all mistakes at once.
    """
    spaces, plain, mistakes = [], [], []
    for word in words:
        match = _SPACE.match(word.strip())
        if match is None and re.search(r"=\w+\(", word):
            mistakes.append(f"`{word}`: must be one of {', '.join(_SHAPES.values())}")
        if match is None:
            plain.append(word)
            continue
        try:
            spaces.append(_space(match[1], match[2], [part.strip() for part in match[3].split(",")]))
        except ValueError as error:
            mistakes.append(f"`{word}`: {error}, such as {_SHAPES[match[2]]}")
    twice = {space.key for space in spaces if [s.key for s in spaces].count(space.key) > 1}
    mistakes += [f"`{key}` is varied twice" for key in sorted(twice)]
    given = {word.split("=", 1)[0].strip() for word in plain}
    mistakes += [f"`{space.key}` is varied, and given one value too" for space in spaces if space.key in given]
    if mistakes:
        raise CirillaError("\n".join(mistakes), hint="cirilla sweep recipe.yaml 'optim.lr=log(1e-4,3e-3)'")
    if not spaces:
        raise CirillaError("nothing is varied", hint="cirilla sweep recipe.yaml 'optim.lr=log(1e-4,3e-3)' --trials 8")
    return spaces, plain


def _space(key: str, kind: str, parts: list[str]) -> Space:
    if kind == "of":
        if not all(parts) or len(set(parts)) < 2:
            raise ValueError("wants two different values at least")
        return Space(key, kind, choices=tuple(parts))
    if len(parts) not in ((2, 3) if kind != "int" else (2,)):
        raise ValueError("wants a least and a greatest value")
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError("wants numbers")
    low, high = float(parts[0]), float(parts[1])
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high or (kind == "log" and low <= 0):
        raise ValueError("the first must be below the second" + (", and above 0" if kind == "log" else ""))
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise ValueError("wants whole numbers")
    if kind == "int" and high - low > 2**53:
        raise ValueError("wants a narrower range")
    if len(parts) == 3 and (not parts[2].isdigit() or int(parts[2]) < 2):
        raise ValueError("the third is the number of points of a grid, 2 at least")
    return Space(key, kind, low, high, int(parts[2]) if len(parts) == 3 else 0)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    trial: int
    settings: Mapping[str, Any]
    out: str
    loss: float | None
    """Of validation, or of training where nothing is validated; None where the run diverged."""
    step: int
    seconds: float


def settings_of(spaces: Sequence[Space], how: How, seed: int, number: int, before: Sequence[Trial]) -> dict[str, Any]:
    """The values of a trial; those of random and grid trials depend on nothing but the seed and its number."""
    if how == "grid":
        values: dict[str, Any] = {}
        for space in reversed(spaces):
            number, place = divmod(number, len(space.grid()))
            values[space.key] = space.grid()[place]
        return {space.key: values[space.key] for space in spaces}
    if how == "optuna":
        from cirilla_cli.cli.optuna import proposed

        return proposed(spaces, seed, [(dict(trial.settings), trial.loss) for trial in before])
    return {space.key: space.at(random.Random(f"{seed}/{number}/{space.key}").random()) for space in spaces}


def sweep(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE KEY=RANGE... [KEY=VALUE]...", help="A range: log, lin, int(a,b) or of(a,b,c)."),
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Runs; default: 8, or all of a grid.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="HOW", help="random, grid or optuna.")] = "random",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of what is tried.")] = 0,
    verb: Annotated[str | None, typer.Option("--verb", metavar="VERB", help="pretrain, sft or dpo.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="PATH", help="Folder of all its runs.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    json_: Json = False,
) -> None:
    """Train a recipe with several values of some keys; the same command continues a sweep that was stopped.

    Example: cirilla sweep recipe.yaml 'optim.lr=log(1e-4,3e-3)' --trials 8
    """
    from cirilla_cli.cli.recipes import split_name
    from cirilla_cli.cli.render import show_json

    if by not in _HOW:
        raise CirillaError(f"`--by` is {by!r}: must be one of {', '.join(_HOW)}", hint="--by random")
    how = next(one for one in _HOW if one == by)
    recipe, known = split_name(words[0], verb)
    spaces, plain = read_spaces(words[1:])
    count = _count(spaces, how, trials)
    found = list(_run(recipe, known, spaces, plain, how, seed, count, out, quiet or json_))
    order = sorted(found, key=lambda trial: math.inf if trial.loss is None else trial.loss)
    if json_:
        trials_ = [vars(trial) for trial in found]
        best = None if order[0].loss is None else vars(order[0])
        show_json({"out": str(Path(found[0].out).parent), "trials": trials_, "best": best})
        if best is None:
            # One object, whatever came of it.
            raise typer.Exit(1)
        return
    print(_table(order))
    if order[0].loss is None:
        raise CirillaError("every trial diverged", hint="a lower optim.lr, or a longer schedule.warmup")


def _count(spaces: Sequence[Space], how: How, trials: int | None) -> int:
    size = math.prod(len(space.grid()) for space in spaces) if how == "grid" else None
    wanted = trials if trials is not None else size or 8
    if wanted < 1 or (size is not None and wanted > size):
        most = "" if size is None else f" and at most {size}, as many as the grid has"
        raise CirillaError(f"`--trials` is {wanted}: must be at least 1{most}", hint=f"--trials {size or 8}")
    return wanted


def _run(
    recipe: str, verb: str | None, spaces: Sequence[Space], plain: Sequence[str], how: How, seed: int, count: int,
    out: str | None, quiet: bool,
) -> Iterator[Trial]:  # fmt: skip
    from cirilla_cli.cli.places import check_place
    from cirilla_cli.recipe.load import load_recipe

    done: list[Trial] = []
    first = load_recipe(recipe, verb, [*plain, *_words(settings_of(spaces, how, seed, 0, ()))])
    if first.verb not in ("pretrain", "sft", "dpo"):
        raise CirillaError(
            f"{first.path}: a recipe for `cirilla {first.verb}`, which trains no model",
            hint="sweep takes recipes for pretrain, sft and dpo",
        )
    folder = Path(out or f"{first.out}-sweep")
    check_place(folder, "out")

    def resolved_for(number: int, settings: Mapping[str, Any]) -> Any:
        return load_recipe(recipe, verb, [*plain, *_words(settings)], out=str(folder / f"trial-{number:03d}"))

    # A value that will not do is refused before hours of training; what Optuna proposes is not known yet.
    for number in range(count if how != "optuna" else 0):
        resolved_for(number, settings_of(spaces, how, seed, number, ()))
    _same_sweep(folder, {"by": how, "seed": seed, "spaces": [_shown(space) for space in spaces], "plain": list(plain),
                         "recipe": str(first.path)})  # fmt: skip
    for number in range(count):
        settings = settings_of(spaces, how, seed, number, done)
        done.append(_trial(number, settings, resolved_for(number, settings), quiet))
        yield done[-1]


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _shown(space: Space) -> list[Any]:
    return [space.key, space.kind, space.low, space.high, space.points, list(space.choices)]


def _same_sweep(folder: Path, said: dict[str, Any]) -> None:
    """Remember what a sweep is, and refuse to mix two.

    Raises:
        CirillaError: another one stands there.
    """
    from cirilla_cli.fs import read_object, write_json

    path = folder / _FILE
    if path.is_file():
        before = read_object(path)
        other = [f"`{key}` was {before.get(key)}, is {said[key]}" for key in said if before.get(key) != said[key]]
        if other:
            raise CirillaError(f"{folder}: another sweep: " + "; ".join(other), hint="--out names another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, said)


def _trial(number: int, settings: dict[str, Any], resolved: Any, quiet: bool) -> Trial:
    """Run, or finish, or look up one trial."""
    from cirilla_cli.cli.execute import Control, run
    from cirilla_cli.cli.render import progress_for, tell
    from cirilla_cli.engine.run import Diverged, NoWayBack

    values = " ".join(_words(settings))
    if not quiet:
        tell(f"trial {number}: {values}")
    try:
        with progress_for(quiet=quiet) as progress:
            report = run(resolved, progress, Control())
    except (Diverged, NoWayBack) as trouble:
        return Trial(number, settings, resolved.out, None, trouble.step, 0.0)
    loss = report.loss if report.val_loss is None else report.val_loss
    return Trial(number, settings, resolved.out, loss, report.step, report.seconds)


def _table(trials: Sequence[Trial]) -> str:
    """The trials, the best first."""
    from cirilla_cli.cli.render import columns

    keys = list(trials[0].settings)
    rows = [["trial", *keys, "loss", "steps"]]
    for trial in trials:
        loss = "diverged" if trial.loss is None else f"{trial.loss:.4f}"
        rows.append([str(trial.trial), *(str(trial.settings[key]) for key in keys), loss, str(trial.step)])
    return columns(rows, right=frozenset({0, len(keys) + 1, len(keys) + 2}))


COMMANDS = {"sweep": sweep}
