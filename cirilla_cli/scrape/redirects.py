"""Titles that lead to other titles, over any number of steps."""


class Redirects:
    """Which title leads to which; ends, loops and aliases follow from that."""

    def __init__(self) -> None:
        self.targets: dict[str, str] = {}

    def end(self, title: str) -> str | None:
        """Where ``title`` ends (itself, where it leads nowhere else); None in a loop."""
        seen: set[str] = set()
        while title in self.targets:
            if title in seen:
                return None
            seen.add(title)
            title = self.targets[title]
        return title

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Titles that lead to each end, sorted."""
        found: dict[str, list[str]] = {}
        for title in self.targets:
            end = self.end(title)
            if end is not None:
                found.setdefault(end, []).append(title)
        return {title: tuple(sorted(names)) for title, names in found.items()}
