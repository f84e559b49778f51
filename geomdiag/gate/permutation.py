"""How often a run without a change fails: the same runs split in every other way.

Runs that differ in their seed only are exchangeable: which of them came as the baseline and which
as the new ones is one of all splits, each as likely as any other. So the share of splits in which
some metric looks at least as bad is an exact p-value, however the metrics are distributed and
however they depend on each other (Westfall & Young 1993, ISBN 0-471-55761-7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["alone", "fewest_new_runs", "number_of_splits", "reaches", "splits", "together"]

#: Splits that are looked at where there are more: a p-value of 0.05 then has an error of 0.002.
MOST = 15_000
#: Numbers in an array of splits, which keeps that of large sets of runs small.
_SIZE = 4_000_000
#: What counts as equal: sums in another order differ by rounding.
_ROUNDING = 1e-9

Floats = NDArray[np.float64]


def number_of_splits(old: int, new: int) -> int:
    """Return in how many ways runs can be split; 1 over it is the least p-value there is."""
    return math.comb(old + new, new)


def fewest_new_runs(old: int, level: float) -> int:
    """Return the least number of new runs whose p-value can reach a level.

    Parameters
    ----------
    old : int
        Runs of the baseline, one or more.
    level : float
        Between 0 and 1.

    Returns
    -------
    int
    """
    enough = 1
    while not reaches(old, enough, level):
        enough *= 2
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if reaches(old, middle, level) else (middle, enough)
    return enough


def reaches(old: int, new: int, level: float) -> bool:
    """Return whether the p-value of so many runs can be as small as a level."""
    # compared, not divided: of some hundred runs there are more splits than a float can hold
    return number_of_splits(old, new) >= (1 - _ROUNDING) / level


@lru_cache(maxsize=16)
def splits(old: int, new: int) -> NDArray[np.bool_]:
    """Return the ways of splitting runs, which of them are new.

    Parameters
    ----------
    old, new : int
        How many runs came as the baseline, and after them as the new ones.

    Returns
    -------
    (split, run) bool array
        The way they came is the first. All, or `MOST` drawn at random (the same in every call)
        where there are more; with the first among them p-values remain exact.
    """
    runs = old + new
    most = max(2000, min(MOST, _SIZE // runs))
    first = np.arange(runs) >= old
    if number_of_splits(old, new) <= most:
        rows = [np.isin(np.arange(runs), some) for some in combinations(range(runs), new)]
        found = np.array(rows[::-1])  # the last combination is the way they came
    else:
        places = np.random.default_rng(0).permuted(np.tile(np.arange(runs), (most, 1)), axis=1)
        found = places >= old
        found[0] = first
    found.flags.writeable = False
    return found


def alone(rarity: Floats) -> Floats:
    """Return the p-value of each metric by itself.

    Parameters
    ----------
    rarity : (split, metric) float array
        How rare a metric's change is in each split, smaller being rarer; the first split is the
        one that came.

    Returns
    -------
    (metric,) float array
    """
    return np.asarray((rarity <= rarity[0] * (1 + _ROUNDING)).mean(axis=0))


def together(strata: Sequence[Floats]) -> list[Floats]:
    """Return p-values for which the chance of any false alarm is at most the level.

    A metric's is the share of splits in which any metric is as rare; those that are rarer than it
    are left out of it (step-down min-P).

    Parameters
    ----------
    strata : sequence of (split, metric) float array
        As of `alone`; runs of different strata, such as different settings, are split apart from
        each other, and their shares added.

    Returns
    -------
    list of (metric,) float array
        One a stratum.
    """
    observed = [rarity[0] * (1 + _ROUNDING) for rarity in strata]
    order = sorted(
        (
            (value, stratum, metric)
            for stratum, one in enumerate(observed)
            for metric, value in enumerate(one)
        ),
    )
    adjusted = [np.ones(rarity.shape[1]) for rarity in strata]
    # from the least rare on, each split's rarest among the metrics so far
    rarest = [np.full(len(rarity), math.inf) for rarity in strata]
    shares: list[float] = []
    for value, stratum, metric in reversed(order):
        rarest[stratum] = np.minimum(rarest[stratum], strata[stratum][:, metric])
        shares.append(min(1.0, sum(float((one <= value).mean()) for one in rarest)))
    least = 0.0
    for (_, stratum, metric), share in zip(order, reversed(shares), strict=True):
        least = max(least, share)
        adjusted[stratum][metric] = least
    return adjusted
