"""Sections for curating; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cirilla_cli.config import ByKind, FilePath, Misfits, Section
from cirilla_cli.data.config import FormatName
from cirilla_cli.units import Fraction, PartialShare, PositiveCount

if TYPE_CHECKING:
    from cirilla_cli.curate.base import Filter

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "el", "he", "ar", "hi", "th", "zh", "ja", "ko"]
"""Languages that can be told apart, by ISO 639-1."""


class SourceConfig(Section):
    """One source of rows."""

    path: FilePath
    """A file, a folder, - for standard input, or files of the Hub as hf://datasets/OWNER/NAME[@REVISION][/FILES]."""
    format: FormatName | None = None
    """What the rows are, where they should not be told by their content; null tells each by itself."""
    weight: PositiveFloat | None = None
    """Its part of the mixture, relative to the other weights; null in all sources takes every row once."""


class LengthConfig(Section):
    """Texts that are too short or too long go."""

    kind: Literal["length"] = "length"
    min_chars: NonNegativeInt = 1
    """Fewest characters."""
    max_chars: PositiveCount | None = None
    """Most characters; null for any number."""
    min_words: NonNegativeInt = 1
    """Fewest words, between white space."""
    max_words: PositiveCount | None = None
    """Most words; null for any number."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        wrong = {}
        for least, most in (("min_chars", "max_chars"), ("min_words", "max_words")):
            low, high = self.__dict__[least], self.__dict__[most]
            if high is not None and high < low:
                wrong[most] = f"is {high}, must be at least {least} ({low})"
        Misfits.refuse(wrong)
        return self

    def build(self) -> "Filter":
        """The filter."""
        from cirilla_cli.curate.measures import Length

        return Length(self)


Limits3 = Annotated[tuple[Fraction, Fraction, Fraction], Field(strict=False)]
Limits6 = Annotated[tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction], Field(strict=False)]


class RepetitionConfig(Section):
    """Texts that repeat themselves go; measures and limits of Gopher (Rae et al. 2021, table A1).

    A word is what stands between white space, so the n-gram limits say little about scripts written without spaces.
    """

    kind: Literal["repetition"] = "repetition"
    lines: Fraction = 0.30
    """Largest share of lines that stand earlier in the text."""
    line_chars: Fraction = 0.20
    """The same, as a share of the characters in lines."""
    paragraphs: Fraction = 0.30
    """Largest share of paragraphs (between empty lines) that stand earlier in the text."""
    paragraph_chars: Fraction = 0.20
    """The same, as a share of the characters in paragraphs."""
    min_words: PositiveInt = 50
    """Fewer words say nothing by their n-grams, which then are not measured (Gopher takes no shorter documents)."""
    top_grams: Limits3 = (0.20, 0.18, 0.16)
    """Largest share of characters in all occurrences of the commonest 2-, 3- and 4-gram of words, if it repeats."""
    repeated_grams: Limits6 = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Largest share of characters in words of 5- to 10-grams that stand earlier in the text; each counted once."""

    def build(self) -> "Filter":
        """The filter."""
        from cirilla_cli.curate.repetition import Repetition

        return Repetition(self)


class WordsConfig(Section):
    """Texts whose words do not look like prose go; measures of Gopher (Rae et al. 2021, section A1.1).

    The measures are made for languages written with spaces.
    """

    kind: Literal["words"] = "words"
    min_mean_chars: PositiveFloat = 3.0
    """Least mean length of words, in characters."""
    max_mean_chars: PositiveFloat = 10.0
    """Greatest mean length of words, in characters."""
    min_alphabetic: Fraction = 0.80
    """Least share of words that hold a letter."""
    max_symbols: Fraction = 0.10
    """Most hash signs and ellipses per word."""
    max_bullets: Fraction = 0.90
    """Largest share of lines that begin with a bullet."""
    max_ellipses: Fraction = 0.30
    """Largest share of lines that end in an ellipsis."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_mean_chars < self.min_mean_chars:
            said = f"is {self.max_mean_chars}, must be at least min_mean_chars ({self.min_mean_chars})"
            raise Misfits({"max_mean_chars": said})
        return self

    def build(self) -> "Filter":
        """The filter."""
        from cirilla_cli.curate.measures import Words

        return Words(self)


class LanguageConfig(Section):
    """Texts in other languages go, as far as letters and common words can tell.

    The script decides first; Latin texts are told apart by the share of their words that are among a language's
    commonest. That needs some twenty words of running text: lists of names, code and mixed texts stay undecided.
    """

    kind: Literal["language"] = "language"
    keep: Annotated[tuple[Language, ...], Field(strict=False, min_length=1)] = ("en",)
    """Languages that stay, by ISO 639-1 code."""
    undecided: Literal["keep", "drop"] = "keep"
    """What happens to texts whose language cannot be told."""
    min_words: PositiveInt = 20
    """Fewer words leave a Latin text undecided."""
    min_common: Fraction = 0.10
    """Least share of a Latin text's words that must be among its language's commonest, else it is undecided."""

    def build(self) -> "Filter":
        """The filter."""
        from cirilla_cli.curate.language import LanguageFilter

        return LanguageFilter(self)


class BoilerplateConfig(Section):
    """Lines that stand on many pages of a source are taken out of its documents; a page of nothing else goes.

    The sources are read twice, so standard input cannot be one; and they hold documents, not samples.
    """

    kind: Literal["boilerplate"] = "boilerplate"
    share: Fraction = 0.10
    """A line on more than this share of a source's pages is boilerplate."""
    min_pages: PositiveInt = 10
    """And on at least so many pages."""

    def build(self) -> "Filter":
        """The filter."""
        from cirilla_cli.curate.boilerplate import Boilerplate

        return Boilerplate(self)


