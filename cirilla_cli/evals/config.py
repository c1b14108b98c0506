"""Sections for evaluation; torch-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cirilla_cli.config import ByKind, FilePath, Misfits, Paths, Section
from cirilla_cli.units import Fraction


class TextTaskConfig(Section):
    """Perplexity and bits per byte of held-out text, each document by itself."""

    kind: Literal["text"] = "text"
    path: Paths
    """Text files (one document each), .jsonl with `text`, or folders of them."""
    max_documents: PositiveInt | None = None
    """Read only the first so many; null for all."""


class QuestionsTaskConfig(Section):
    """Exact answers to a question set; seen and unseen questions are reported apart."""

    kind: Literal["questions"] = "questions"
    path: FilePath
    """A question set (.jsonl): question, answers, seen, split_key."""
    val: Fraction = 0.0
    """Share of split keys that fine-tuning held out (its data.val): questions on those are held_out, not seen."""
    limit: PositiveInt | None = None
    """Ask only the first so many; null for all."""
    max_new_tokens: PositiveInt = 48
    """Longest answer."""


class ChoicesTaskConfig(Section):
    """Multiple choice: the choice with the highest likelihood per byte, given the question, wins."""

    kind: Literal["choices"] = "choices"
    path: FilePath
    """A question set whose rows have `choices`."""
    limit: PositiveInt | None = None
    """Ask only the first so many; null for all."""


class ReasoningTaskConfig(Section):
    """A reasoning-gym task, scored by its own scorer in a separate process."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    name: str
    """Name of the generator, such as leg_counting."""
    level: NonNegativeInt | None = None
    """Level of the generator's curriculum, as in `synth.source.tasks`; null for the generator's own defaults."""
    levels: dict[str, NonNegativeInt] = {}
    """Levels of single attributes of the curriculum; the others are at `level`, or their first."""
    config: dict[str, Any] = {}
    """The generator's own options; they come on top of what levels set."""
    seed: int = 0
    """Base seed; training rows of the same seed use other indices."""
    start: NonNegativeInt = 1_000_000
    """First index; choose a range that no training row comes from."""
    count: PositiveInt = 200
    """Instances scored, after those seen in training are dropped."""
    exclude: Paths = ()
    """Samples whose questions count as seen: such instances are dropped and counted."""
    max_new_tokens: PositiveInt = 48
    """Longest answer."""


class PreferencesTaskConfig(Section):
    """Share of held-out pairs whose better answer is likelier than the worse one, and the mean margin in nats."""

    kind: Literal["preferences"] = "preferences"
    path: Paths
    """Samples that hold preferences; only pairs whose split key is held out are read (see `val`)."""
    val: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The held-out share, as in the training recipe; 1 takes every pair."""


class ClassificationTaskConfig(Section):
    """How often a classifier names the label of a text: accuracy, and precision, recall and F1 of every label."""

    kind: Literal["classification"] = "classification"
    path: Paths
    """Rows (.jsonl) of `text` and `label`, folders of them, or - for standard input."""
    val: Annotated[Fraction, Field(gt=0)] = 1.0
    """The held-out share, as in the training recipe, of which alone rows are read; 1 takes every row."""
    limit: PositiveInt | None = None
    """Read only the first so many of these rows; null for all."""
    predictions: FilePath | None = None
    """File (.jsonl) that gets a line for each row and model: text, label, predicted, probabilities; null for none."""

    @model_validator(mode="after")
    def _goes_into_a_file(self) -> Self:
        if self.predictions is not None and self.predictions.suffix != ".jsonl":
            raise Misfits({"predictions": f"is {self.predictions}, must be a file ending in .jsonl"})
        return self


TaskSection = Annotated[
    TextTaskConfig
    | QuestionsTaskConfig
    | ChoicesTaskConfig
    | ReasoningTaskConfig
    | PreferencesTaskConfig
    | ClassificationTaskConfig,
    ByKind(),
]


class EvalConfig(Section):
    """What `cirilla eval` measures."""

    model: str | None = None
    """Run, checkpoint, Hugging Face folder or Hub name; null for the newest under runs/."""
    compare: dict[str, str] = {}
    """Further models scored on the same tasks, by the name their column gets, such as {before: runs/sft}."""
    untrained: bool = False
    """Score the model's shape with fresh weights as well, as the floor to compare with."""
    tasks: dict[str, TaskSection] = {}
    """What to measure, by name; of a classifier kind classification, of language models the others."""
    batch: PositiveInt = 32
    """Prompts answered, or texts classified, at the same time."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Number format of weights and computation."""
