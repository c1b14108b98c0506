"""The door to Optuna: values for the next trial from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cirilla_cli.errors import missing_extra

if TYPE_CHECKING:
    from cirilla_cli.cli.sweep import Space


Before = Sequence[tuple[dict[str, Any], float | None]]
"""Values and loss of each trial so far; None where it diverged."""


def proposed(spaces: "Sequence[Space]", seed: int, before: Before) -> dict[str, Any]:
    """What a tree-structured Parzen estimator tries next (Bergstra et al., 2011); the same after the same trials.

    Raises:
        CirillaError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise missing_extra("optuna", "optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed + len(before)))
    shapes = {space.key: _distribution(optuna, space) for space in spaces}
    for settings, loss in before:
        state = optuna.trial.TrialState.FAIL if loss is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(params=settings, distributions=shapes, value=loss, state=state))
    return dict(study.ask(shapes).params)


def _distribution(optuna: Any, space: "Space") -> Any:
    if space.kind == "of":
        return optuna.distributions.CategoricalDistribution(space.choices)
    if space.kind == "int":
        return optuna.distributions.IntDistribution(int(space.low), int(space.high))
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.kind == "log")
