"""How sure a number is."""

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054
"""97.5th percentile of the normal distribution."""

_RESAMPLES = 1000


def wilson(correct: int, n: int) -> list[float]:
    """95% interval of a share (Wilson, 1927, JASA 22:209-212): sound also near 0 and 1 and for few cases."""
    if n == 0:
        return [0.0, 1.0]
    share, z2 = correct / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives 0 and 1 up to rounding.
    low, high = (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)
    return [round(low, 6), round(high, 6)]


def share(correct: int, n: int) -> dict[str, object]:
    """A share of right answers with its interval; ``accuracy`` is None where nothing was asked."""
    return {
        "n": n,
        "correct": correct,
        "accuracy": round(correct / n, 6) if n else None,
        "interval": wilson(correct, n) if n else None,
    }


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> list[float] | None:
    """95% bootstrap interval of a ratio of sums over cases drawn with replacement; None for fewer than two cases.

    A mean is the ratio with ones below. The draws are always the same, so equal input gives equal output.
    """
    n = len(numerators)
    if n < 2:
        return None
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(0))
    ratios = []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(n, size=n)
        ratios.append(above[drawn].sum() / below[drawn].sum())
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [round(float(low), 6), round(float(high), 6)]
