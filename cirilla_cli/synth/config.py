"""Sections for making samples; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cirilla_cli.config import ByKind, FilePath, Misfits, Paths, Section, Texts
from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.data.config import FormatName
from cirilla_cli.teachers.config import OllamaConfig, TeacherSection
from cirilla_cli.units import PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.synth.base import Synthesizer
    from cirilla_cli.synth.strategies.base import Strategy

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


TEST_START = 1_000_000
"""The first index of reasoning-gym's instances that are kept for tests, where evaluation begins."""


class GymTaskConfig(Section):
    """One task generator of reasoning-gym."""

    task: str | None = None
    """Name of the generator; null where the key of this entry is its name. Several entries may make one task, such as
    some instances of each of several levels."""
    level: NonNegativeInt | None = None
    """Level of the generator's curriculum, from 0 on; null for the generator's own defaults."""
    levels: dict[str, NonNegativeInt] = {}
    """Levels of single attributes of the curriculum, such as {num_terms: 4}; the others are at `level`, or their first.
    """
    config: dict[str, Any] = {}
    """The generator's own options, without seed and size; they come on top of what levels set."""
    count: PositiveCount | None = None
    """Instances to generate; null for as many as the section says."""
    start: NonNegativeInt = 0
    """Index of the first; item i comes from seed + i. Indices from 1,000,000 on are kept for tests, and a range may not
    reach from below into them."""


class ReasoningGymConfig(Section):
    """Verifiable tasks from reasoning-gym's generators, seeded."""

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    tasks: dict[str, GymTaskConfig] = {}
    """Task generators by name (or by any name, with `task`), with level, options and the number of instances; empty for
    all that are fit to be trained on and scored (`verify/curated.py` names the others, each with the reason)."""
    count: PositiveCount = 1000
    """Instances of each task that does not say its own number."""
    seed: int | None = None
    """Base seed of all tasks; null for the recipe's own seed."""

    def build(self, workspace: Path | None) -> "Synthesizer":
        """The source of samples; ``workspace`` is the folder for what it remembers, if any."""
        from cirilla_cli.synth.reasoning import ReasoningGym

        return ReasoningGym(self)

    @model_validator(mode="after")
    def _train_and_test_apart(self) -> Self:
        ends = {name: task.start + (task.count or self.count) for name, task in self.tasks.items()}
        across = {name: end for name, end in ends.items() if self.tasks[name].start < TEST_START < end}
        said = f"must lie on one side of index {TEST_START:,}, from which on they are kept for tests"
        Misfits.refuse({f"tasks.{name}": f"ends at index {end:,}, {said}" for name, end in across.items()})
        return self


class AskPrompts(Section):
    """Prompts of one kind of request: text files that hold the placeholders of those built in, all of them."""

    ask: FilePath | None = None
    """What asks for a row, or for several; null for the words built in."""


class PairPrompts(AskPrompts):
    """Prompts of questions and of wrong answers to them."""

    wrong: FilePath | None = None
    """What asks for a wrong answer; null for the words built in."""


class TurnPrompts(Section):
    """Prompts of the turns of a conversation."""

    first: FilePath | None = None
    """What asks for its first turn; null for the words built in."""
    switch: FilePath | None = None
    """What asks for a turn to another page; null for the words built in."""
    follow_up: FilePath | None = None
    """What asks for any other turn; null for the words built in."""


class SummaryPrompts(Section):
    """Prompts of summaries."""

    whole: FilePath | None = None
    """What asks for that of a short page; null for the words built in."""
    part: FilePath | None = None
    """What asks for that of a part of a long page; null for the words built in."""
    merge: FilePath | None = None
    """What asks for one out of several; null for the words built in."""


class EvolvePrompts(Section):
    """Prompts of questions that grow."""

    first: FilePath | None = None
    """What asks for the question that is changed; null for the words built in."""
    change: FilePath | None = None
    """What asks for a change of it; null for the words built in."""


