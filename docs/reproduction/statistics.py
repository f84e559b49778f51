"""Medians of censored times, AUROC and thresholds, each with what is uncertain in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from geomdiag.dynamics import criterion

#: Probability that an interval of a median should at least have, where the runs are enough.
COVERAGE = 0.9


@dataclass(frozen=True)
class Median:
    """A median of values known only to lie between bounds, and an interval for it."""

    at_least: float
    at_most: float
    lower: float
    upper: float
    coverage: float
    n: int


def median_interval(low: ArrayLike, high: ArrayLike | None = None) -> Median:
    """Return the median of censored values with the exact interval of order statistics.

    Parameters
    ----------
    low, high : (n,) array
        Each value lies between; ``high`` of infinity where it is censored. Without `high` the
        values are known.

    Returns
    -------
    Median
        The narrowest interval between the k-th smallest and the k-th largest value that holds the
        median of any continuous distribution with a probability of `COVERAGE`, else the range;
        bounds of the values make it wider, never narrower.
    """
    least = np.sort(np.asarray(low, dtype=np.float64))
    most = least if high is None else np.sort(np.asarray(high, dtype=np.float64))
    n = len(least)
    k, coverage = 1, 1 - 2 * binom.cdf(0, n, 0.5)
    while 2 * (k + 1) <= n + 1 and 1 - 2 * binom.cdf(k, n, 0.5) >= COVERAGE:
        coverage = 1 - 2 * binom.cdf(k, n, 0.5)
        k += 1
    middle = slice((n - 1) // 2, n // 2 + 1)
    return Median(
        float(least[middle].mean()),
        float(most[middle].mean()),
        float(least[k - 1]),
        float(most[n - k]),
        float(coverage),
        n,
    )


def auroc(low: ArrayLike, high: ArrayLike) -> float:
    """Return the probability that a value of the first group is below one of the second.

    Ties count half (Mann-Whitney).
    """
    values = np.concatenate([low, high])
    return criterion.auroc(values, np.arange(len(values)) >= np.size(low))


def auroc_interval(area: float, m: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return a 95 % interval of an AUROC from m and n independent values.

    The areas from which the one found is at most z standard errors away, the error being that of
    Hanley & McNeil (doi:10.1148/radiology.143.1.7063747) with exponential scores: Newcombe's fifth
    method (doi:10.1002/sim.2324). Of an area of 1 it does not say that it is certain.
    """

    def away(theta: float) -> float:
        rest = (m + n) / 2 - 1
        spread = 1 + rest * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return z * math.sqrt(theta * (1 - theta) * spread / (m * n)) - abs(area - theta)

    def edge(outside: float) -> float:
        inside = area
        if away(outside) >= 0:
            return outside
        for _ in range(60):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if away(middle) < 0 else (outside, middle)
        return inside

    return edge(0.0), edge(1.0)


def leave_one_seed_out(
    values: NDArray[np.float64], solved: NDArray[np.bool_], seeds: NDArray[np.int64]
) -> float:
    """Return the share of runs that the threshold of the other seeds' runs tells right.

    NaN where the other seeds have no runs of both kinds.
    """
    wrong, count = criterion.wrong_when_left_out(values, solved, seeds)
    return 1 - wrong / count if count else math.nan
