"""The recipe of `cirilla run`: stages, each a recipe of its own plus overrides."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from cirilla_cli.config import Section, Texts
from cirilla_cli.recipe.verbs.base import Recipe

StageVerb = Literal[
    "scrape", "synth", "curate", "tokenize", "pretrain", "sft", "dpo", "eval", "generate", "push"
]  # fmt: skip


class StageConfig(Section):
    """One stage of a pipeline."""

    verb: StageVerb
    """The command it runs."""
    recipe: str | None = None
    """A recipe file, relative to the pipeline's folder, or a built-in name; null for the verb's default."""
    overrides: dict[str, Any] = Field(default={}, alias="with")
    """Overrides by dotted key; `{stage}` inside a value is the `out` of that stage, which must stand above."""
    after: Texts = ()
    """Stages above that must be done first, besides those that values name."""


class ReferenceConfig(Section):
    """How long a pipeline took once, and how fast that machine was: what the estimate at the start is made from."""

    seconds: PositiveFloat
    """Its time there."""
    gflops: PositiveFloat
    """That machine's float32 matrix products, in GFLOP/s."""


class PipelineRecipe(Recipe):
    """Stages from raw text to a published model."""

    about: str | None = None
    """What the pipeline does, shown when it starts."""
    reference: ReferenceConfig | None = None
    """A measured time to scale to this machine; null prints no estimate."""
    contamination: Literal["refuse", "report"] = "refuse"
    """When rows that a stage trains on hold what an eval stage measures and does not mark as seen: refuse stops before
    that stage, report says so and goes on."""
    stages: dict[str, StageConfig]
    """The stages by name, in the order they run."""