FilterSection = Annotated[LengthConfig | RepetitionConfig | WordsConfig | LanguageConfig | BoilerplateConfig, ByKind()]


# duplicates and contamination: near


class DuplicatesConfig(Section):
    """Removal of repeated rows; the first one in order stays.

    Equal rows always go. Tasks, and rows that rules made from a template, are never near-duplicates: they differ by a
    name or a number.
    """

    match: Literal["exact", "normalised", "near"] = "near"
    """exact: equal texts; normalised: also up to case, white space and punctuation (in tasks up to case and white
    space); near: also free text of which most character 5-grams are the same."""
    threshold: Annotated[Fraction, Field(gt=0)] = 0.8
    """Least Jaccard similarity of a near-duplicate, verified on each candidate."""
    same_facts: bool = True
    """Rows that differ in a number, or in a capitalised word inside a sentence, are not near-duplicates."""


class ContaminationConfig(Section):
    """How rows are compared with the evaluation sets; texts marked `seen: true` there are exempt, and counted."""

    span: Annotated[int, Field(ge=8)] = 50
    """Words of a text's own, in an unbroken part of it, that make a leak; a shorter text must stand in a row whole."""
    resemblance: Annotated[Fraction, Field(gt=0)] = 0.7
    """Share of a text's words, by their rarity, that make a line of a row resemble it; reported, and nothing more."""


# end of duplicates and contamination


class MixtureConfig(Section):
    """How much of each source is taken where sources have weights."""

    unit: Literal["characters", "rows"] = "characters"
    """What weights and `size` count; characters come nearest to tokens without a tokenizer."""
    size: PositiveCount | None = None
    """Units of the whole training set; null for the most that `max_epochs` allows."""
    max_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Most copies of a source's rows; above 1 the rows of small sources repeat."""


class SplitConfig(Section):
    """Rows that are held out, by a hash of their page, so that nothing about a held-out page is trained on."""

    validation: PartialShare = 0.0
    """Share of pages whose rows go to validation.jsonl."""
    test: PartialShare = 0.0
    """Share of pages whose rows go to test.jsonl."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.validation + self.test >= 1:
            raise Misfits({"test": f"is {self.test}, must leave rows to train on beside validation"})
        return self


class CurateConfig(Section):
    """What `cirilla curate` does."""

    sources: dict[str, SourceConfig] = {}
    """Where rows come from, by name; of rows that repeat one another, that of the source named first stays."""
    filters: dict[str, FilterSection] = {}
    """Which rows are good enough, by a name of your own; applied in order. Tasks with checkable answers pass all."""
    duplicates: DuplicatesConfig | None = DuplicatesConfig()
    """Removal of repeated rows; null keeps them."""
    evaluation: dict[str, FilePath] = {}
    """Question sets and texts that models will be measured on, by name; rows that hold them go."""
    contamination: ContaminationConfig = ContaminationConfig()
    """How rows are compared with them."""
    mixture: MixtureConfig = MixtureConfig()
    """How much of each source is taken; of meaning where sources have weights."""
    split: SplitConfig = SplitConfig()
    """What is held out for validation and test."""
    export: Literal["parquet", "datasets"] | None = None
    """Also write Parquet files (parquet), or a folder for `datasets` and the Hub with its card (datasets)."""

    def paths(self) -> list[Path]:
        """Every path that is read."""
        return [*(source.path for source in self.sources.values()), *self.evaluation.values()]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        weights = {name: source.weight for name, source in self.sources.items()}
        wrong = {}
        if any(weights.values()):
            said = "is null, but other sources have weights: give it one, or none to any"
            wrong = {f"sources.{name}.weight": said for name, weight in weights.items() if weight is None}
        elif self.mixture != MixtureConfig():
            wrong["mixture"] = "is given, but no source has a weight: give each of them one"
        if not self.evaluation and self.contamination != ContaminationConfig():
            wrong["contamination"] = "is given, but `evaluation` names no set to compare rows with"
        names = [name for name, source in self.sources.items() if str(source.path) == "-"]
        if names and any(rule.kind == "boilerplate" for rule in self.filters.values()):
            said = "is -, which can be read once, but a filter of kind boilerplate reads its sources twice"
            wrong |= {f"sources.{name}.path": said for name in names}
        wrong |= {f"sources.{name}.path": "is -, and only one source can be standard input" for name in names[1:]}
        Misfits.refuse(wrong)
        return self
