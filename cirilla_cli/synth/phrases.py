"""Phrasings of questions: a table from infobox labels to question templates, and the English around it."""

import bisect
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Literal

from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.synth.outline import paragraphs

Condition = Literal["number", "text", "any"]

_HEAD = re.compile(r"^(?P<labels>[^\[\]]+?)\s*(?:\[(?P<condition>number|text)\])?$")
_EITHER = re.compile(r"\[([^|\[\]]*)\|([^|\[\]]*)\]")
_FIELDS = re.compile(r"\{(x's|x|X|label)\}")
_THE = re.compile(
    r"(?:Battle|Siege|War|Wars|School|Lodge|Order|Slaughter|Massacre|Fall|Treaty|Peace|Temple|Tower|Church|Kingdom|Duchy|"
    r"Empire|City|House|Council|Brotherhood|Guild|Conclave|Isle|Isles|Gate|Book|Law|Curse|Legend|Cult|Sword|Army) of\b|"
    r".* (?:War|Wars|Coup|coup|Rebellion|Uprising|Brotherhood|Guild|Empire|Mountains|Isles|Islands|River|Sea|Hunt)$"
)
_SINGULAR_S = ("ss", "us", "is", "alias", "series", "species", "news")


@dataclass(frozen=True, slots=True)
class Group:
    """Phrasings that ask the same thing; ``key`` names it."""

    key: str
    labels: tuple[str, ...]
    condition: Condition
    templates: tuple[str, ...]

    def fits(self, label: str, answer: str) -> bool:
        """Whether this group asks for ``label`` (plain form) with that answer."""
        has_digit = any(character.isdigit() for character in answer)
        wanted = self.condition == "any" or (self.condition == "number") == has_digit
        return wanted and (label in self.labels or self.labels == ("*",))


class PhraseTable:
    """Groups in order of precedence; the last one fits every label."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = tuple(groups)

    def find(self, label: str, answer: str) -> Group:
        """The first group that fits; for labels of no group the key of the result is the label itself."""
        plain = plain_label(label)
        group = next(group for group in self._groups if group.fits(plain, answer))
        return Group(plain, (plain,), "any", group.templates) if group.labels == ("*",) else group


def load_phrases(own: Path | None) -> PhraseTable:
    """The built-in table, behind the user's own where there is one.

    Raises:
        CirillaError: the file is unreadable, or a line is not as synth/phrases.txt says.
    """
    builtin = resources.files("cirilla_cli.synth").joinpath("phrases.txt").read_text(encoding="utf-8")
    groups = parse_phrases(builtin, "phrases.txt")
    if own is None:
        return PhraseTable(groups)
    try:
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CirillaError(f"{own}: cannot be read as a phrase table: {error}") from None
    return PhraseTable([*parse_phrases(text, str(own)), *groups])


def parse_phrases(text: str, name: str) -> list[Group]:
    """Read a phrase table.

    Raises:
        CirillaError: naming every line that is wrong.
    """
    groups: list[tuple[str, list[str]]] = []
    wrong: list[Where] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            groups.append((line.strip(), []))
        problem = _problem(line, bool(groups))
        if problem:
            wrong.append(Where(name, number, None, line.strip(), problem))
        elif line[0].isspace():
            groups[-1][1].append(line.strip())
    wrong += [Where(name, None, None, head, f"`{head}` has no phrasings") for head, lines in groups if not lines]
    if wrong:
        said = [f"{w.file}:{w.line}: {w.expected}" if w.line else f"{w.file}: {w.expected}" for w in wrong]
        raise CirillaError("\n".join(said), hint="the form is described at the top of phrases.txt", where=wrong)
    return [_group(head, lines) for head, lines in groups]


def _problem(line: str, in_group: bool) -> str | None:
    if not line[0].isspace():
        return None if _HEAD.match(line.strip()) else "labels separated by |, then [number] or [text] or nothing"
    if not in_group:
        return "a phrasing stands before the first line of labels"
    rest = _EITHER.sub("", _FIELDS.sub("", line))
    if re.search(r"[{}\[\]]", rest):
        return "only {x}, {x's}, {X}, {label} and [one|many] may stand in braces and brackets"
    return None if re.search(r"\{(x's|x|X)\}", line) else "a phrasing must name its subject: {x}, {X} or {x's}"


def _group(head: str, lines: list[str]) -> Group:
    match = _HEAD.match(head)
    assert match is not None, "heads were checked while reading"
    labels = tuple(plain_label(label) for label in match["labels"].split("|"))
    condition: Condition = "number" if match["condition"] == "number" else "text" if match["condition"] else "any"
    return Group(labels[0], labels, condition, tuple(dict.fromkeys(lines)))


def plain_label(label: str) -> str:
    """``Eye_Colour:`` -> ``eye colour``; words in capitals (HP) keep them."""
    words = label.replace("_", " ").strip().rstrip(":").split()
    return " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)


def fill(template: str, subject: str, label: str, *, many: bool) -> str:
    """A template with its fields filled in, beginning with a capital; a verb agrees with the label that it is about."""
    plural = _is_plural(label) if "{label}" in template else many
    text = _EITHER.sub(lambda match: match[2 if plural else 1], template)
    fields = {"x": subject, "x's": possessive(subject), "X": capital(subject), "label": label}
    return capital(_FIELDS.sub(lambda match: fields[match[1]], text))


def _is_plural(label: str) -> bool:
    last = label.rsplit(" ", 1)[-1]
    return last.endswith("s") and not last.endswith(_SINGULAR_S)


def possessive(subject: str) -> str:
    """``Geralt's``, and ``Drowners'`` after an s."""
    return f"{subject}'" if subject.endswith(("s", "S")) else f"{subject}'s"


def capital(text: str) -> str:
    """``text`` with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def subject_name(document: Document) -> str:
    """The title as it can stand in a sentence: ``A/Part`` (``A_Part`` as a file's name) becomes ``A (Part)``."""
    first = document.text.lstrip().split("\n", 1)[0].strip()
    title = first if first.replace("/", "_") == document.title else document.title
    return re.sub(r"^(.*\w{3})/(\w.{3,})$", r"\1 (\2)", title)


