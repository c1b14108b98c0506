"""The recipe of `cirilla tokenize`."""

from cirilla_cli.data.config import TokenizeConfig
from cirilla_cli.recipe.verbs.base import Recipe


class TokenizeRecipe(Recipe):
    """A tokenizer and token shards."""

    tokenize: TokenizeConfig
    """What is tokenized, and with what."""