class MagpiePrompts(Section):
    """Prompts of questions in a user's place, and of their answers."""

    opened: FilePath | None = None
    """With a template: what stands in the system's turn before the open turn of the user; null: the words built in."""
    ask: FilePath | None = None
    """Without a template: what asks for a question; null for the words built in."""
    answer: FilePath | None = None
    """What asks for its answer; null for the words built in."""


class QAConfig(Section):
    """Single questions, each with its answer and the passage that the answer rests on."""

    kind: Literal["qa"] = "qa"
    pairs: PositiveInt = 3
    """Question-answer pairs asked for from each part of a page, in one request."""
    prompts: AskPrompts = AskPrompts()
    """Prompts of your own: ask, with {title} {text} {count}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.qa import QA

        return QA(self, chunk_chars)


FollowUp = Literal[
    "elaborate", "clarify", "rephrase", "cite_and_summarize", "cite_and_explain", "simplify", "true_statement",
    "false_statement", "vague", "example", "importance", "relation", "comparison", "related_facts", "chronology",
    "significance",
]  # fmt: skip


class MultiTurnConfig(Section):
    """Conversations of several turns, each answer checked against the page that it is about."""

    kind: Literal["multi_turn"] = "multi_turn"
    min_turns: PositiveInt = 2
    """Conversations with fewer good turns go to the rejects."""
    max_turns: PositiveInt = 5
    """Questions of the longest conversation; how many one has, from min_turns on, follows from its page."""
    new_context: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How often a turn after the first turns to another page instead of following up."""
    follow_ups: Annotated[tuple[FollowUp, ...], Field(strict=False, min_length=1)] = get_args(FollowUp)
    """Kinds of follow-up questions to choose from."""
    prompts: TurnPrompts = TurnPrompts()
    """Prompts of your own: first, with {title} {text}; switch (to another page), with {title}
    {text} {told}; follow_up, with {title} {text} {told} {kind}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.multi_turn import MultiTurn

        return MultiTurn(self, chunk_chars)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_turns < self.min_turns:
            Misfits.refuse({"max_turns": f"is {self.max_turns}, must be at least min_turns ({self.min_turns})"})
        idle = {"switch": self.prompts.switch} if not self.new_context or self.max_turns == 1 else {}
        idle |= {"follow_up": self.prompts.follow_up} if self.max_turns == 1 else {}
        said = "is given, and with this new_context and max_turns no conversation has such a turn: leave it out"
        Misfits.refuse({f"prompts.{name}": said for name, path in idle.items() if path is not None})
        return self


class SummaryConfig(Section):
    """What is known about a page's subject in a paragraph: long pages part by part, then the parts together."""

    kind: Literal["summary"] = "summary"
    max_words: Annotated[int, Field(ge=20)] = 150
    """Longest summary that is asked for and taken."""
    prompts: SummaryPrompts = SummaryPrompts()
    """Prompts of your own: whole and merge, with {title} {text} {max_words}; part (of a long
    page), with {number} {count} {before} besides."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.summary import Summary

        return Summary(self, chunk_chars)


class VariantsConfig(Section):
    """Questions one at a time, each shown all earlier ones of its part of the page and asked to differ from them."""

    kind: Literal["variants"] = "variants"
    rounds: PositiveInt = 5
    """Questions asked for from each part of a page, each in a request of its own."""
    most_alike: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Questions that share more of their words (Jaccard) with an earlier one are asked for again."""
    prompts: AskPrompts = AskPrompts()
    """Prompts of your own: ask, with {title} {text} {earlier}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.variants import Variants

        return Variants(self, chunk_chars)


class PreferencesConfig(Section):
    """Pairs of a grounded answer and a wrong one of similar length that fails a check by name."""

    kind: Literal["preferences"] = "preferences"
    pairs: PositiveInt = 3
    """Questions asked for from each part of a page, in one request; each wrong answer takes one more."""
    prompts: PairPrompts = PairPrompts()
    """Prompts of your own: ask, with {title} {text} {count}; wrong, with {title} {text}
    {question} {answer}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.preferences import Preferences

        return Preferences(self, chunk_chars)


