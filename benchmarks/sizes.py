"""Source lines of each area against its budget: `python -m benchmarks.sizes`. Exit 1 where a budget is broken."""

import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ROW = re.compile(r"^\| `([\w` ,.]+)` \| ([\d,]+) \|", re.MULTILINE)


def lines_of(path: Path) -> int:
    """Lines that hold code or docstrings: neither blank nor comment alone."""
    source = path.read_text(encoding="utf-8")
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#")
    }
    return sum(bool(line.strip()) and number not in comments for number, line in enumerate(source.splitlines(), 1))


def budgets() -> list[tuple[list[str], int]]:
    """Areas and their budgets, from the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return [(re.findall(r"[\w.]+", names), int(limit.replace(",", ""))) for names, limit in _ROW.findall(text)]


def main() -> int:
    """Print the table; 1 where an area is over its budget."""
    over, named = 0, set()
    for areas, limit in budgets():
        files = [f for area in areas for f in _files(area)]
        named.update(areas)
        count = sum(map(lines_of, files))
        over += count > limit
        print(f"{' + '.join(areas):<28} {count:>6,} of {limit:>6,}{'  OVER' if count > limit else ''}")
    return 1 if over else 0


def _files(area: str) -> list[Path]:
    package = ROOT / "cirilla_cli"
    if area == "rest":
        return sorted(package.glob("*.py"))
    return sorted((package / area).rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main())
