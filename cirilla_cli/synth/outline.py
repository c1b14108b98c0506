"""How a page is divided: its headed parts, also where plain text marks no headings, and its whole sentences."""

import re
from collections.abc import Iterator

from cirilla_cli.data.rows import Document, WikiSection

SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*(?=\s+[\"'(\[\u2018\u201c]?[A-Z0-9\u00c0-\u00de]|\s*$)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Sr|Jr|vs|etc|e\.g|i\.e|ca|c|No|Vol|cf|approx|b|d|pg|pp|p|fl|vol|ch))\.$"
)
_USUAL_HEADINGS = frozenset(
    {"abilities", "appearance", "background", "behaviour", "bestiary entry", "biography", "characteristics",
     "creation", "culture", "description", "early life", "etymology", "gameplay", "geography", "government",
     "history", "journal entry", "legacy", "life", "origin", "overview", "personality", "physical appearance",
     "plot", "quick answers", "relationships", "summary", "walkthrough"}
)  # fmt: skip
"""Headings of running text, told from the last line of a list above a paragraph."""
_LIST_HEADINGS = frozenset(
    {"associated quest", "associated quests", "external links", "footnotes", "gallery", "in other languages",
     "locations", "notable members", "notable people", "notes", "objectives", "references", "see also", "source",
     "sources", "trivia", "videos"}
)  # fmt: skip
"""Headings of lists, under which the next line is an item."""
_ATTRIBUTED = re.compile(r"[-\u2013\u2014\u2015]\s?\w")
_HEADING = re.compile(r"[A-Z0-9\u00c0-\u00de][^\n|]{1,59}(?<![.!?:;,\"\u201d])$")
_NOT_PROSE = re.compile(
    r"[|{}<>\[\]*#=\n]|https?:|\bMedia:|\w[.!?,;\u2013][\"\u201d]?[A-Z][a-z]|\s[-\u2013\u2014]$|\.\.\s"
)
_OPENING = frozenset(
    ["Additionally", "Afterwards", "Also", "Although", "And", "Another", "As", "Both", "But", "Consequently",
     "Despite", "Either", "Eventually", "Finally", "Fortunately", "Furthermore", "He", "Her", "Here", "Him", "His",
     "However", "If", "Instead", "It", "Its", "Later", "Likewise", "Luckily", "Meanwhile", "Moreover", "Neither",
     "Nevertheless", "Nonetheless", "Note", "Not", "Now", "Once", "Or", "Others", "Please", "Sadly", "She", "Similarly",
     "So", "Soon", "Still", "Such", "That", "Their", "Them", "Then", "There", "Therefore", "These", "They", "This",
     "Those", "Thus", "Unfortunately", "What", "When", "Where", "Which", "Who", "Yet"]
)  # fmt: skip
"""Words with which a sentence leans on the one before it."""
_VERB = re.compile(
    r"\b(?:is|was|are|were|be|been|has|have|had|can|could|will|would|may|might|must|shall|should|do|does|did|went|came|took|"
    r"made|met|found|became|said|told|left|fell|won|lost|gave|got|saw|knew|led|fled|fought|brought|taught|thought|held|"
    r"kept|sent|began|wrote|stole|ran|grew|built|rose|broke|spoke|chose|drew|threw|(?!(?:bed|need|weed|seed|speed|breed|hundred|sacred)\b)[a-z]+ed|"
    r"(?:act|allow|appear|ask|become|begin|believe|belong|buy|call|come|consist|contain|depict|derive|describe|end|find|"
    r"get|give|hail|help|hold|include|keep|know|lead|leave|let|lie|live|look|make|mean|meet|move|need|occur|own|play|"
    r"provide|refer|remain|represent|require|return|reveal|run|say|see|seem|sell|serve|show|stand|start|take|teach|tell|"
    r"think|turn|use|want|wear|work)s|goes|teaches)\b"
)
"""Whether a sentence has a verb: forms that no noun is likely to have."""
RELATIVE = re.compile(r", (?:which|who|whose|where|whom)\b[^,]*")
"""A clause that says something beside the sentence."""
_ASIDE = re.compile(r":|\s-\s")
_NOTICE = re.compile(
    r"(?:The following|This (?:article|section|page|part)|For (?:the|other|more|a|an)\b.*\bsee\b|See also|Main article|"
    r"Note:|Warning|Spoilers?\b)"
)
_SPEAKER = re.compile(r"\b(?:I|me|my|mine|we|us|our|you|your|yours|myself)\b", re.IGNORECASE)
_PAIRS = (("(", ")"), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"))


def sections_of(document: Document) -> tuple[WikiSection, ...]:
    """A page's sections: those that are marked, else those that its lines give away."""
    return document.sections or tuple(_inferred(own_lines(document)))


def own_lines(document: Document) -> list[str]:
    """The lines of the text that are not empty, without its title where that stands above it."""
    lines = [line.strip() for line in document.text.splitlines() if line.strip()]
    plain = re.sub(r"\W+", " ", document.title.replace("_", " ")).strip()
    return lines[1:] if lines and re.sub(r"\W+", " ", lines[0]).strip() == plain else lines


def is_paragraph(line: str) -> bool:
    """Whether a line is running text: a whole sentence of some length at least, and no heading, item or quotation."""
    return (
        len(line) >= 40 and bool(re.search(r"[.!?][\"')\u201d]*$", line)) and not line.startswith(("-", "\u2013", "*"))
    )


def _inferred(lines: list[str]) -> Iterator[WikiSection]:
    """Short lines right above a paragraph are headings; after a list only if they are usual ones."""
    start, heading = 0, ""
    for index, line in enumerate(lines):
        if not _is_heading(lines, index):
            continue
        if heading:
            yield WikiSection(level=2, heading=heading, text="\n".join(lines[start:index]))
        start, heading = index + 1, line
    if heading:
        yield WikiSection(level=2, heading=heading, text="\n".join(lines[start:]))


def _is_heading(lines: list[str], index: int) -> bool:
    line = lines[index]
    if line.casefold() in _USUAL_HEADINGS | _LIST_HEADINGS:
        return True
    likely = bool(_HEADING.fullmatch(line)) and len(line.split()) <= 7 and ": " not in line
    return likely and index + 1 < len(lines) and is_paragraph(lines[index + 1]) and _may_head(lines[:index][-2:])


def _may_head(above: list[str]) -> bool:
    """Whether a heading may follow these lines: running text, a usual heading, or running text and one heading."""
    if not above:
        return False
    if is_paragraph(above[-1]) or above[-1].casefold() in _USUAL_HEADINGS:
        return True
    return is_paragraph(above[0]) and bool(_HEADING.fullmatch(above[-1])) and above[-1].casefold() not in _LIST_HEADINGS


def opening_of(text: str) -> str:
    """The first line of a part, behind quotations and notices, if it is running text; empty where it is a list."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((line for line in _unquoted(lines) if not _NOTICE.match(line)), "")
    return first if SENTENCE_END.search(first) else ""


def paragraphs(document: Document) -> Iterator[str]:
    """The paragraphs of running text, in order."""
    return (line for line in _unquoted(own_lines(document)) if is_paragraph(line))


def _unquoted(lines: list[str]) -> Iterator[str]:
    """The lines without quotations: a line, then one with a dash and who said it, which is no list of several."""
    dashed = [bool(_ATTRIBUTED.match(line)) for line in [*lines, "", ""]]
    for index, line in enumerate(lines):
        said_below = dashed[index + 1] and not dashed[index + 2]
        if not dashed[index] and not said_below:
            yield line


def ends(text: str) -> Iterator[int]:
    """Where the sentences of ``text`` end."""
    for match in SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[: match.start() + 1]):
            yield match.end()


def sentences(text: str) -> Iterator[str]:
    """The sentences of a paragraph, verbatim."""
    start = 0
    for end in ends(text):
        yield text[start:end].strip()
        start = end


def balanced(text: str) -> bool:
    """Whether brackets and quotation marks that open also close."""
    return text.count('"') % 2 == 0 and all(text.count(left) == text.count(right) for left, right in _PAIRS)


def told(text: str) -> bool:
    """Whether a piece of running text can be read by itself: nothing cut off, run together or left of markup."""
    return text[:1].isalnum() and not text[:1].islower() and balanced(text) and not _NOT_PROSE.search(text)


def says_something(text: str) -> bool:
    """Whether the first sentence of a text has a verb."""
    return bool(_VERB.search(text[: next(ends(text), len(text))]))


def statements(document: Document, least: int = 40, most: int = 240) -> list[str]:
    """Sentences that say something by themselves, each once: told in the third person, leaning on no other sentence."""
    found: dict[str, None] = {}
    for paragraph in paragraphs(document):
        for sentence in sentences(paragraph):
            fits = least <= len(sentence) <= most and sentence.endswith(".") and not _ASIDE.search(sentence)
            if fits and told(sentence) and _stands_alone(sentence):
                found[sentence] = None
    return list(found)


def _stands_alone(sentence: str) -> bool:
    words = sentence.replace(",", " ").split()
    whole = len(words) > 5 and bool(_VERB.search(RELATIVE.sub("", sentence)))
    return whole and words[0] not in _OPENING and not _SPEAKER.search(sentence) and not _NOTICE.match(sentence)
