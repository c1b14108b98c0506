"""What a task asks and what answers it: tasks know texts and numbers, subjects know tokens and models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cirilla_cli.data.rows import Message


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation to answer."""

    messages: tuple[Message, ...]
    most_new: int
    """Longest answer in tokens."""
    hopeless: Callable[[str], bool] | None = None
    """Whether an answer that begins like this can no longer be right, so that no time is spent on the rest of it."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """How a text looked to a model."""

    nats: float
    """Sum of -log p over its tokens."""
    tokens: int


class Subject(Protocol):
    """Whoever is examined: a model, or in tests anything that answers."""

    def answers(self, asks: Sequence[Ask]) -> list[str]:
        """The answer to each conversation; what does not fit the context gets an empty one."""

    def likelihoods(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[float | None]:
        """Natural log of the probability of each answer, its end of turn included, after its conversation.

        None where the two together do not fit the context.
        """

    def surprises(self, texts: Sequence[str]) -> list[Surprise]:
        """Each text as a document of its own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a classifier makes of a text."""

    label: str
    """The likeliest."""
    probabilities: Mapping[str, float]
    """Of every label."""
    whole: bool
    """Whether all of the text was read, and not its beginning alone."""


class Judge(Protocol):
    """Whoever names labels: a classifier, or in tests anything that does."""

    labels: tuple[str, ...]
    """Every label that it may name."""

    def verdicts(self, texts: Sequence[str]) -> list[Verdict]:
        """What it makes of each text."""


class Task(Protocol):
    """One thing to measure of a language model, its material read and checked when it is made."""

    kind: str

    def score(self, subject: Subject) -> dict[str, Any]:
        """The numbers of one subject, as JSON can hold them."""


def user_turn(text: str) -> tuple[Message, ...]:
    """A conversation of one question."""
    return (Message(role="user", content=text),)
