"""Lists of one page: what stands in marked items under a heading."""

import re
from collections.abc import Iterator

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.phrases import fill, ranked, subject_name
from cirilla_cli.verify.match import normalise

_LISTED = (
    'What does the page "{x}" list under "{label}"?',
    'Name what is listed under "{label}" on the page "{x}".',
    'Which items are listed under "{label}" on the page "{x}"?',
    'Give the list under "{label}" from the page "{x}".',
)
_ITEM = re.compile(r"^\s*[-*\u2022]\s+(.+?)\s*$")
_FEWEST, _MOST = 2, 12


def listed(document: Document, phrasings: int, most_chars: int) -> Iterator[Sample]:
    """Each heading that stands once, with all of its items, joined as they follow one another."""
    headings = [normalise(section.heading) for section in document.sections]
    for section in document.sections:
        found = [match[1] for line in section.text.splitlines() if (match := _ITEM.match(line))]
        answer = ", ".join(found)
        alone = headings.count(normalise(section.heading)) == 1
        if alone and _FEWEST <= len(found) <= _MOST and len(answer) <= most_chars:
            for template in ranked(_LISTED, document.id, section.heading)[:phrasings]:
                question = fill(template, subject_name(document), section.heading, many=True)
                yield page_chat(document, "listed", question, answer, found)
