"""TeX of formulas in one spelling: what an author wrote, and what MediaWiki makes of it when it shows it."""

import re

_STYLE = re.compile(r"\\(?:displaystyle|textstyle)(?![A-Za-z])\s*")
_BRACED = re.compile(r"([\^_])\s*\{\s*(?:(\\[A-Za-z]+)|([^\s{}\\]))\s*\}")
# Words in a text keep their spaces, a command is parted from a letter behind it, and no other space shows.
_SPACES = re.compile(r"(\\(?:text|mbox|operatorname)[a-z]*\s*\{[^{}]*\}|\\[^A-Za-z])|(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")


def shown_tex(tex: str) -> str:
    """A formula between dollar signs, without outer braces, styles, and the spaces and braces that change nothing."""
    tex = _unwrapped(_BRACED.sub(lambda m: f"{m[1]}{m[2]} " if m[2] else f"{m[1]}{m[3]}", _unwrapped(tex)))
    return f"${_SPACES.sub(lambda m: m[1] or (f'{m[2]} ' if m[2] else ''), tex)}$"


def _unwrapped(tex: str) -> str:
    """Without braces around the whole and a style at its start."""
    before = None
    while tex != before:
        before, tex = tex, _STYLE.sub("", tex.strip(), count=1) if _STYLE.match(tex.strip()) else tex.strip()
        if _encloses(tex):
            tex = tex[1:-1]
    return tex


def _encloses(tex: str) -> bool:
    """Whether the first character is a brace and the last one closes it."""
    depth = 0
    for mark in re.finditer(r"\\.|[{}]", tex, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            return tex.startswith("{") and mark.end() == len(tex)
    return False
