"""Which side of the split a row stands on: by hash of its page, so that a page's rows stay together."""

from typing import Literal

from cirilla_cli.curate.base import Row
from cirilla_cli.curate.config import SplitConfig
from cirilla_cli.data.rows import held_out

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")

_SALT = "curate"
"""Apart from the splits that later verbs make by the same hash: theirs would find their share taken away."""


def side_of(key: str, config: SplitConfig) -> Side:
    """The side of one page."""
    if held_out(key, frac=config.test, salt=_SALT):
        return "test"
    return "validation" if held_out(key, frac=config.test + config.validation, salt=_SALT) else "train"


def sides_of(row: Row, config: SplitConfig) -> frozenset[Side]:
    """The sides of every page that a row tells of: more than one where it would carry a page across the split."""
    return frozenset(side_of(key, config) for key in row.parents or (row.split_key,))
