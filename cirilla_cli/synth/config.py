"""Sections for making samples; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from cirilla_cli.config import ByKind, FilePath, Paths, Section
from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.data.config import FormatName
from cirilla_cli.teachers.config import OllamaConfig, TeacherSection
from cirilla_cli.units import PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.synth.base import Synthesizer

FactKind = Literal[
    "infobox", "lead", "section", "quick_answers", "cloze", "multi_turn", "noise", "alias", "reverse", "list",
    "true_false", "unanswerable",
]  # fmt: skip
FactKinds = Annotated[tuple[FactKind, ...], Field(strict=False)]


class FandomConfig(Section):
    """Questions and answers from the pages of any wiki by rules alone: every answer stands in its page."""

    kind: Literal["fandom"] = "fandom"
    makes: FactKinds = (
        "infobox", "lead", "section", "quick_answers", "cloze", "multi_turn", "noise", "alias", "reverse", "list",
        "true_false", "unanswerable",
    )  # fmt: skip
    """What to make: infobox (one question a labelled value), lead (who or what something is), section (what the page
    says under a heading), quick_answers (questions that the page itself answers), cloze (a sentence with a gap),
    multi_turn (a conversation about a page), noise (questions with typing mistakes), alias (from redirects), reverse
    (whose value this is, where only one page has it), list (all pages that share a value, items under a heading),
    true_false, unanswerable (what the page does not say)."""
    each_per_page: PositiveInt = 4
    """Most rows of a page of each kind that its running text could give many of: cloze, noise, true_false."""
    phrasings: PositiveInt = 4
    """Phrasings of each fact that are trained on, chosen by a hash of page and label."""
    held_out_phrasings: NonNegativeInt = 1
    """Further phrasings of each infobox fact that stand in the question set alone."""
    preferences: bool = True
    """Also make pairs of a right and a wrong infobox value for preference training."""
    pairs_per_fact: PositiveInt = 1
    """Wrong values paired with each right one, where other pages offer that many of similar length."""
    facts_per_page: PositiveInt | None = None
    """Most infobox facts of one page; null for all."""
    max_answer_chars: PositiveInt = 160
    """Longer infobox values are no facts to ask for; they go to the rejects."""
    max_text_chars: PositiveInt = 400
    """Longest answer taken from running text (lead and section)."""
    phrases: FilePath | None = None
    """A phrase table of your own, read before the built-in one; same form as synth/phrases.txt."""

    def build(self, workspace: Path | None) -> "Synthesizer":
        """The source of samples; ``workspace`` is the folder for what it remembers, if any."""
        from cirilla_cli.synth.fandom import Fandom

        return Fandom(self)


class GymTaskConfig(Section):
    """One task generator of reasoning-gym."""

    config: dict[str, Any] = {}
    """The generator's own options, without seed and size."""
    count: PositiveCount = 1000
    """Instances to generate."""
    start: NonNegativeInt = 0
    """Index of the first; item i comes from seed + i, so keep tests in another index range of the same seed."""


class ReasoningGymConfig(Section):
    """Verifiable tasks from reasoning-gym's generators, seeded."""

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    tasks: dict[str, GymTaskConfig] = {
        "leg_counting": GymTaskConfig(),
        "word_sequence_reversal": GymTaskConfig(),
        "number_sorting": GymTaskConfig(),
        "basic_arithmetic": GymTaskConfig(),
    }
    """Task generators by name, with their options and the number of instances."""
    seed: int | None = None
    """Base seed of all tasks; null for the recipe's own seed."""

    def build(self, workspace: Path | None) -> "Synthesizer":
        """The source of samples; ``workspace`` is the folder for what it remembers, if any."""
        from cirilla_cli.synth.reasoning import ReasoningGym

        return ReasoningGym(self)


class TeacherQAConfig(Section):
    """Grounded question-answer pairs written by a language model and checked against the page."""

    kind: Literal["teacher"] = "teacher"
    teacher: TeacherSection = OllamaConfig()
    """Who writes; on the command line `--teacher ollama:MODEL@URL` or `openai:MODEL@URL`."""
    pairs_per_chunk: PositiveInt = 3
    """Question-answer pairs asked for from each part of a page."""
    chunk_chars: PositiveInt = 4000
    """Longest part of a page shown at once; parts end at paragraphs."""
    max_tokens: PositiveInt = 1024
    """Answer budget of one request; doubled once when an answer is cut off."""
    temperature: Annotated[float, Field(ge=0)] = 0.3
    """Sampling temperature of the teacher."""
    retries: NonNegativeInt = 3
    """Further tries after an answer that is not the JSON asked for; each with the complaint and a new seed."""
    workers: PositiveInt = 4
    """Requests under way at the same time."""
    limit: PositiveInt | None = None
    """Only the first so many parts of pages; null for all."""
    seed: int | None = None
    """Base of the seeds sent with requests; null for the recipe's own seed."""
    prompt: FilePath | None = None
    """A prompt of your own: a text file in which {title}, {count}, {schema} and {text} are filled in."""

    def build(self, workspace: Path | None) -> "Synthesizer":
        """The source of samples; ``workspace`` is the folder for what it remembers, if any."""
        from cirilla_cli.synth.teacher import TeacherQA

        return TeacherQA(self, workspace)


SynthSection = Annotated[FandomConfig | ReasoningGymConfig | TeacherQAConfig, ByKind()]


class SynthConfig(Section):
    """What `cirilla synth` does."""

    source: SynthSection = FandomConfig()
    """Where samples come from: fandom, reasoning-gym or teacher."""
    inputs: Paths = ()
    """Documents (.jsonl, text files, a folder of them, or - for standard input); also as positionals."""
    format: FormatName | None = None
    """What the rows are, where that cannot be seen in them (docs/formats.md); null: it is found out."""
    dedupe: DuplicatesConfig = DuplicatesConfig()
    """Removal of repeated rows."""
