"""The recipe of `cirilla push`."""

from cirilla_cli.hub.config import PushConfig
from cirilla_cli.recipe.verbs.base import DeviceRecipe


class PushRecipe(DeviceRecipe):
    """A model, published."""

    push: PushConfig = PushConfig()
    """What is published, where to."""
