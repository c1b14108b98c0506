"""Cloze: a sentence of the page with a number or a name left out."""

import re
from collections.abc import Iterator
from itertools import islice

from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.synth.base import page_chat
from cirilla_cli.synth.outline import statements
from cirilla_cli.synth.phrases import fill, ranked, subject_name

BLANK = "____"
"""What stands where words were left out."""

_CLOZE = (
    'Fill in the blank in this sentence from the page "{x}": {label}',
    'What is missing in this sentence from the page "{x}"? {label}',
    'Complete this sentence from the page "{x}": {label}',
    'This sentence is from the page "{x}". What belongs in the gap? {label}',
)
_YEAR = re.compile(r"(?<![\w,.-])\d{2,4}(?![\w,%-]|\.\d)")
_NAME = re.compile(r"(?<= )[A-Z][\w'\u2019-]+(?: (?:(?:of|the|de|van|von|var|aep) )*[A-Z][\w'\u2019-]+)*")
_BEFORE = re.compile(r"(?:\b[a-z][\w'\u2019-]*,?|^(?:After|At|Before|By|During|For|From|In|On|The|To|Under|With)) $")
"""What a whole name stands behind: behind another capital it may be the rest of one."""
_AFTER = re.compile(r" (?:a|and|of) (?:a |the )?[A-Z]")
"""What a whole name does not stand before: the rest of one."""
_OWNED = ("Her", "His", "Its", "Their")
_PART = re.compile(r"'s$|\u2019s$|'$")


def cloze(document: Document, most: int) -> Iterator[Sample]:
    """At most ``most`` sentences by hash, each with one gap; what is left out stands once in its sentence."""
    title, said = subject_name(document), ranked(statements(document), document.id, "cloze")
    gapped = ((sentence, gaps) for sentence in said if (gaps := _gaps(sentence, title)))
    for sentence, gaps in islice(gapped, most):
        gap = ranked(gaps, document.id, sentence)[0]
        template = ranked(_CLOZE, document.id, sentence)[0]
        question = fill(template, title, sentence.replace(gap, BLANK), many=False)
        yield page_chat(document, "cloze", question, gap, (sentence,))


def _gaps(sentence: str, title: str) -> list[str]:
    """Numbers and names that may be left out: no part of the title, named once."""
    behind = (name for name in _NAME.finditer(sentence) if _BEFORE.search(sentence[: name.start()]))
    alone = (name for name in behind if not _AFTER.match(sentence, name.end()))
    names = [_PART.sub("", name[0]) for name in alone if not name[0].startswith(_OWNED)]
    apart = [name for name in names if not set(name.split()) & set(title.split())]
    found = dict.fromkeys(_YEAR.findall(sentence) + apart)
    return [gap for gap in found if len(re.findall(re.escape(gap), sentence)) == 1]
