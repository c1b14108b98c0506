"""A config.json as it is asked: what was asked for, and what was not as it must be."""

from collections.abc import Mapping
from typing import Any

from cirilla_cli.errors import Where


class Keys:
    """The keys of one config.json.

    A value that will not do is noted in `wrong` and replaced by a harmless one, so that one reading finds all faults.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """The object in the file, and what a family means by leaving a key out."""
        self.values, self.defaults = values, defaults or {}
        self.asked: set[str] = set()
        self.wrong: list[Where] = []

    def get(self, *names: str) -> Any:
        """The value under the first of several spellings that is there, else the default; null is a value."""
        self.asked.update(names)
        for name in names:
            if name in self.values:
                return self.values[name]
        return self.defaults.get(names[0])

    def count(self, *names: str, optional: bool = False, zero: bool = False) -> int:
        """A whole number of at least one; 0 where null is allowed and found, or 0 itself is allowed."""
        value = self.get(*names)
        if (value is None and optional) or (value == 0 and zero):
            return 0
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        self.refuse(names[0], value, "a whole number")
        return 1

    def number(self, name: str, otherwise: float | None = None) -> float:
        """A positive number; ``otherwise``, if there is such, where it is absent or null."""
        value = self.get(name)
        if value is None and otherwise is not None:
            return otherwise
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
        self.refuse(name, value, "a positive number")
        return 1.0

    def flag(self, name: str) -> bool:
        """True or false; null is false."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            self.refuse(name, value, "true or false")
        return bool(value)

    def only(self, name: str, good: tuple[Any, ...], expected: str) -> None:
        """Note a key whose value is not one of ``good``; to be absent is."""
        if name in self.values and self.get(name) not in good:
            self.refuse(name, self.values[name], expected)
        self.asked.add(name)

    def refuse(self, name: str, value: Any, expected: str) -> None:
        """Note a value that will not do."""
        self.wrong.append(Where(key=name, value=value, expected=expected))
