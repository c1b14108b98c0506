"""What a model is asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue, judge or restore: text, or token ids taken as they are; exactly one of them."""

    text: str | None = None
    ids: tuple[int, ...] | None = None
