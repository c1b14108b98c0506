"""The recipe of `cirilla generate`."""

from cirilla_cli.infer.config import GenerateConfig
from cirilla_cli.recipe.verbs.base import DeviceRecipe


class GenerateRecipe(DeviceRecipe):
    """Text from a model."""

    model: str | None = None
    """Run, checkpoint, Hugging Face folder or Hub name; null for the newest under runs/."""
    generate: GenerateConfig = GenerateConfig()
    """How text is continued."""
