"""The recipe of `cirilla curate`."""

from typing import Self

from pydantic import model_validator

from cirilla_cli.config import Misfits
from cirilla_cli.curate.config import CurateConfig
from cirilla_cli.recipe.verbs.base import Recipe


class CurateRecipe(Recipe):
    """One clean set of rows out of several sources."""

    curate: CurateConfig
    """Where rows come from, which are kept, and on which side of the split they go."""

    @model_validator(mode="after")
    def _has_places(self) -> Self:
        """Standard output takes training rows as they come, and nothing else."""
        if self.out == "-":
            own = self.curate
            said = "is given, and standard output (`out` is -) takes training rows as they come: name a folder"
            given = {
                "curate.split": bool(own.split.validation or own.split.test),
                "curate.mixture": any(source.weight for source in own.sources.values()),
                "curate.export": own.export is not None,
            }
            Misfits.refuse({key: said for key, found in given.items() if found})
        return self
