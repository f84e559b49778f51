"""Noise or regression: every metric of a baseline held against what was measured.

A metric has regressed where its change in the worse direction is larger than every tolerance of
it and, with three seeds or more in the baseline, larger than chance explains: one-sided Student
t with the baseline's own spread, which is the baseline's prediction interval for the mean of as
many new runs (Hahn & Meeker 1991), corrected for the number of metrics (Holm 1979, or Benjamini &
Hochberg 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from geomdiag.errors import BaselineError
from geomdiag.gate.baseline import CORRECTIONS, Baseline, Metric, make_baseline
from geomdiag.gate.measured import Measured
from geomdiag.gate.patterns import choose
from geomdiag.gate.policies import Policy

__all__ = ["FAILING", "SEEDS", "VERDICTS", "Row", "Verdict", "adjust", "check", "compare"]

#: From the worst on; the first two fail.
VERDICTS = ("regressed", "missing", "noise", "new", "not compared", "improved", "same")
FAILING = ("regressed", "missing")
#: Fewer seeds than this give no spread to test against.
SEEDS = 3
#: Share of a value that the digits of a baseline's text leave open.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Row:
    """What became of one metric.

    Attributes
    ----------
    setting, metric : str
    verdict : str
        One of `VERDICTS`. noise: worse than tolerated, but not told from chance.
    baseline, value : float
        Centre of the baseline and of the new runs (means on the metric's scale); NaN: none.
    seeds, runs : int
        How many runs gave these.
    change : float
        ``value - baseline``, units of the metric.
    excess : float
        Change in the worse direction over the tolerance, more than 1 is too much; infinite
        without a tolerance. It orders the rows of one verdict.
    spreads : float
        Change on the scale, in standard deviations between the baseline's seeds; NaN: unknown.
    p_value, adjusted : float
        Of a change as bad by chance; adjusted for the number of metrics. NaN: not tested.
    worse : str
        Direction that is worse.
    words : str
        What decided.
    """

    setting: str
    metric: str
    verdict: str
    baseline: float = math.nan
    value: float = math.nan
    seeds: int = 0
    runs: int = 0
    change: float = math.nan
    excess: float = 0.0
    spreads: float = math.nan
    p_value: float = math.nan
    adjusted: float = math.nan
    worse: str = "either"
    words: str = ""


@dataclass(frozen=True)
class Verdict:
    """All rows, the worst first, and how they were judged.

    Attributes
    ----------
    rows : tuple of Row
    level : float
    correction : str
    notices : tuple of str
        What a reader must know of the test.
    """

    rows: tuple[Row, ...]
    level: float
    correction: str
    notices: tuple[str, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that a gate must not let through."""
        return tuple(row for row in self.rows if row.verdict in FAILING)

    @property
    def passed(self) -> bool:
        """Whether there is none."""
        return not self.failed


def adjust(p_values: ArrayLike, correction: str = "holm") -> NDArray[np.float64]:
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

    References
    ----------
    Holm 1979, JSTOR 4615733; Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x
    """
    if correction not in CORRECTIONS:
        raise BaselineError(
            f"unknown correction {correction!r}; expected one of {', '.join(CORRECTIONS)}"
        )
    p = np.asarray(p_values, dtype=np.float64)
    n = len(p)
    if correction == "none" or n == 0:
        return p.copy()
    order = np.argsort(p, kind="stable")
    if correction == "holm":
        stepped = np.maximum.accumulate(p[order] * np.arange(n, 0, -1))
    else:
        stepped = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def check(
    measured: Sequence[Measured],
    baseline: Baseline,
    *,
    level: float | None = None,
    correction: str | None = None,
) -> Verdict:
    """Hold what was measured against a baseline.

    Parameters
    ----------
    measured : sequence of Measured
        From `geomdiag.gate.measured.measure`.
    baseline : Baseline
        A setting is held against the one of its name; a lone one against a lone one, whatever
        their names.
    level : float, optional
        Probability of a false alarm. Default: the baseline's.
    correction : {"holm", "benjamini-hochberg", "none"}, optional
        For the number of metrics. Default: the baseline's.

    Returns
    -------
    Verdict

    Raises
    ------
    BaselineError
        If the two are of different tasks, or level or correction are none.
    """
    level = baseline.level if level is None else level
    correction = baseline.correction if correction is None else correction
    if not 0 < level < 1:
        raise BaselineError(f"the level is {level:g}; expected a probability between 0 and 1")
    own = {one.name: one for one in measured}
    if len(own) == len(baseline.settings) == 1:
        own = {next(iter(baseline.settings)): measured[0]}
    rows: list[Row] = []
    judged: list[_Judged] = []
    notices: list[str] = []
    for name, setting in baseline.settings.items():
        one = own.pop(name, None)
        if one is not None and one.task and setting.task and one.task != setting.task:
            raise BaselineError(
                f"the result of {name!r} is of the task {one.task}, the baseline of "
                f"{setting.task}; only what is of one task can be compared. Give the one that "
                "belongs to it, or make a new baseline."
            )
        if one is None:
            why = "the result has no runs of this setting"
            one = Measured(name, {}, reasons=dict.fromkeys(setting.metrics, why))
        for metric, entry in setting.metrics.items():
            judged.append(_judge(name, metric, entry, one))
        for metric in choose(one.values, baseline.choose):
            if metric not in setting.metrics and any(map(math.isfinite, one.values[metric])):
                known = [value for value in one.values[metric] if math.isfinite(value)]
                words = "not in the baseline"
                value = float(np.mean(known))
                rows.append(Row(name, metric, "new", value=value, runs=len(known), words=words))
    notices += [
        f"{name!r} is not in the baseline, so nothing was compared. Add it with `geomdiag "
        "baseline --update`."
        for name in own
    ]
    tested = [one for one in judged if not math.isnan(one.row.p_value)]
    worse = adjust([one.row.p_value for one in tested], correction)
    better = adjust([one.p_better for one in tested], correction)
    by_row = {
        id(one): (float(a), float(b)) for one, a, b in zip(tested, worse, better, strict=True)
    }
    rows += [_decide(one, by_row.get(id(one)), level) for one in judged]
    rows.sort(key=lambda row: (VERDICTS.index(row.verdict), -row.excess))
    notices += _notices(judged, tested, level, correction)
    return Verdict(tuple(rows), level, correction, tuple(notices))


def compare(
    first: Sequence[Measured], second: Sequence[Measured], *, metrics: Sequence[str] | None = None
) -> Verdict:
    """Hold one result against another, for people to read.

    Parameters
    ----------
    first, second : sequence of Measured
        The first takes the baseline's place, with default tolerances.
    metrics : sequence of str, optional
        Patterns of names.

    Returns
    -------
    Verdict
    """
    return check(second, make_baseline(first, metrics=metrics))


@dataclass(frozen=True)
class _Judged:
    """A row as far as it goes without the other metrics."""

    row: Row
    beyond: bool = False  # worse than tolerated
    better: bool = False  # better than tolerated
    p_better: float = math.nan
    n: int = 0


def _judge(setting: str, name: str, entry: Metric, measured: Measured) -> _Judged:
    policy = entry.policy
    old = np.array([value for value in entry.values if math.isfinite(value)])
    given = np.array(measured.values.get(name, ()))
    new = given[np.isfinite(given)]
    on_scale = _scaled(old, policy)
    moved = _scaled(new, policy)
    centre = _centre(old, on_scale, policy)
    row = Row(setting, name, "same", centre, seeds=len(old), runs=len(new), worse=policy.worse)
    if len(new) < len(given) or not len(given):
        why = measured.why(name)
        if len(given) > 1:
            why = f"{len(given) - len(new)} of {len(given)} runs lack it: {why}"
        if not policy.allow_missing:
            return _Judged(replace(row, verdict="missing", words=why, excess=math.inf))
        if not len(new):
            words = f"{why}; as some of the baseline's runs"
            return _Judged(replace(row, verdict="not compared", words=words))
    if len(old) < SEEDS <= len(entry.values):
        words = f"only {len(old)} of the baseline's {len(entry.values)} runs have it"
        return _Judged(replace(row, verdict="not compared", words=words))
    if not np.isfinite(moved).all():
        words = f"{new[~np.isfinite(moved)][0]:.4g} has no place on the scale {policy.scale}"
        return _Judged(replace(row, verdict="missing", words=words, excess=math.inf))
    value = _centre(new, moved, policy)
    step = float(moved.mean() - on_scale.mean())
    spread = float(on_scale.std(ddof=1)) if len(old) > 1 else math.nan
    if spread <= 1e-9 * max(1.0, float(np.abs(on_scale).max())):  # equal but for rounding
        spread = 0.0
    if policy.resolution and len(old) > 1:
        ends = np.array([centre - policy.resolution / 2, centre + policy.resolution / 2])
        width = float(np.ptp(_scaled(ends, policy)))
        spread = max(spread, width / math.sqrt(12) if math.isfinite(width) else 0.0)
    change = value - centre
    if abs(change) <= _ROUNDING * abs(centre):
        step = change = 0.0
    row = replace(
        row, value=value, change=change, spreads=step / spread if spread > 0 else math.nan
    )
    excess = _excess(change, step, centre, spread, policy)
    bad = {"higher": change > 0, "lower": change < 0, "either": True}[policy.worse]
    row = replace(row, excess=excess if bad else 0.0)
    beyond = excess > 1
    one = _Judged(row, bad and beyond, not bad and beyond, n=len(old))
    if not policy.test or len(old) < SEEDS or not spread > 0:
        return one
    t = step / (spread * math.sqrt(1 / len(old) + 1 / len(new)))
    above, below = float(stdtr(len(old) - 1, -t)), float(stdtr(len(old) - 1, t))
    if policy.worse == "either":
        p, p_better = min(1.0, 2 * min(above, below)), 1.0
    else:
        p, p_better = (above, below) if policy.worse == "higher" else (below, above)
    return replace(one, row=replace(row, p_value=p), p_better=p_better)


def _excess(change: float, step: float, centre: float, spread: float, policy: Policy) -> float:
    """Return a change over the largest tolerance of it."""
    if change == 0:
        return 0.0
    tolerance = max(policy.absolute, policy.relative * abs(centre))
    allowed = tolerance + _ROUNDING * abs(centre)
    shares = [abs(change) / allowed if tolerance > 0 else math.inf]
    if policy.spread and spread > 0:
        shares.append(abs(step) / (policy.spread * spread * (1 + _ROUNDING)))
    return min(shares)


def _decide(one: _Judged, adjusted: tuple[float, float] | None, level: float) -> Row:
    """Return the row with its verdict, given what the other metrics make of its p-value."""
    row = one.row
    if row.verdict != "same":
        return row
    if adjusted is None:
        if not (one.beyond or one.better):
            return replace(row, words="within the tolerance")
        why = "its tolerance alone decides" if one.n != 1 else "one seed: its tolerance decides"
        return replace(
            row,
            verdict="regressed" if one.beyond else "improved",
            words=f"beyond the tolerance; {why}",
        )
    p, p_better = adjusted
    row = replace(row, adjusted=p)
    if one.beyond:
        if p <= level:
            return replace(
                row, verdict="regressed", words=f"beyond tolerance and noise, p = {p:.2g}"
            )
        return replace(
            row,
            verdict="noise",
            words=f"beyond the tolerance, but seeds differ as much, p = {p:.2g}",
        )
    if one.better and p_better <= level:
        return replace(row, verdict="improved", words=f"better than noise, p = {p_better:.2g}")
    return replace(row, words="within the tolerance" if not one.better else "within noise")


def _notices(
    judged: Sequence[_Judged], tested: Sequence[_Judged], level: float, correction: str
) -> list[str]:
    notices = []
    if single := sum(0 < one.n < SEEDS for one in judged):
        notices.append(
            f"{single} of {len(judged)} metrics have fewer than {SEEDS} seeds in the baseline: "
            "tolerances alone decide, and noise between seeds cannot be told from regression."
        )
    constant = sum(one.n >= SEEDS and math.isnan(one.row.p_value) for one in judged)
    if constant:
        notices.append(
            f"{constant} of {len(judged)} metrics are the same in all seeds of the baseline, or "
            "not to be tested: tolerances alone decide."
        )
    if tested:
        fewest = min(tested, key=lambda one: one.n)
        number = 1 if correction == "none" else len(tested)
        least = float(
            stdtrit(fewest.n - 1, 1 - level / number)
            * math.sqrt(1 / fewest.n + 1 / max(fewest.row.runs, 1))
        )
        notices.append(
            f"{len(tested)} metrics tested at level {level:g}, correction {correction}. With "
            f"{fewest.n} seeds in the baseline and {fewest.row.runs} new, a change of one metric "
            f"alone counts from {least:.3g} standard deviations on; more seeds lower that."
        )
    return notices


def _scaled(values: NDArray[np.float64], policy: Policy) -> NDArray[np.float64]:
    if policy.scale == "linear":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.log(values + policy.absolute)
        if policy.scale == "log":
            return low
        return np.asarray(low - np.log(1 - values + policy.absolute))


def _centre(values: NDArray[np.float64], scaled: NDArray[np.float64], policy: Policy) -> float:
    """Return the mean on the scale, in units of the metric; exact where all values are one."""
    return float(values[0]) if np.ptp(values) == 0 else _plain(float(scaled.mean()), policy)


def _plain(value: float, policy: Policy) -> float:
    """Return a value on the scale in units of the metric."""
    if policy.scale == "linear":
        return value
    if policy.scale == "log":
        return math.exp(value) - policy.absolute
    odds = math.exp(value)
    return (odds * (1 + policy.absolute) - policy.absolute) / (1 + odds)