def subject_of(document: Document) -> str:
    """What a page is about, as it stands inside a sentence: with an article where its own text gives it one.

    ``Battle of Brenna`` becomes ``the Battle of Brenna`` by its first word, ``Wild Hunt`` becomes ``the Wild Hunt``
    where the page never names it without the article, ``Drowner`` becomes ``a drowner`` where the page begins with "A
    drowner is" and, without an infobox, ``drowners`` where it begins with "Drowners are". Other titles stay as they
    are. Only the page itself is read, so that other pages change nothing.
    """
    name = subject_name(document)
    title, text = re.escape(name), document.text
    first = re.match(rf"\W*(the|an?)\s+({title})\b", text.lstrip(), re.IGNORECASE)
    if first is not None:
        return f"{first[1].lower()} {first[2]}"
    named = len(re.findall(rf"(?<=[a-z,] ){title}\b", text))
    with_article = len(re.findall(rf"\b[Tt]he {title}\b", text))
    if _THE.match(name) or (" " in name and with_article and with_article == named):
        return f"the {name}"
    return name if document.infobox else _of_plain_text(document, name)


def _of_plain_text(document: Document, name: str) -> str:
    """What else a page without an infobox gives away: its first lines may be no text, its title a common noun."""
    base, common = name.split(" (")[0], f"{name[:1].lower()}{name[1:]}"
    title = re.escape(base)
    for start in islice(paragraphs(document), 2):
        first = re.match(rf"(the|an?)\s+(?:[A-Z]\w+ )?({title})\b", start, re.IGNORECASE)
        if first is not None:
            return f"{first[1].lower()} {first[2]}{name.removeprefix(base)}"
        if re.match(rf"{title}e?s\b[^.]* are\b", start):
            return f"{common}s"
    is_common = name[1:].islower() and re.search(rf"\b{re.escape(common)}\b", document.text)
    if is_common and " " in name and name.endswith("s"):
        return common
    with_article = is_common or bool(re.fullmatch(r"[\w'\u2019 -]+ [a-z-]+", base))
    return f"the {common if is_common else name}" if with_article else name


class Ring:
    """Items on a ring, by hash: each key has an order of them that neither further items nor other keys disturb.

    It costs one sorting, where an order of its own for each of n keys would cost n (consistent hashing, Karger et al.
    1997).
    """

    def __init__(self, items: Iterable[str]) -> None:
        places = sorted((_hash(item), item) for item in set(items))
        self._hashes, self._items = [place for place, _ in places], [item for _, item in places]

    def after(self, *key: str) -> Iterator[str]:
        """All items, from the place of ``key`` once round."""
        first = bisect.bisect(self._hashes, _hash(*key))
        yield from self._items[first:]
        yield from self._items[:first]


def _hash(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()


def ranked(templates: Sequence[str], *key: str) -> list[str]:
    """The templates in an order of their own for each ``key``, which further templates or pages do not disturb."""

    return sorted(templates, key=lambda template: _hash(*key, template))
