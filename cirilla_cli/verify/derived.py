"""Recomputes derived samples from the documents alone; shares no code with what makes them."""

import re
from collections.abc import Callable, Mapping

from cirilla_cli.data.rows import Document, Sample


def recomputed(sample: Sample, documents: Mapping[str, Document]) -> str | None:
    """Why a derived sample does not follow from ``documents`` (by id), or None if it does.

    Derived are alias, reverse, list, true_false, text_claim, unanswerable, unmentioned and preferences; other
    strategies give a reason.
    """
    parts = sample.generator.strategy.split("/")
    judge = _JUDGES.get(parts[1] if len(parts) > 1 else "")
    if judge is None:
        return f"{sample.generator.strategy} is not a derived kind"
    return None if judge(sample, documents) else f"does not follow from the documents: {sample.evidence}"


def _answer(sample: Sample) -> str:
    return sample.messages[-1].content


def _claim(sample: Sample) -> tuple[str, str]:
    label, _, value = sample.evidence[0].partition(": ")
    return label, value


def _same(left: str, right: str) -> bool:
    return " ".join(left.casefold().split()).rstrip(".") == " ".join(right.casefold().split()).rstrip(".")


def _has(page: Document, label: str, value: str) -> bool:
    return any(_same(row.label, label) and any(_same(value, v) for v in row.values) for row in page.infobox)


def _alias(sample: Sample, documents: Mapping[str, Document]) -> bool:
    name = sample.evidence[0]
    bearers = [page for page in documents.values() if any(_same(name, alias) for alias in (*page.aliases, page.title))]
    return len(bearers) == 1 and bearers[0].title == _answer(sample)


def _reverse(sample: Sample, documents: Mapping[str, Document]) -> bool:
    label, value = _claim(sample)
    holders = [p for p in documents.values() if any(_same(value, v) for row in p.infobox for v in row.values)]
    return len(holders) == 1 and holders[0].title == _answer(sample) and _has(holders[0], label, value)


def _list(sample: Sample, documents: Mapping[str, Document]) -> bool:
    label, value = _claim(sample)
    holders = [page.title for page in documents.values() if _has(page, label, value)]
    return sorted(holders) == sorted(documents[id_].title for id_ in sample.parents) and _answer(sample) == ", ".join(
        holders
    )


def _true_false(sample: Sample, documents: Mapping[str, Document]) -> bool:
    return _answer(sample) == str(_has(documents[sample.parents[0]], *_claim(sample)))


def _unanswerable(sample: Sample, documents: Mapping[str, Document]) -> bool:
    page, label = documents[sample.parents[0]], sample.evidence[0]
    absent = not any(_same(row.label, label) for row in page.infobox)
    return absent and label.casefold() not in page.text.casefold() and "not say" in _answer(sample)


def _text_claim(sample: Sample, documents: Mapping[str, Document]) -> bool:
    page, right = documents[sample.parents[0]].text, sample.evidence[0]
    said = any(
        sample.messages[0].content[at:] in page for at in range(len(sample.messages[0].content) - len(right) + 1)
    )
    return right in page and _answer(sample) == str(said)


def _unmentioned(sample: Sample, documents: Mapping[str, Document]) -> bool:
    page, name = documents[sample.parents[0]], sample.evidence[0]
    boxes = [text for row in page.infobox for text in (row.label, *row.values)]
    everything = " ".join([page.title, page.text, *page.aliases, *boxes]).casefold()
    words = [word for word in re.findall(r"\w+", name.casefold()) if len(word) > 3]
    named = any(re.search(rf"\b{re.escape(word)}\b", everything) for word in words)
    return bool(words) and not named and _answer(sample) == f'The page does not mention "{name}".'


def _preference(sample: Sample, documents: Mapping[str, Document]) -> bool:
    page = documents[sample.parents[0]]
    rows = [tuple(value.strip() for value in row.values) for row in page.infobox]
    right = any(sample.chosen == ", ".join(dict.fromkeys(values)) for values in rows)
    everything = " ".join([page.title, page.text, *(value for values in rows for value in values)]).casefold()
    return right and sample.rejected is not None and " ".join(sample.rejected.casefold().split()) not in everything


_JUDGES: dict[str, Callable[[Sample, Mapping[str, Document]], bool]] = {
    "alias": _alias,
    "reverse": _reverse,
    "list": _list,
    "true_false": _true_false,
    "unanswerable": _unanswerable,
    "text_claim": _text_claim,
    "unmentioned": _unmentioned,
    "preference": _preference,
}
