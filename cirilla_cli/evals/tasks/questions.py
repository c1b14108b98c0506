"""Question sets: exact answers, and multiple choice by likelihood."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import read_records
from cirilla_cli.data.rows import Question, held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Ask, Subject, user_turn
from cirilla_cli.evals.config import ChoicesTaskConfig, QuestionsTaskConfig
from cirilla_cli.evals.stats import share
from cirilla_cli.evals.tasks.exact import Hopeless
from cirilla_cli.verify.match import matches, normalise

SHOWN = 5
"""Wrong answers kept as examples for each group."""


class QuestionsTask:
    """Short answers that must equal an accepted one; questions seen in training and others are counted apart."""

    kind = "questions"

    def __init__(self, questions: Sequence[Question], most_new: int = 48, val: float = 0.0) -> None:
        self.questions, self.most_new, self.val = list(questions), most_new, val

    @classmethod
    def read(cls, config: QuestionsTaskConfig) -> "QuestionsTask":
        """The question set of a file.

        Raises:
            CirillaError: missing, malformed or empty.
        """
        return cls(_read(config.path, config.limit), config.max_new_tokens, config.val)

    def score(self, subject: Subject) -> dict[str, Any]:
        """``seen``, ``unseen``, ``held_out``, each: n, correct, accuracy, interval, facts, pages, wrong answers."""
        asks = [Ask(user_turn(q.question), self.most_new, Hopeless(q.answers)) for q in self.questions]
        said = subject.answers(asks)
        right = [matches(answer, q.answers) for answer, q in zip(said, self.questions, strict=True)]
        return _by_group(self.questions, right, lambda wrong: self._examples(subject, wrong), self.val)

    def _examples(self, subject: Subject, wrong: Sequence[Question]) -> list[dict[str, Any]]:
        """A few wrong answers, asked for again because hopeless ones were not heard to their end."""
        some = wrong[:SHOWN]
        said = subject.answers([Ask(user_turn(q.question), self.most_new) for q in some])
        return [
            {"question": q.question, "answers": list(q.answers), "said": text}
            for q, text in zip(some, said, strict=True)
        ]


class ChoicesTask:
    """Multiple choice: the choice with the highest log-probability per UTF-8 byte, after the question, is the answer.

    The end of the turn counts with each choice, so that one that is the beginning of another gains nothing. A tie is
    no answer.
    """

    kind = "choices"

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = list(questions)

    @classmethod
    def read(cls, config: ChoicesTaskConfig) -> "ChoicesTask":
        """The question set of a file.

        Raises:
            CirillaError: missing, malformed, empty, or a row has no choices or none that is right.
        """
        questions = _read(config.path, config.limit)
        wrong = [why for number, q in enumerate(questions, 1) if (why := _not_choosable(q, number)) is not None]
        if wrong:
            more = f"\n... and {len(wrong) - 20} more" if len(wrong) > 20 else ""
            raise CirillaError("\n".join(f"{config.path}: {why}" for why in wrong[:20]) + more)
        return cls(questions)

    def score(self, subject: Subject) -> dict[str, Any]:
        """``seen`` and ``unseen``, each: n, correct, accuracy, interval, facts, pages, chance, and wrong answers."""
        pairs = [(user_turn(q.question), choice) for q in self.questions for choice in q.choices or ()]
        logps = iter(subject.likelihoods(pairs))
        picked = [_best([(choice, next(logps)) for choice in q.choices or ()]) for q in self.questions]
        right = [p is not None and matches(p, q.answers) for p, q in zip(picked, self.questions, strict=True)]
        chosen = {id(q): p for q, p in zip(self.questions, picked, strict=True)}
        numbers = _by_group(
            self.questions, right, lambda wrong: [_choice_example(q, chosen[id(q)]) for q in wrong[:SHOWN]]
        )
        for name, group in grouped(self.questions):
            if name in numbers:
                numbers[name]["chance"] = round(sum(map(_chance, group)) / len(group), 6)
        return numbers


def _read(path: Path, limit: int | None) -> list[Question]:
    questions = list(read_records(path, Question))[:limit]
    if not questions:
        raise CirillaError(f"{path}: there is no question in this file")
    return questions


def grouped(questions: Sequence[Question], val: float = 0.0) -> list[tuple[str, list[Question]]]:
    """Questions by what training knew of them; whatever is asked of a held-out page was not seen."""
    groups: dict[str, list[Question]] = {"seen": [], "unseen": [], "held_out": []}
    for question in questions:
        known = "seen" if question.seen else "unseen"
        groups["held_out" if held_out(question.split_key, frac=val) else known].append(question)
    return list(groups.items())


def _by_group(
    questions: Sequence[Question],
    right: Sequence[bool],
    examples: Callable[[list[Question]], list[dict[str, Any]]],
    val: float = 0.0,
) -> dict[str, Any]:
    """Numbers of each group of questions, never of two in one; a group without questions is left out."""
    ok = {id(q): answer for q, answer in zip(questions, right, strict=True)}
    numbers: dict[str, Any] = {}
    for name, group in grouped(questions, val):
        if group:
            numbers[name] = {
                **share(sum(ok[id(q)] for q in group), len(group)),
                **_extent(group),
                "wrong": examples([q for q in group if not ok[id(q)]]),
            }
    return numbers


def _extent(group: Sequence[Question]) -> dict[str, int]:
    """Distinct facts (a page and an answer), distinct pages, and pages of which three facts or more are asked."""
    facts = {(q.split_key, tuple(sorted(map(normalise, q.answers)))) for q in group}
    pages = [page for page, _ in facts]
    return {
        "facts": len(facts),
        "pages": len(set(pages)),
        "pages_with_3_facts": sum(pages.count(page) >= 3 for page in set(pages)),
    }


def _best(choices: Sequence[tuple[str, float | None]]) -> str | None:
    """The likeliest choice per byte; None for a tie, or where one does not fit the context."""
    if any(logp is None for _, logp in choices):
        return None
    rates = [(logp or 0.0) / max(1, len(choice.encode())) for choice, logp in choices]
    highest = max(rates)
    return choices[rates.index(highest)][0] if rates.count(highest) == 1 else None


def _not_choosable(question: Question, number: int) -> str | None:
    if not question.choices or len(question.choices) < 2:
        return f"question {number}: `choices` must hold at least two"
    if not any(matches(choice, question.answers) for choice in question.choices):
        return f"question {number}: none of its `choices` is among its `answers`"
    return None


def _chance(question: Question) -> float:
    choices = question.choices or ()
    return sum(matches(choice, question.answers) for choice in choices) / len(choices)


def _choice_example(question: Question, said: str | None) -> dict[str, Any]:
    return {"question": question.question, "answers": list(question.answers), "said": said}
