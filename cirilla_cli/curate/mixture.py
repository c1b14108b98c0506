"""How many rows of each source are taken, and in what order: weights in, a deterministic plan out.

Shape suffixes: R rows.
"""

import hashlib
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.curate.config import MixtureConfig
from cirilla_cli.errors import CirillaError, Where

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Plan:
    """Row numbers in the order they are written, and how often each source's rows are taken on average."""

    rows: NDArray[np.int64]
    times: NDArray[np.int64]
    """How often each row is written."""
    epochs: dict[str, float]


class Mixer:
    """Remembers of each training row its source, its size and a hash of its id: 18 bytes a row."""

    def __init__(self, config: MixtureConfig, weights: dict[str, float], seed: int) -> None:
        self.config, self.weights, self.seed = config, weights, seed
        self._names = list(weights)
        self._sources, self._sizes, self._keys = array("H"), array("Q"), array("Q")

    def add(self, source: str, row_id: str, characters: int) -> None:
        """Count one row, in the order in which rows are numbered."""
        parts = f"{self.seed}\0{source}\0{row_id}".encode("utf-8", "surrogatepass")
        self._sources.append(self._names.index(source))
        self._sizes.append(characters if self.config.unit == "characters" else 1)
        self._keys.append(int.from_bytes(hashlib.blake2b(parts, digest_size=8).digest(), "big"))

    def plan(self) -> Plan:
        """Which rows are written how often, in what order.

        Raises:
            CirillaError: a source has nothing left, or would be read more often than `max_epochs`.
        """
        sources_R = np.frombuffer(self._sources, dtype=np.uint16)
        sizes_R = np.frombuffer(self._sizes, dtype=np.uint64).astype(np.int64)
        keys_R = np.frombuffer(self._keys, dtype=np.uint64)
        numbers = {name: np.flatnonzero(sources_R == i) for i, name in enumerate(self._names)}
        wanted = self._wanted({name: int(sizes_R[rows].sum()) for name, rows in numbers.items()})
        taken: list[NDArray[np.int64]] = []
        order: list[NDArray[np.uint64]] = []
        epochs: dict[str, float] = {}
        for name, rows in numbers.items():
            own = rows[np.argsort(keys_R[rows], kind="stable")]
            copies = _copies(own, sizes_R[own], wanted[name])
            epochs[name] = round(sum(int(sizes_R[copy].sum()) for copy in copies) / int(sizes_R[own].sum()), 4)
            for copy, part in enumerate(copies):
                taken.append(part)
                order.append(_scrambled(keys_R[part] + np.uint64(copy * _GOLDEN % 2**64)))
        first = np.argsort(np.concatenate(order), kind="stable")
        rows_R = np.concatenate(taken)[first]
        return Plan(rows_R, np.bincount(rows_R, minlength=len(self._sizes)), epochs)

    def source(self, number: int) -> str:
        """The source of a row."""
        return self._names[self._sources[number]]

    def _wanted(self, have: dict[str, int]) -> dict[str, int]:
        """Units of each source."""
        total = sum(self.weights.values())
        empty = [name for name, size in have.items() if size == 0]
        if empty:
            raise _wrong(
                {name: (self.weights[name], "no row of it is left") for name in empty},
                "take the source out, or look at rejected.jsonl of a run without weights",
            )
        most = {name: self.config.max_epochs * size * total / self.weights[name] for name, size in have.items()}
        size = self.config.size if self.config.size is not None else min(most.values())
        beyond = {name: limit for name, limit in most.items() if size > limit * (1 + 1e-9)}
        if beyond:
            said = f"a mixture of {size:,.0f} {self.config.unit} takes it {{:.3g}} times, and max_epochs is "
            said += f"{self.config.max_epochs:g}"
            raise _wrong(
                {
                    name: (self.weights[name], said.format(size / limit * self.config.max_epochs))
                    for name, limit in beyond.items()
                },
                f"curate.mixture.max_epochs=4, or curate.mixture.size={int(min(most.values()))}, or a smaller weight",
            )
        return {name: round(weight / total * size) for name, weight in self.weights.items()}


def _wrong(found: dict[str, tuple[float, str]], hint: str) -> CirillaError:
    keys = {name: f"curate.sources.{name}.weight" for name in found}
    lines = [f"`{keys[name]}` is {weight:g}: {said}" for name, (weight, said) in found.items()]
    where = [Where(key=keys[name], value=weight, expected=said) for name, (weight, said) in found.items()]
    return CirillaError("\n".join(lines), hint=hint, where=where)


def _copies(rows: NDArray[np.int64], sizes_R: NDArray[np.int64], wanted: int) -> list[NDArray[np.int64]]:
    """Whole copies of ``rows`` as far as ``wanted`` units go, then the first rows that fit into what is left."""
    whole, rest = divmod(wanted, int(sizes_R.sum()))
    part = rows[: int(np.searchsorted(np.cumsum(sizes_R), rest, side="right"))]
    return [*([rows] * whole), part]


def _scrambled(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that spreads neighbouring numbers: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    mixed = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def reorder(path: Path, rows: NDArray[np.int64]) -> None:
    """Write the lines of a file anew: line ``rows[0]``, then ``rows[1]``, and so on; lines may repeat."""
    starts = array("Q", [0])
    mixed = path.with_name(f"{path.name}.mixed")
    with path.open("rb") as file, mixed.open("wb") as out:
        for line in file:
            starts.append(starts[-1] + len(line))
        for row in rows.tolist():
            file.seek(starts[row])
            out.write(file.read(starts[row + 1] - starts[row]))
        out.flush()
        os.fsync(out.fileno())
    os.replace(mixed, path)
