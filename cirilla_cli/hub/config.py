"""The section for publishing; torch-free."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from cirilla_cli.config import FilePath, Misfits, Section
from cirilla_cli.fs import on_the_hub

_OF_MODELS = ("dtype", "title", "license", "language", "scores")


class PushConfig(Section):
    """What `cirilla push` does."""

    model: str | None = None
    """Run, checkpoint or Hugging Face folder, null for the newest under runs/; for a data set a file or folder."""
    to: str | None = None
    """`dir:PATH` for a local folder, OWNER/NAME for the Hub; hf://datasets/OWNER/NAME for rows as a data set."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the published weights; the checks run on them as published."""
    private: bool = True
    """Visibility of a Hub repository that is created."""
    title: str | None = None
    """Heading of the model card; null for the run's name."""
    license: str | None = None
    """Licence of the model, an identifier of the Hub such as cc-by-sa-4.0; null leaves the choice open in the card."""
    language: str | None = None
    """Language of the texts, a code such as en; null leaves it out of the card."""
    message: str = "Upload with cirilla"
    """Commit message on the Hub."""
    scores: FilePath | None = None
    """scores.json of `cirilla eval` for the model card; null looks beside the model."""

    @property
    def of_rows(self) -> bool:
        """Whether a data set is published, and no model."""
        return self.to is not None and on_the_hub(Path(self.to))

    @model_validator(mode="after")
    def _says_what_is_there(self) -> Self:
        if self.of_rows:
            said = "is given, and `to` is a data set, whose card says what its rows say"
            given = [key for key in _OF_MODELS if self.__dict__[key] != type(self).model_fields[key].default]
            Misfits.refuse(dict.fromkeys(given, said))
        return self
