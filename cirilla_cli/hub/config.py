"""The section for publishing; torch-free."""

from typing import Literal

from cirilla_cli.config import FilePath, Section


class PushConfig(Section):
    """What `cirilla push` does."""

    model: str | None = None
    """Run, checkpoint or Hugging Face folder; null for the newest under runs/."""
    to: str | None = None
    """`dir:PATH` for a local folder, OWNER/NAME for the Hub."""
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
