"""How far one metric of the new runs lies from the baseline's, on its scale and in its tolerances.

Everything is worked out for many ways of splitting the same runs into a baseline and new ones at
once: the way they came is one of them, the others tell what chance does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from geomdiag.gate.policies import Policy

__all__ = ["Changes", "centre", "changes", "scaled"]

#: Share of a value that the digits of a baseline's text leave open.
ROUNDING = 1e-6
#: Share of a value by which values that are equal may differ by rounding.
_EQUAL = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """One metric in every split of its runs.

    Attributes
    ----------
    change, step : (split,) float array
        New centre less the baseline's: units of the metric; on its scale. NaN: one side is empty.
    spread : (split,) float array
        Standard deviation between the baseline's runs, on the scale; NaN below two.
    excess : (split,) float array
        Size of the change over the tolerance; infinite without a tolerance.
    worse, better : (split,) float array
        How rare such a change in that direction is by Student's t for two samples, were seeds
        normal on the scale: smaller is rarer. 1 where the change is tolerated, in the other
        direction, or there are too few runs to say.
    """

    change: Floats
    step: Floats
    spread: Floats
    excess: Floats
    worse: Floats
    better: Floats


def changes(values: Floats, new: NDArray[np.bool_], policy: Policy) -> Changes:
    """Compare the new runs with the others, in every split.

    Parameters
    ----------
    values : (run,) float array
        NaN: a run without a value, left out. All others have a place on the scale.
    new : (split, run) bool array
        Which runs are the new ones; the others are the baseline's.
    policy : Policy

    Returns
    -------
    Changes
    """
    known = np.isfinite(values)
    on_scale = scaled(values[known], policy)
    now = new[:, known]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        old_n, old_mean, old_squares = _moments(on_scale, ~now)
        new_n, new_mean, new_squares = _moments(on_scale, now)
        before = _plain(old_mean, policy)
        change = _plain(new_mean, policy) - before
        slack = ROUNDING * np.abs(before)
        change = np.where(np.abs(change) <= slack, 0.0, change)
        step = np.where(change == 0, 0.0, new_mean - old_mean)
        least = _least_spread(before, policy)
        equal = _EQUAL * float(np.abs(on_scale).max(initial=0.0 if policy.scale == "linear" else 1))
        spread = _floored(np.sqrt(old_squares / (old_n - 1)), equal, least)
        tolerance = np.maximum(policy.absolute, policy.relative * np.abs(before))
        excess = np.where(tolerance > 0, np.abs(change) / (tolerance + slack), math.inf)
        if policy.spread:
            allowed = policy.spread * spread * (1 + ROUNDING)
            excess = np.where(spread > 0, np.fmin(excess, np.abs(step) / allowed), excess)
        excess = np.where(change == 0, 0.0, excess)
        freedom = old_n + new_n - 2
        pooled = _floored(np.sqrt((old_squares + new_squares) / freedom), equal, least)
        t = np.abs(step) / (pooled * np.sqrt(1 / old_n + 1 / new_n))
        rare = stdtr(freedom, -np.where(pooled > 0, t, math.inf))
    beyond = (excess > 1) & (freedom > 0) & np.isfinite(step)
    if policy.worse == "either":
        worse, better = np.where(beyond, 2 * rare, 1.0), np.ones(len(new))
    else:
        sign = 1 if policy.worse == "higher" else -1
        worse = np.where(beyond & (sign * change > 0), rare, 1.0)
        better = np.where(beyond & (sign * change < 0), rare, 1.0)
    return Changes(change, step, spread, excess, worse, better)


def _moments(values: Floats, members: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return size, mean and sum of squared deviations of each row's members."""
    number = members.sum(axis=1).astype(np.float64)
    mean = members @ values / number
    deviations = np.where(members, values - mean[:, None], 0.0)
    return number, mean, np.einsum("ij,ij->i", deviations, deviations)


def _floored(spread: Floats, equal: float, least: Floats) -> Floats:
    """Return spreads without rounding, and no smaller than the metric's resolution allows."""
    return np.asarray(np.fmax(np.where(spread <= equal, 0.0, spread), least))


def _least_spread(before: Floats, policy: Policy) -> Floats:
    """Return the spread on the scale that rounding to the metric's resolution gives."""
    if not policy.resolution:
        return np.zeros_like(before)
    ends = (before - policy.resolution / 2, before + policy.resolution / 2)
    width = scaled(ends[1], policy) - scaled(ends[0], policy)
    return np.where(np.isfinite(width), width / math.sqrt(12), 0.0)


def scaled(values: Floats, policy: Policy) -> Floats:
    """Return values on the metric's scale; not finite where they have no place on it."""
    if policy.scale == "linear":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.log(values + policy.absolute)
        if policy.scale == "log":
            return np.asarray(low)
        return np.asarray(low - np.log(1 - values + policy.absolute))


def _plain(values: Floats, policy: Policy) -> Floats:
    """Return values on the scale in units of the metric."""
    if policy.scale == "linear":
        return values
    if policy.scale == "log":
        return np.asarray(np.exp(values) - policy.absolute)
    share = 1 / (1 + np.exp(-values))
    return np.asarray(share * (1 + 2 * policy.absolute) - policy.absolute)


def centre(values: Floats, policy: Policy) -> float:
    """Return the mean on the scale, in units of the metric; exact where all values are one."""
    if not len(values):
        return math.nan
    if np.ptp(values) == 0:
        return float(values[0])
    return float(_plain(scaled(values, policy).mean(), policy))
