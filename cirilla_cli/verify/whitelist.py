"""Which answers may reach the reasoning-gym scorers that evaluate text as code."""

import re
from collections.abc import Mapping
from typing import Any

_MOST_CHARS = 2000
_NUMBERS = re.compile(r"[\d\s+\-*/().]*")
_ROWS = re.compile(r"[\d\s,\[\]\-]*")
_BOARD = re.compile(r"[Q_\s,\[\]'\"]*")
_LETTERS = re.compile(r"[A-Za-z\s,\[\]'\"]*")
_FORMULA = re.compile(
    r"(?:\d+(?:\.\d+)?|(?:sin|cos|tan|sec|csc|cot|exp|log|ln|sqrt|asin|acos|atan|sinh|cosh|tanh|pi|erf)\b|"
    r"[A-Za-z](?![A-Za-z_])|[\s+\-*/^()])*"
)
_EVALUATING = {
    "binary_matrix": _ROWS,
    "spiral_matrix": _ROWS,
    "n_queens": _BOARD,
    "string_insertion": _LETTERS,
    "countdown": _NUMBERS,
    "puzzle24": _NUMBERS,
    "polynomial_multiplication": _FORMULA,
    "simple_integration": _FORMULA,
    "intermediate_integration": _FORMULA,
}
_TOWER = re.compile(
    r"\*\*[\s(+\-]*\d{3,}|\d\s*\)*\*\*\s*\(*\s*\d+\s*\)*\s*\*\*|\*\*\s*\w+\s*\*\*|"
    r"\d\s*\)*\s*\*\*\s*\([^()]*\d\s*\*|\d\s*[eE]\s*[+\-]?\s*\d{3,}|\d{60,}"
)
"""Numbers too large to write out; the time limit catches what this lets through."""

EVALUATING = frozenset(_EVALUATING)
"""Tasks whose scorers call `eval` or `sympy.parse_expr` on the answer (reasoning-gym 0.1.25)."""


def allowed(name: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether the scorer of ``name`` may see ``answer`` and this ``entry``, whose fields some scorers parse too."""
    pattern = _EVALUATING.get(name)
    if pattern is None:
        return True
    if name in ("polynomial_multiplication", "simple_integration", "intermediate_integration"):
        return all(_harmless(text, pattern) for text in (answer, *_parsed(name, entry)))
    return _harmless(answer, pattern)


def _parsed(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What the scorer parses besides the answer."""
    if name == "polynomial_multiplication":
        return [str(entry.get("answer"))]
    metadata = entry.get("metadata")
    return [str(metadata.get(key)) for key in ("integrand", "variable")] if isinstance(metadata, Mapping) else ["_"]


def _harmless(text: str, pattern: re.Pattern[str]) -> bool:
    return len(text) <= _MOST_CHARS and pattern.fullmatch(text) is not None and _TOWER.search(text) is None
