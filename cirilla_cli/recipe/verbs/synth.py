"""The recipe of `cirilla synth`."""

from cirilla_cli.recipe.verbs.base import Recipe
from cirilla_cli.synth.config import SynthConfig


class SynthRecipe(Recipe):
    """Samples from documents and task generators."""

    synth: SynthConfig
    """What samples are made of, and which are kept."""
