"""Literal support: whether an answer stands in its evidence and the evidence in its page."""

from collections.abc import Iterable, Sequence

from cirilla_cli.data.rows import Document


def unsupported(answer: str, evidence: Sequence[str], document: Document) -> str | None:
    """Why ``answer`` is not literally supported by ``document``, or None if it is.

    The answer must stand verbatim in one piece of evidence, or be several pieces joined by ``", "``, and each piece
    verbatim in the page's text, title or infobox.
    """
    if not evidence:
        return "no evidence"
    if not any(answer in piece for piece in evidence) and answer != ", ".join(evidence):
        return "the answer does not stand in the evidence"
    return next((f"not in the page: {piece[:60]!r}" for piece in evidence if not _in_page(piece, document)), None)


def _in_page(piece: str, document: Document) -> bool:
    return any(piece in text for text in _texts(document))


def _texts(document: Document) -> Iterable[str]:
    yield document.text
    yield document.title
    for fact in document.infobox:
        yield from fact.values
    for section in document.sections:
        yield section.text
