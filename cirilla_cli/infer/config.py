"""Sections for generating text; torch-free."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cirilla_cli.config import Section, Texts
from cirilla_cli.units import Fraction


class SamplingConfig(Section):
    """How the next token is chosen."""

    temperature: NonNegativeFloat = 0.7
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Choose among this many likeliest tokens; null for all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Choose among the likeliest tokens that together have this probability (arXiv:1904.09751)."""
    min_p: Fraction = 0.0
    """Drop tokens less likely than this share of the likeliest one (arXiv:2407.01082)."""
    repetition_penalty: PositiveFloat = 1.0
    """Divides positive and multiplies negative logits of tokens already there (arXiv:1909.05858)."""


class GenerateConfig(SamplingConfig):
    """What `cirilla generate` does."""

    max_new_tokens: PositiveInt = 256
    """Longest continuation."""
    stop: Texts = ()
    """Strings that end the continuation, themselves left out."""
    ignore_eos: bool = False
    """Go on past end tokens, up to max_new_tokens."""
    chat: bool = False
    """Put the prompt into the model's chat template as the user's turn."""
    system: str | None = None
    """System turn before the prompt; needs chat."""
    batch: PositiveInt = 8
    """Prompts continued at the same time."""
    draft: bool = False
    """Draft with the model's own steps ahead (`model.mtp`) and check the drafts in one pass; greedy tokens only."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Number format of weights and computation; auto is bfloat16 on GPUs that multiply it, else float32."""
    seed: NonNegativeInt | None = None
    """Of the random choices; the same seed gives the same text. Null takes the recipe's."""
    prompts: Texts = ()
    """What to continue where no prompt is given otherwise."""
