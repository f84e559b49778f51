"""Which changes chance explains: p-values of every metric, corrected for their number.

The test compares the runs with themselves split in every other way (`permutation`), which promises
the level however seeds scatter. Where there are too few runs for that, the change must be the worst
of all splits and Student's t must find it far rarer than the level asks, corrected after Holm 1979
(JSTOR 4615733) or Benjamini & Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x): with one new
run that is the baseline's prediction interval (Hahn & Meeker 1991) with a margin, since real seeds
are not normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.errors import BaselineError
from geomdiag.gate.baseline import CORRECTIONS
from geomdiag.gate.changes import changes
from geomdiag.gate.permutation import alone, number_of_splits, reaches, splits, together
from geomdiag.gate.policies import Policy

__all__ = ["MARGIN", "SEEDS", "Basis", "Chance", "Runs", "adjust", "basis_of", "least_p", "weigh"]

#: What the level rests on: nothing but seeds being alike; that they are no further from normal than
#: recorded ones; there is no test.
Basis = Literal["exact", "approximate", "tolerances"]
#: Fewer seeds than this in the baseline give no spread to compare one new run with.
SEEDS = 3
#: How much rarer Student's t must find a change than the level asks where it decides: then 5 % are
#: about 5 % of recorded runs, of which 7 to 9 % would fail without it (benchmarks/gate.py).
MARGIN = 10.0
_ROUNDING = 1e-9
_HIGHER = Policy("higher")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """The values of one metric.

    Attributes
    ----------
    setting : str
    values : (run,) float array
        The baseline's, and after them the new ones. NaN: a run that lacks it.
    old, new : int
        How many there are.
    policy : Policy
    """

    setting: str
    values: Floats
    old: int
    new: int
    policy: Policy

    @property
    def stratum(self) -> tuple[str, int, int]:
        """Metrics of one stratum are split together."""
        return self.setting, self.old, self.new


@dataclass(frozen=True)
class Chance:
    """One metric, the way its runs came.

    Attributes
    ----------
    change, step, spread, excess : float
        As in `Changes`.
    p_value, adjusted, better : float
        Of a change as bad, by itself and corrected for the number of metrics, and of one as good,
        corrected; NaN: not tested.
    lacking : bool
        Whether what is unlikely about it is that more of the new runs lack it.
    """

    change: float
    step: float
    spread: float
    excess: float
    p_value: float = math.nan
    adjusted: float = math.nan
    better: float = math.nan
    lacking: bool = False


def least_p(runs: Runs) -> float:
    """Return the least p-value that the exact test of a metric can have."""
    # where both directions count, as many new runs as old ones look the same the other way round
    ways = 2 if runs.policy.worse == "either" and runs.old == runs.new else 1
    return ways / number_of_splits(runs.old, runs.new)


def basis_of(runs: Runs, level: float) -> Basis:
    """Return on what the level of a metric's test would rest.

    Parameters
    ----------
    runs : Runs
    level : float

    Returns
    -------
    {"exact", "approximate", "tolerances"}
    """
    if not runs.policy.test:
        return "tolerances"
    if reaches(runs.old, runs.new, level):
        return "exact"
    return "approximate" if runs.old >= SEEDS else "tolerances"


def weigh(metrics: Sequence[Runs], *, level: float, correction: str) -> tuple[Basis, list[Chance]]:
    """Say how likely chance makes every metric's change.

    Parameters
    ----------
    metrics : sequence of Runs
    level : float
    correction : {"family-wise", "benjamini-hochberg", "none"}

    Returns
    -------
    Basis, list of Chance
        What the level rests on for all metrics that are tested, and one a metric.

    Raises
    ------
    BaselineError
        If the correction is unknown.
    """
    bases = [basis_of(runs, level) for runs in metrics]
    found = [
        _rarities(runs, tested=basis != "tolerances")
        for runs, basis in zip(metrics, bases, strict=True)
    ]
    places = [place for place, basis in enumerate(bases) if basis != "tolerances"]
    tested = [metrics[place] for place in places]
    basis: Basis = "approximate" if "approximate" in bases else "exact" if places else "tolerances"
    told = [Chance(*one.first, lacking=one.lacking) for one in found]
    if places:
        p_values = partial(
            _p_values,
            tested,
            level=level,
            correction=correction,
            approximate=basis == "approximate",
        )
        own, worse = p_values([found[place].worse for place in places])
        _, better = p_values([found[place].better for place in places])
        for place, p, p_worse, p_better in zip(places, own, worse, better, strict=True):
            told[place] = replace(
                told[place], p_value=float(p), adjusted=float(p_worse), better=float(p_better)
            )
    return basis, told


@dataclass(frozen=True)
class _Rarities:
    """What of a metric's changes is kept: the first split's, and how rare all are."""

    first: tuple[float, float, float, float]
    worse: Floats
    better: Floats
    lacking: bool


def _rarities(runs: Runs, *, tested: bool) -> _Rarities:
    if tested:
        new = splits(runs.old, runs.new)
    else:
        new = (np.arange(runs.old + runs.new) >= runs.old)[None]
    one = changes(runs.values, new, runs.policy)
    first = (
        float(one.change[0]),
        float(one.step[0]),
        float(one.spread[0]),
        float(one.excess[0]),
    )
    lacks = ~np.isfinite(runs.values)
    if not lacks.any():
        return _Rarities(first, one.worse, one.better, lacking=False)
    other = changes(lacks.astype(np.float64), new, _HIGHER)
    more = bool(other.change[0] > 0 and other.worse[0] <= one.worse[0])
    return _Rarities(first, np.minimum(one.worse, other.worse), one.better, lacking=more)


def _p_values(
    metrics: Sequence[Runs],
    rarities: Sequence[Floats],
    *,
    level: float,
    correction: str,
    approximate: bool,
) -> tuple[Floats, Floats]:
    """Return p-values of single metrics, and corrected for their number."""
    strata: dict[tuple[str, int, int], list[int]] = {}
    for place, runs in enumerate(metrics):
        strata.setdefault(runs.stratum, []).append(place)
    least = np.array([least_p(runs) for runs in metrics])
    single = np.array([alone(one[:, None])[0] for one in rarities])
    joint = single.copy()
    # Metrics that cannot fail whatever their values are no part of the family (Tarone 1990,
    # doi:10.2307/2531456): a mirrored split as rare as theirs would keep others from failing.
    able = np.ones(len(metrics), dtype=bool) if approximate else least <= level * (1 + _ROUNDING)
    groups = [
        some for places in strata.values() if (some := [place for place in places if able[place]])
    ]
    tables = [np.stack([rarities[place] for place in some], axis=1) for some in groups]
    for some, adjusted in zip(groups, together(tables), strict=True):
        joint[some] = adjusted
    exact = joint if correction == "family-wise" else adjust(single, correction)
    if not approximate:
        return single, exact
    # the worst of all splits, and rare by Student's t besides
    extreme = np.where(correction == "family-wise", joint, single)
    worst = extreme <= np.maximum(least, level) * (1 + _ROUNDING)
    by_t = np.array([one[0] for one in rarities])
    single = np.where(worst, by_t, np.maximum(single, by_t))
    by_t = np.minimum(1.0, MARGIN * by_t)
    by_t = adjust(by_t, "holm" if correction == "family-wise" else correction)
    return single, np.where(worst, by_t, np.maximum(extreme, by_t))


def adjust(p_values: ArrayLike, correction: str) -> Floats:
    """Return p-values adjusted for their number.

    Parameters
    ----------
    p_values : (n,) float array
    correction : {"holm", "benjamini-hochberg", "none"}
        holm keeps the chance of any false alarm at the level under every dependence;
        benjamini-hochberg keeps the share of false alarms, and, where nothing has changed, the
        chance of any for independent or positively dependent metrics.

    Returns
    -------
    (n,) float array
        To be compared with the level.

    Raises
    ------
    BaselineError
        If the correction is unknown.
    """
    p = np.asarray(p_values, dtype=np.float64)
    n = len(p)
    if correction == "none" or n == 0:
        return p.copy()
    order = np.argsort(p, kind="stable")
    if correction == "holm":
        stepped = np.maximum.accumulate(p[order] * np.arange(n, 0, -1))
    elif correction == "benjamini-hochberg":
        stepped = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    else:
        raise BaselineError(
            f"unknown correction {correction!r}; expected one of {', '.join(CORRECTIONS)}"
        )
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
