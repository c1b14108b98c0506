"""Pages of a made-up wiki with the truth about each: what its text must hold, what must not be left, which facts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

INFOBOX = """<includeonly><infobox>
<title source="name"><default>{{PAGENAME}}</default></title>
<data source="job"><label>Occupation</label></data>
<data source="alias"><label>Also known as</label></data>
<data source="weapons"><label>[[Weapon]]s &amp;amp; tools</label></data>
<data source="home"><label>Home</label><default>nowhere</default></data>
</infobox>[[Category:Hunters]]</includeonly><noinclude>Documentation of the box. [[Category:Templates]]</noinclude>"""
PLACE = """{| class="infobox"
! colspan="2" | {{PAGENAME}}
|-
! Ruler
| {{{ruler|nobody}}}
|-
! Trade
| {{{trade|}}}
|}"""
NAVBOX = """<div class="navbox">Navigation words: [[Hunter 1]] &bull; [[Hunter 2]] {{#if:{{{1|}}}|extra}}</div>"""
QUOTE = "<blockquote>{{{1}}}<br>''{{{2|Unknown}}}''</blockquote>"
STUB = '<div class="stub metadata">This article is a stub; stub words.</div>'
COUNT = "{{#switch:{{{1}}}|1=one|2=two|#default=many}} {{#ifeq:{{{1}}}|1|beast|beasts}}"

NOISE = (
    "Navigation words",
    "stub words",
    "A source nobody reads",
    "[edit]",
    "Category:",
    "{{",
    "}}",
    "[[",
    "<ref",
    "'''",
)
"""What no text may hold."""


@dataclass(frozen=True)
class Truth:
    """A page of namespace 0 that must become a document, and what is known of it."""

    title: str
    text: str
    """The wikitext."""
    says: tuple[str, ...]
    infobox: tuple[tuple[str, tuple[str, ...]], ...] = ()
    headings: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _hunter(number: int) -> Truth:
    name, seen = f"Hunter {number}", f"He met {{{{Count|{number % 3}}}}}"
    trust = f"doesn't trust [1 to {number}]"
    text = f"""{{{{Infobox hunter
|job=[[Trade|monster hunter no. {number}]]
|alias=Grey {number}<br>Old {number}<br />Butcher {number}
|weapons=
* [[Steel sword]] {number}
* Silver sword {number}
}}}}
{{{{Quote|I took coin {number}.|{name}}}}}
'''{name}''' was born in year {1000 + number} and {trust} mages.<ref>A source nobody reads {number}.</ref>
{seen} at Hill&nbsp;{number} &mdash; as ''[[Hunter {number % 7 + 1}|his friend]]s' tale'' tells.

== Other skills ==
* Sign {number}
** Fire {number}
* Oil {number}

=== Prices ===
{{| class="wikitable"
! Thing !! Price
|-
| Trophy {number} || {number * 3} crowns
|}}

== References ==
<references />

{{{{Navbox|x}}}}
{{{{Stub}}}}
[[Category:Hunters of {number % 2}]]
"""
    says = (
        f"I took coin {number}.", f"{name} was born in year {1000 + number} and doesn't trust [1 to {number}] mages.",
        f"at Hill {number} \u2014 as his friends' tale tells.", f"- Sign {number}\n  - Fire {number}\n- Oil {number}",
        f"Trophy {number} | {number * 3} crowns",
        "He met " + {1: "one beast", 2: "two beasts"}.get(number % 3, "many beasts"),
    )  # fmt: skip
    infobox = (
        ("Occupation", (f"monster hunter no. {number}",)),
        ("Also known as", (f"Grey {number}", f"Old {number}", f"Butcher {number}")),
        ("Weapons & tools", (f"Steel sword {number}", f"Silver sword {number}")),
        ("Home", ("nowhere",)),
    )
    aliases = {1: ("First of the hunters", "The chain begins", "The chain goes on", "White Wolf")}.get(number, ())
    categories = ("Hunters", f"Hunters of {number % 2}")
    return Truth(name, text, says, infobox, ("Other skills", "Prices"), categories, aliases)


def _place(number: int) -> Truth:
    text = f"""{{{{Infobox place|ruler=Queen {number}|trade=<ul><li>Wool {number}</li><li>Salt {number}</li></ul>}}}}
Town {number} lies by a river and has {number} gates, of which most stay shut at night.
<poem>
First line {number},
second line.
</poem>
; Founded : long ago {number}
[[Category:Places]]"""
    box = (("Ruler", (f"Queen {number}",)), ("Trade", (f"Wool {number}", f"Salt {number}")))
    says = (f"Town {number} lies by a river", f"First line {number},\nsecond line.", f"Founded\nlong ago {number}")
    return Truth(f"Town {number}", text, says, box, (), ("Places",))


ODD_TITLES = (
    "A/B", "A:B", "A-B", "A//B", "CON", "NUL.txt", ".hidden", "100% Proof", "Left\\Right", "Who Goes There?",
    "Iron sword", "Iron Sword", "IRON SWORD", "D'jinni & \"co\"", "C++", "\u0141\u00f3d\u017a", 
    "\u00c9" + "\u00e9" * 124, "L" + "o" * 249, "\u9b54\u6cd5" * 10, "B=c, d; e!",
)  # fmt: skip


def _odd(title: str) -> Truth:
    sentence = f"The page called {title} has a title that breaks programs which make file names of titles."
    return Truth(title, f"{sentence}\n[[Category:Odd]]", (sentence,), categories=("Odd",))


def _long() -> Truth:
    # The wiki turns 1 MB of plain paragraphs into HTML without templates, as real long lists are.
    lines = [f"Entry {n} of the long list tells of a hunt that took {n % 90 + 3} days and some." for n in range(13500)]
    return Truth("The long list", "\n\n".join(lines), (lines[0], lines[6000], lines[-1]))


DIALOGUE = "\n\n".join(f"'''{'Hunter' if n % 2 else 'Innkeeper'}:''' Line {n} of what was said." for n in range(30))


def truths(hunters: int = 104, places: int = 12) -> list[Truth]:
    """Every page that must become a document."""
    found = [_hunter(n) for n in range(1, hunters + 1)] + [_place(n) for n in range(1, places + 1)]
    found += [_odd(title) for title in ODD_TITLES]
    found.append(_long())
    found.append(Truth("A talk at the inn/transcript", DIALOGUE, ("Innkeeper: Line 0 of what was said.",)))
    return found


REJECTED = {
    "Empty": "short", "Tiny": "short", "Swallow": "disambiguation", "Round one": "redirect loop",
    "Round two": "redirect loop", "Self": "redirect loop", "Leads nowhere": "broken redirect",
}  # fmt: skip
"""Pages of namespace 0 that give no document, and why."""


def pages(known: list[Truth]) -> Iterator[dict[str, Any]]:
    """The whole wiki, in the order in which it is written."""
    yield from _templates()
    for truth in known:
        if truth.title in ("Hunter 2", "Town 2"):
            yield {"title": truth.title, "text": "An older revision that nobody should get."}
        yield {"title": truth.title, "text": truth.text}
    yield from _others()


def _templates() -> Iterator[dict[str, Any]]:
    bodies = {
        "Infobox hunter": INFOBOX, "Infobox place": PLACE, "Navbox": NAVBOX, "Quote": QUOTE, "Stub": STUB,
        "Count": COUNT,
    }  # fmt: skip
    for name, text in bodies.items():
        yield {"title": f"Template:{name}", "text": text}


def _others() -> Iterator[dict[str, Any]]:
    redirects = {
        "White Wolf": "Hunter 1", "The chain goes on": "White Wolf", "The chain begins": "The chain goes on",
        "First of the hunters": "Hunter 1#Other skills", "Round one": "Round two", "Round two": "Round one",
        "Self": "Self", "Leads nowhere": "Nobody at all",
    }  # fmt: skip
    for title, target in redirects.items():
        yield {"title": title, "text": f"#REDIRECT [[{target}]]"}
    yield {"title": "Empty", "text": ""}
    yield {"title": "Tiny", "text": "Too short."}
    yield {
        "title": "Swallow",
        "text": "Swallow may be a bird or a drink, and both are well known. [[Category:Disambiguations]]",
    }
    yield {"title": "Deleted", "text": "This page is deleted again and must not be found anywhere."}
    yield {"title": "Deleted", "delete": True}
    yield {"title": "Talk:Hunter 1", "text": "Somebody discusses the page at some length, which is no article."}
    yield {"title": "User:Somebody", "text": "A user's own page, which is long enough but is no article."}
    yield {
        "title": "Help:Guide",
        "text": "A guide to the wiki, which is in another namespace and is long enough to be kept.",
    }
    # The categories hold one another: a loop.
    yield {"title": "Category:People", "text": "People. [[Category:Hunters]]"}
    yield {"title": "Category:Hunters", "text": "Hunters. [[Category:People]]"}
    for parity in (0, 1):
        yield {"title": f"Category:Hunters of {parity}", "text": "Some. [[Category:Hunters]]"}
