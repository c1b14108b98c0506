"""A config.json as it is asked: what was asked for, and what was not as it must be."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from cirilla_cli.errors import Where

T = TypeVar("T")

_MOST, _MOST_LAYERS = 2**31 - 1, 10_000
"""Counts beyond these are mistakes that would otherwise show as exhausted memory."""
_LEAST_NUMBER, _MOST_NUMBER = 1e-30, 1e30


class Keys:
    """The keys of one config.json.

    A value that will not do is noted in `wrong` and replaced by a harmless one, so that one reading finds all faults.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, inside: str = "") -> None:
        """The object in the file, what a family means by leaving a key out, and what is put before a key's name."""
        self.values, self.defaults, self._inside = values, defaults or {}, inside
        self.asked: set[str] = set()
        self.wrong: list[Where] = []
        self.foreign: set[str] = set()
        """Keys whose values are sound, but mean a model that is none of ours."""

    def below(self, name: str, values: Mapping[str, Any]) -> "Keys":
        """The keys of an object under ``name``; what is wrong there is noted here."""
        inner = Keys(values, inside=f"{self._inside}{name}.")
        inner.wrong, inner.foreign = self.wrong, self.foreign
        return inner

    def get(self, *names: str) -> Any:
        """The value under the first of several spellings that is there, else the default; null is a value."""
        self.asked.update(names)
        for name in names:
            if name in self.values:
                return self.values[name]
        return self.defaults.get(names[0])

    def count(
        self, *names: str, optional: bool = False, zero: bool = False, most: int = _MOST, by: Sequence[str] = ()
    ) -> int:
        """A whole number of at least one; 0 where null is allowed and found, or 0 itself is allowed.

        Args:
            by: keys that ``most`` follows from, the nearest first.
        """
        value = self.get(*names)
        if value is None and optional:
            return 0
        if isinstance(value, int) and not isinstance(value, bool) and (0 if zero else 1) <= value <= most:
            return value
        if isinstance(value, int) and value > most:
            self.refuse(names[0], value, f"at most {most}" + (f", as `{by[0]}` says" if by else ""), *by)
        else:
            self.refuse(names[0], value, _WHOLE[zero])
        return 1

    def layers(self, name: str) -> int:
        """The number of layers."""
        return self.count(name, most=_MOST_LAYERS)

    def number(self, name: str, otherwise: float | None = None, *, least: float = _LEAST_NUMBER) -> float:
        """A positive number, ``least`` or more; ``otherwise``, if there is such, where it is absent or null."""
        value = self.get(name)
        if value is None and otherwise is not None:
            return otherwise
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST_NUMBER:
            return float(value)
        self.refuse(name, value, "a positive number" if least == _LEAST_NUMBER else f"a number, {least:g} or more")
        return 1.0

    def flag(self, name: str) -> bool:
        """True or false; null is false."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            self.refuse(name, value, "true or false")
        return bool(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object; an empty one where it is absent or null."""
        value = self.get(name)
        if not isinstance(value, Mapping | None):
            self.refuse(name, value, "an object")
        return value if isinstance(value, Mapping) else {}

    def choice(self, name: str, meanings: Mapping[str, T], otherwise: T) -> T:
        """What a word means."""
        value = self.get(name)
        if isinstance(value, str) and value in meanings:
            return meanings[value]
        self.lack(name, value, f"one of {', '.join(meanings)}")
        return otherwise

    def words(self, *names: str, layers: str, among: Collection[str]) -> list[str] | None:
        """A list of words, one for each of as many layers as stand under ``layers``; None where it is null or wrong."""
        value, length = self.get(*names), self.layers(layers)
        if value is None:
            return None
        listed = isinstance(value, list) and len(value) == length and all(isinstance(word, str) for word in value)
        if listed and set(value) <= set(among):
            return list(value)
        expected = f"a list, for each of {length} layers {' or '.join(among)}"
        if listed:
            self.lack(names[0], value, expected)
        else:
            self.refuse(names[0], value, expected, layers)
        return None

    def only(self, name: str, good: tuple[Any, ...], expected: str) -> None:
        """Note a key whose value is not one of ``good``; to be absent is."""
        if name in self.values and self.get(name) not in good:
            self.lack(name, self.values[name], expected)
        self.asked.add(name)

    def lack(self, name: str, value: Any, expected: str) -> None:
        """Note a value of which nothing of ours is the meaning."""
        self.foreign.add(f"{self._inside}{name}")
        self.refuse(name, value, expected)

    def refuse(self, name: str, value: Any, expected: str, *beside: str) -> None:
        """Note a value that will not do, once; ``beside`` are keys by which it is judged, if they are sound."""
        named, known = f"{self._inside}{name}", {where.key for where in self.wrong}
        if not known & {named, *(f"{self._inside}{other}" for other in beside)}:
            self.wrong.append(Where(key=named, value=value, expected=expected))


_WHOLE = {False: "a positive whole number", True: "a whole number, 0 or more"}
"""What a count must be, by whether it may be 0."""
