"""The questions that a page itself answers: its quick answers, its frequent questions."""

import re
from collections.abc import Iterator

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.outline import balanced, sections_of

_HEADINGS = frozenset({"quick answers", "faq", "faqs", "frequently asked questions", "questions and answers"})
_MARK = re.compile(r"^(?:[-*\u2022]\s*)?(?:(?:Q|A|Question|Answer)\s*[:.]\s*)?")
_CREDIT = re.compile(r"^Provided by\b", re.IGNORECASE)


def quick_answers(document: Document, most_chars: int) -> Iterator[Sample]:
    """Each question under such a heading with the paragraph below it, both as the page has them."""
    for section in sections_of(document):
        if section.heading.casefold() not in _HEADINGS:
            continue
        lines = [_MARK.sub("", line.strip()) for line in section.text.splitlines() if line.strip()]
        for asked, answer in zip(lines, lines[1:], strict=False):
            fits = len(answer) <= most_chars and balanced(answer) and not _CREDIT.match(answer)
            if asked.endswith("?") and not answer.endswith("?") and fits:
                yield page_chat(document, "quick_answers", asked, answer, (answer,))
