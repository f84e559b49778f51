"""Exact quantiles of many non-negative values that stand for several instances each."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weighted", "weighted_quantiles"]

_SHIFT = 18  # keeps the exponent and five bits of the mantissa: bins 3 % wide
_BINS = 1 << (31 - _SHIFT)
_AT_ONCE = 65_536  # values counted at once
_UPPER_HALF = int(sys.byteorder == "little")  # of the two 16-bit halves of a float32


class Weighted:
    """Non-negative values, each of which stands for `weight` instances.

    The bit patterns of non-negative floats sort as the floats do, so the upper bits of their
    rounding to single precision bin the values; they are taken once, however many
    collections the values belong to.

    Parameters
    ----------
    values : (n,) float32 or float64 array
        Non-negative.
    weight : float or (n,) float array
        One for all, or one each.
    """

    def __init__(self, values: NDArray[Any], weight: float | NDArray[np.float64]) -> None:
        self.values = values
        self.weight = weight

    def split(self, places: NDArray[np.int64]) -> list[Weighted]:
        """Return the values between consecutive places, sharing memory and bins."""
        bins = self.bins
        result = []
        for begin, end in itertools.pairwise(places.tolist()):
            part = Weighted(self.values[begin:end], self.weight)
            part.bins = bins[begin:end]
            result.append(part)
        return result

    @cached_property
    def largest(self) -> float:
        """Largest value; NaN if any is."""
        return float(self.values.max())

    @cached_property
    def bins(self) -> NDArray[np.int16]:
        """Bin of each value."""
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(self.values, dtype=np.float32)
        upper = single.view(np.int16)[_UPPER_HALF::2]
        codes: NDArray[np.int16] = np.bitwise_and(upper, 0x7FFF)  # without the sign of -0.0
        codes >>= _SHIFT - 16
        return codes

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """Instances in each bin."""
        if isinstance(self.weight, np.ndarray):
            counts: NDArray[Any] = np.bincount(self.bins, weights=self.weight, minlength=_BINS)
        else:
            # some at a time: `bincount` widens its argument, and that should stay in the cache
            starts = range(0, len(self.bins), _AT_ONCE)
            counts = np.zeros(_BINS)
            for start in starts:
                counts += np.bincount(self.bins[start : start + _AT_ONCE], minlength=_BINS)
            counts *= self.weight
        return counts

    def inside(self, place: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the values in a bin and their weights."""
        index = np.flatnonzero(self.bins == place)
        weight = self.weight
        return self.values[index], (
            weight[index] if isinstance(weight, np.ndarray) else np.full(len(index), weight)
        )


def weighted_quantiles(
    groups: Sequence[Weighted], probabilities: Sequence[float], *, zeros: float = 0.0
) -> list[float]:
    """Return quantiles of all values, each repeated by its weight, without repeating them.

    Equal to ``np.quantile(np.repeat(values, weights), probabilities)`` (linear
    interpolation between neighbours) for whole weights. Only the bins that the quantiles
    lie in are sorted.

    Parameters
    ----------
    groups : sequence of Weighted
        Values.
    probabilities : sequence of float
        Between 0 and 1.
    zeros : float
        Instances of the value 0 beside the groups.

    Returns
    -------
    list of float
        NaN where there is no value, or where a value is NaN.
    """
    groups = [group for group in groups if len(group.values)]
    if any(np.isnan(group.largest) for group in groups) or not (groups or zeros):
        return [float("nan")] * len(probabilities)
    counts = np.sum([group.counts for group in groups], axis=0) if groups else np.zeros(_BINS)
    cumulative = zeros + np.cumsum(counts)
    total = float(cumulative[-1])
    sorted_bins: dict[int, tuple[NDArray[Any], NDArray[np.float64]]] = {}

    def at(rank: float) -> float:
        if rank < zeros:
            return 0.0
        if rank >= total - 1.0:
            return max(group.largest for group in groups)
        place = int(np.searchsorted(cumulative, rank, side="right"))
        if place not in sorted_bins:
            parts = [group.inside(place) for group in groups]
            values = np.concatenate([part[0] for part in parts])
            order = np.argsort(values)
            weights = np.concatenate([part[1] for part in parts])
            sorted_bins[place] = values[order], np.cumsum(weights[order])
        values, upto = sorted_bins[place]
        rank -= float(cumulative[place - 1]) if place else zeros
        return float(values[min(int(np.searchsorted(upto, rank, side="right")), len(values) - 1)])

    result = []
    for probability in probabilities:
        position = probability * (total - 1.0)
        low = float(np.floor(position))
        start = at(low)
        result.append(
            start + (position - low) * (at(low + 1.0) - start) if position > low else start
        )
    return result
