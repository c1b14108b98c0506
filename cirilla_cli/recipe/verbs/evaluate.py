"""The recipe of `cirilla eval`."""

from cirilla_cli.evals.config import EvalConfig
from cirilla_cli.recipe.verbs.base import DeviceRecipe


class EvalRecipe(DeviceRecipe):
    """Scores of a model."""

    eval: EvalConfig
    """What is measured, on which model."""
