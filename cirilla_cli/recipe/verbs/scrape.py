"""The recipe of `cirilla scrape`."""

from cirilla_cli.recipe.verbs.base import Recipe
from cirilla_cli.scrape.config import ScrapeConfig


class ScrapeRecipe(Recipe):
    """Documents from a wiki, a dump or a folder."""

    scrape: ScrapeConfig
    """Where documents come from and how they are cleaned."""
