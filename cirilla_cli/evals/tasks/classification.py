"""Texts with labels: how often a classifier names the right one, and which it takes for which."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from cirilla_cli.data.labelled import LabelledRow, read_labelled
from cirilla_cli.data.rows import held_out
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Verdict
from cirilla_cli.evals.config import ClassificationTaskConfig
from cirilla_cli.evals.stats import share

SHOWN = 5
"""Wrong answers kept as examples."""
_NAMED = 5
"""Unknown labels that are named."""


class ClassificationTask:
    """Accuracy, and precision, recall and F1 of every label, on texts whose labels are known."""

    kind = "classification"

    def __init__(self, rows: Sequence[LabelledRow], where: str = "rows") -> None:
        self.texts, self.labels, self.where = [row.text for row in rows], [str(row.label) for row in rows], where

    @classmethod
    def read(cls, config: ClassificationTaskConfig) -> "ClassificationTask":
        """The held-out rows of files.

        Raises:
            CirillaError: malformed rows, or none is held out.
        """
        where = ", ".join(map(str, config.path))
        rows = list(read_labelled(config.path))
        kept = list(islice(_held_out(rows, config.val), config.limit))
        if not kept:
            why = f"none of its {len(rows)} rows is held out (`val` is {config.val})" if rows else "no rows"
            raise CirillaError(f"{where}: {why}")
        return cls(kept, where)

    def unknown(self, labels: Sequence[str]) -> str | None:
        """What is wrong with the rows for a model that knows these labels; None if it knows all of theirs."""
        others = Counter(label for label in self.labels if label not in set(labels))
        if not others:
            return None
        named = ", ".join(f"{label!r} ({n})" for label, n in others.most_common(_NAMED))
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        known = ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
        return (
            f"{self.where}: {sum(others.values())} rows have a label that the model does not know, {named}{more}; "
            + (f"it knows {known}")
        )

    def numbers(self, verdicts: Sequence[Verdict], labels: Sequence[str]) -> dict[str, Any]:
        """n, correct, accuracy, interval, macro_f1, commonest_label, truncated, labels, confusion, wrong.

        Args:
            verdicts: what a model made of each text.
            labels: those that it knows.
        """
        pairs = Counter((true, said.label) for true, said in zip(self.labels, verdicts, strict=True))
        by_label = {label: _of_label(pairs, label) for label in labels}
        defined = [own["f1"] for own in by_label.values() if own["f1"] is not None]
        return {
            **share(sum(n for (true, said), n in pairs.items() if true == said), len(self.labels)),
            "macro_f1": round(sum(defined) / len(defined), 6),
            "commonest_label": round(max(Counter(self.labels).values()) / len(self.labels), 6),
            "truncated": sum(not said.whole for said in verdicts),
            "labels": by_label,
            "confusion": _confusion(pairs, labels),
            "wrong": self._examples(verdicts),
        }

    def lines(self, model: str, verdicts: Sequence[Verdict]) -> Iterable[dict[str, Any]]:
        """A row for each text, of the model with this name."""
        for text, label, said in zip(self.texts, self.labels, verdicts, strict=True):
            named = {"text": text, "label": label, "predicted": said.label, "probabilities": dict(said.probabilities)}
            yield {"model": model, **named}

    def _examples(self, verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
        found = zip(self.texts, self.labels, verdicts, strict=True)
        wrong = (
            {"text": text, "label": label, "said": said.label} for text, label, said in found if said.label != label
        )
        return list(islice(wrong, SHOWN))


Pairs = Mapping[tuple[str, str], int]
"""How many texts of one label were given another, or the same."""


def _held_out(rows: Iterable[LabelledRow], frac: float) -> Iterable[LabelledRow]:
    """The rows that training with this share has not seen; all of them where it is 1."""
    return (row for row in rows if held_out(row.key, frac=frac))


def _of_label(pairs: Pairs, label: str) -> dict[str, Any]:
    """Rows of a label, how often it was named, and the shares; None where there is nothing to divide by."""
    hit = pairs.get((label, label), 0)
    n = sum(count for (true, _), count in pairs.items() if true == label)
    named = sum(count for (_, said), count in pairs.items() if said == label)
    return {
        "n": n,
        "predicted": named,
        "precision": _ratio(hit, named),
        "recall": _ratio(hit, n),
        "f1": _ratio(2 * hit, n + named),
    }


def _confusion(pairs: Pairs, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """By true label, how often each was named; what never happened is left out."""
    return {
        true: {said: pairs[true, said] for said in labels if pairs.get((true, said))}
        for true in labels
        if any(pairs.get((true, said)) for said in labels)
    }


def _ratio(above: int, below: int) -> float | None:
    return round(above / below, 6) if below else None