class PersonasConfig(Section):
    """Questions as different people would ask them, answered for these people; checked as single questions are."""

    kind: Literal["personas"] = "personas"
    personas: Annotated[Texts, Field(min_length=1)] = (
        "a child of ten who is curious",
        "a student before an examination",
        "a teacher who prepares a lesson",
        "somebody who has never heard of it and is in a hurry",
        "an expert who checks details",
        "a writer who looks for material",
        "a player who wants to know what to do",
        "somebody whose first language is another",
    )
    """Who asks, in words that go into the prompt."""
    per_part: PositiveInt = 2
    """How many of them ask about each part of a page, each in a request of its own; the part decides who."""
    pairs: PositiveInt = 2
    """Questions of each."""
    prompts: AskPrompts = AskPrompts()
    """Prompts of your own: ask, with {title} {text} {count} {persona}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.personas import Personas

        return Personas(self, chunk_chars)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.per_part > len(set(self.personas)):
            Misfits.refuse(
                {
                    "per_part": f"is {self.per_part}, must be at most the number of different personas "
                    f"({len(set(self.personas))})"
                }
            )
        return self


Style = Literal["easy", "encyclopedic", "terse", "question_answer"]


class RephraseConfig(Section):
    """Parts of pages in other words, as plain text for training in the middle; checked against the part."""

    kind: Literal["rephrase"] = "rephrase"
    styles: Annotated[tuple[Style, ...], Field(strict=False, min_length=1)] = get_args(Style)
    """How to write: easy (short sentences, common words), encyclopedic (as in a reference work), terse (dense, for
    those who know the matter), question_answer (all of it as questions with their answers); one request each."""
    least_length: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Shortest rewriting, as a share of its part's length."""
    most_length: Annotated[float, Field(ge=1)] = 2.0
    """Longest rewriting, as a multiple of its part's length."""
    most_copied: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of a rewriting's words that may stand in eight or more words copied in a row."""
    least_facts: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Smallest share of the part's numbers and names that a rewriting must keep."""
    prompts: AskPrompts = AskPrompts()
    """Prompts of your own: ask, with {title} {text} {style}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.rephrase import Rephrase

        return Rephrase(self, chunk_chars)


Change = Literal["constrain", "deepen", "concretize", "combine", "broaden"]


class EvolveConfig(Section):
    """A question of each part of a page, and harder or rarer ones that are made of it step by step."""

    kind: Literal["evolve"] = "evolve"
    rounds: PositiveInt = 3
    """Changes of the first question, each of the last good one, and each in a request of its own."""
    changes: Annotated[tuple[Change, ...], Field(strict=False, min_length=1)] = get_args(Change)
    """Kinds of change to choose from: constrain (one more condition), deepen (how or why), concretize (the particular
    for the general), combine (a second fact besides), broaden (another matter, as hard); the part decides which."""
    most_alike: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Questions that share more of their words (Jaccard) with an earlier one are asked for again."""
    prompts: EvolvePrompts = EvolvePrompts()
    """Prompts of your own: first, with {title} {text}; change, with {title} {text} {told}
    {change}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.evolve import Evolve

        return Evolve(self, chunk_chars)


class MagpieConfig(Section):
    """Questions that the teacher asks itself in the user's place, then answers from the page."""

    kind: Literal["magpie"] = "magpie"
    questions: PositiveInt = 3
    """Questions of each part of a page; each takes a request, and one more for its answer."""
    template: Literal["chatml", "llama3"] | None = None
    """The chat template of the teacher: chatml (Qwen and many others) or llama3. The user's turn is then opened in raw
    mode and drawn at a temperature of at least 1, without being asked for; null asks for it."""
    prompts: MagpiePrompts = MagpiePrompts()
    """Prompts of your own: opened, with {title} {text}; ask, with {title} {text} {earlier}; answer, with {title} {text}
    {question}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.magpie import Magpie

        return Magpie(self, chunk_chars)

    @model_validator(mode="after")
    def _asked_one_way(self) -> Self:
        said = f"is given, and nothing is asked with it where template is {self.template or 'null'}: leave it out"
        idle = {"opened": self.prompts.opened} if self.template is None else {"ask": self.prompts.ask}
        Misfits.refuse({f"prompts.{name}": said for name, path in idle.items() if path is not None})
        return self


class CotConfig(Section):
    """Questions that need two facts or more, answered step by step (a chain of thought), each step with its passage."""

    kind: Literal["cot"] = "cot"
    questions: PositiveInt = 2
    """Questions asked for from each part of a page, each in a request of its own."""
    max_steps: Annotated[int, Field(ge=2)] = 5
    """Most steps before an answer; there are at least two."""
    prompts: AskPrompts = AskPrompts()
    """Prompts of your own: ask, with {title} {text} {max_steps} {earlier}."""

    def build(self, chunk_chars: int) -> "Strategy":
        """The strategy that this section describes."""
        from cirilla_cli.synth.strategies.cot import Cot

        return Cot(self, chunk_chars)


StrategySection = Annotated[
    QAConfig | MultiTurnConfig | SummaryConfig | VariantsConfig | PreferencesConfig | PersonasConfig | RephraseConfig
    | EvolveConfig | MagpieConfig | CotConfig,
    ByKind(),
]  # fmt: skip


class JudgeConfig(Section):
    """A language model that reads every good row beside its page, and gives it marks from 1 to 5."""

    teacher: TeacherSection | None = None
    """Who judges; null for the teacher that wrote the row."""
    least: Annotated[int, Field(ge=1, le=5)] = 4
    """Rows with a lower mark for anything (grounded, relevant, clear) go to the rejects."""


class TeacherSourceConfig(Section):
    """Rows written by a language model and checked against the page."""

    kind: Literal["teacher"] = "teacher"
    teacher: TeacherSection = OllamaConfig()
    """Who writes; on the command line `--teacher ollama:MODEL@URL`, `openai:MODEL@URL` or `own:PATH`."""
    strategy: StrategySection = QAConfig()
    """What is written: qa, multi_turn, summary, variants, preferences, personas, rephrase, evolve, magpie or cot."""
    chunk_chars: PositiveInt = 4000
    """Longest part of a page shown at once; parts end at paragraphs."""
    max_tokens: PositiveInt = 1024
    """Answer budget of one request; doubled once when an answer is cut off."""
    temperature: Annotated[float, Field(ge=0)] = 0.3
    """Sampling temperature of the teacher."""
    retries: NonNegativeInt = 3
    """Further tries after an answer that is not the JSON asked for, or is in another language, or repeats an earlier
    one; each with the complaint and a new seed."""
    workers: PositiveInt = 4
    """Requests under way at the same time."""
    limit: PositiveInt | None = None
    """Only the first so many parts of pages; null for all."""
    seed: int | None = None
    """Base of the seeds sent with requests; null for the recipe's own seed."""
    judge: JudgeConfig | None = None
    """Marks for every row that has passed the checks, a request each; null: nobody judges."""
    cache: FilePath | None = None
    """A folder of answers that runs share, whatever they make; null: a run has its own alone."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        wrong, judge = {}, self.judge and self.judge.teacher
        if self.teacher.kind == "own" and self.strategy.kind == "magpie" and self.strategy.template is not None:
            said = "but a model of one's own takes no raw prompts: leave it out"
            wrong["strategy.template"] = f"is {self.strategy.template}, {said}"
        if judge and judge.kind == "openai" and judge.price is not None:
            wrong["judge.teacher.price"] = "is given, but a judge's tokens are counted with the teacher's: leave it out"
        Misfits.refuse(wrong)
        return self

    def build(self, workspace: Path | None) -> "Synthesizer":
        """The source of samples; ``workspace`` is the folder for what it remembers, if any."""
        from cirilla_cli.synth.teacher import TeacherSource

        return TeacherSource(self, workspace)


SynthSection = Annotated[FandomConfig | ReasoningGymConfig | TeacherSourceConfig, ByKind()]


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
