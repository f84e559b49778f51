"""Forecasts judged on runs that took no part in them: scores, baselines, alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.dynamics.criterion import auroc
from geomdiag.dynamics.forecaster import (
    QUANTILES,
    Cases,
    Fit,
    Predict,
    calibrated,
    calibration_map,
    chance_at,
    interval_shares,
    judged_out_of_fold,
    quantiles_given_onset,
)
from geomdiag.dynamics.hazard import EDGES, MARKS

__all__ = [
    "ALARM_RATES",
    "BASELINES",
    "SHARES",
    "Alarm",
    "Forecasts",
    "Score",
    "alarms",
    "backtest",
    "crps",
    "extrapolated",
    "factor_of_now",
    "generalises",
    "onsets_alone",
    "score",
]

FloatArray = NDArray[np.float64]

#: Shares of the way to the onset, in steps, at which errors are told.
SHARES = (0.3, 0.5, 0.7, 0.9)
#: Requested shares of hopeless runs that are announced all the same.
ALARM_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
#: Relative error below which a forecast is of use.
USEFUL = 0.25

#: Baseline → features it may look at (METHOD §10); the distribution of onsets has none.
BASELINES: dict[str, tuple[str, ...]] = {
    "elapsed steps": ("log_step",),
    "spectral measures of the embedding": (
        "log_step",
        "dimension_since_start",
        "dimension_slope",
        "entropy_rank_since_start",
        "entropy_rank_from_peak",
        "entropy_rank_slope",
        "gini",
        "gini_since_start",
        "gini_slope",
    ),
    "extrapolated held-out loss": ("log_step", "extrapolated_loss", "loss_falls"),
    "extrapolated held-out accuracy": ("log_step", "extrapolated_accuracy", "accuracy_rises"),
}

#: Held-out loss (nats) of a network that has generalised, to which it is extrapolated.
GENERALISED_LOSS = 0.05
GENERALISED_ACCURACY = 0.99


def crps(
    survival: FloatArray, growth: FloatArray, seen: FloatArray | None = None, *, points: int = 321
) -> FloatArray:
    """Return the continuous ranked probability score of each forecast, in log-steps.

    Differences beyond the last edge do not count (Gneiting & Ranjan 2011,
    doi:10.1198/jbes.2010.08110), nor do those beyond what was seen of a run without onset.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts.
    growth : (n,) float array
        When it happened; NaN where it did not.
    seen : (n,) float array, optional
        How long a run was watched; needed where it did not happen.

    Returns
    -------
    (n,) float array
        From 0 (perfect) to the last edge.
    """
    width = EDGES[-1] / (points - 1)
    watched = np.full(len(growth), np.nan) if seen is None else seen
    end = np.where(np.isnan(growth), watched, np.inf)
    total = np.zeros(len(survival))
    for one in (np.arange(points - 1) + 0.5) * width:  # middles of equal cells
        chance = chance_at(survival, np.full(len(survival), one))
        total += np.where(one <= end, width * (chance - (growth <= one)) ** 2, 0.0)
    return np.where(np.isnan(end), np.nan, total)


def extrapolated(cases: Cases) -> Cases:
    """Return cases with straight lines drawn on: held-out loss and accuracy over log-steps.

    Parameters
    ----------
    cases : Cases
        Of the mode with losses.

    Returns
    -------
    Cases
        With four more features: the growth of the logarithm of the step at which the line
        reaches the loss (or accuracy) of a network that has generalised, at most the last edge,
        and whether the line goes there.
    """
    column = {name: cases.columns[:, i] for i, name in enumerate(cases.names)}
    logit = math.log(GENERALISED_ACCURACY / (1 - GENERALISED_ACCURACY))
    more: dict[str, FloatArray] = {}
    for name, flag, level, slope, goal in (
        (
            "extrapolated_loss",
            "loss_falls",
            column["heldout_loss"],
            -column["heldout_loss_slope"],
            -math.log(GENERALISED_LOSS),
        ),
        (
            "extrapolated_accuracy",
            "accuracy_rises",
            -column["heldout_accuracy"],
            column["heldout_accuracy_slope"],
            logit,
        ),
    ):
        # both as a distance that a positive slope covers
        goes = slope > 1e-6
        distance = np.maximum(level + goal, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(goes, distance / slope, EDGES[-1])
        more[name] = np.clip(reach, 0.0, EDGES[-1])
        more[flag] = goes.astype(np.float64)
    return replace(
        cases,
        names=(*cases.names, *more),
        columns=np.column_stack([cases.columns, *more.values()]),
    )


def onsets_alone(train: Cases) -> Predict:
    """Return forecasts from the distribution of the training runs' onsets beyond the present step.

    Product-limit estimate over the logarithm of the step, so that runs that never generalised
    count for as long as they were watched. One run more counts as at risk: beyond the last
    onset nothing is certain.
    """
    first = np.unique(train.run, return_index=True)[1]
    begins = np.log(train.step[first])
    happened = ~np.isnan(train.growth[first])
    end = begins + np.where(happened, train.growth[first], train.seen[first])
    order = np.argsort(end, kind="stable")
    end, happened = end[order], happened[order]
    at_risk = len(end) - np.arange(len(end))
    stays = np.cumsum(np.log(np.where(happened, 1 - 1 / (at_risk + 1.0), 1.0)))

    def logs(at: FloatArray) -> FloatArray:
        place = np.searchsorted(end, at, side="right")
        return np.concatenate([[0.0], stays])[place]

    def predict(cases: Cases) -> FloatArray:
        now = np.log(cases.step)[:, None]
        later = now + MARKS
        result: FloatArray = np.exp(logs(later) - logs(now))
        return result

    return predict


def factor_of_now(cases: Cases, factor: float) -> FloatArray:
    """Return forecasts that always say the same: so many times the present step."""
    return np.tile((math.log(factor) > MARKS).astype(float), (len(cases.step), 1))


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of cases.

    Attributes
    ----------
    survival : (n, k + 1) float array
        Calibrated chance that nothing has happened by each edge.
    plain : (n, k + 1) float array
        The same before the calibration; intervals come from it.
    shares : (n, 5) float array
        For each of `geomdiag.dynamics.forecaster.QUANTILES`, the chance at which it is read off.
    """

    survival: FloatArray
    plain: FloatArray
    shares: FloatArray

    def of(self, rows: Any) -> Forecasts:
        """Return the forecasts of some of the cases."""
        return Forecasts(self.survival[rows], self.plain[rows], self.shares[rows])

    def quantiles(self) -> dict[float, FloatArray]:
        """Return, for each of `QUANTILES`, the growth at which it lies, (n,) each.

        Given that the onset comes by the last edge.
        """
        found = quantiles_given_onset(self.plain, self.shares)
        return dict(zip(QUANTILES, found.T, strict=True))


def backtest(
    cases: Cases,
    fit: Fit,
    groups: NDArray[np.str_],
    *,
    folds: int | None = None,
) -> Forecasts:
    """Return forecasts of every case by models that were fitted and calibrated without its group.

    Parameters
    ----------
    cases : Cases
        Cases.
    fit : callable
        Cases → (Cases → survival).
    groups : (n,) str array
        What is left out as a whole; among the rest, the calibration leaves out in turn, too.
    folds : int, optional
        Groups are dealt into so many folds; one each if left out.

    Returns
    -------
    Forecasts
    """
    names = np.unique(groups)
    survival = np.full((len(groups), len(EDGES) + 1), np.nan)
    plain = survival.copy()
    shares = np.full((len(groups), len(QUANTILES)), np.nan)
    count = len(names) if folds is None else min(folds, len(names))
    for fold in range(count):
        out = np.isin(groups, names[fold::count])
        train = cases.of(~out)
        apart, rest = judged_out_of_fold(train, groups[~out], fit)
        mapping = calibration_map(rest, apart)
        plain[out] = fit(train)(cases.of(out))
        survival[out] = calibrated(plain[out], mapping)
        shares[out] = interval_shares(rest, apart)
    return Forecasts(survival, plain, shares)


@dataclass(frozen=True, eq=False)
class Score:
    """How good forecasts were, over runs that generalised; runs count alike.

    Attributes
    ----------
    runs : int
        Runs that generalised and were forecast at least once.
    coverage_50, coverage_90 : float
        Share of moments at which the interval held the onset, of those at which it was within
        reach: intervals are given that it comes by the last edge.
    width_90 : float
        Median factor between the ends of the 90 % interval.
    crps : float
        Mean, in log-steps.
    crps_all : float
        The same over all runs, those that did not generalise as far as they were watched.
    error : dict of float to float
        Share of the way to the onset → median of the relative error of the median; infinite
        where half of the forecasts gave no median.
    error_runs : dict of float to int
        Runs that had a moment before each share.
    lead : float
        Median over runs of the share of the way from which the relative error stays within a
        quarter; 1 where it never does.
    """

    runs: int
    coverage_50: float
    coverage_90: float
    width_90: float
    crps: float
    crps_all: float
    error: dict[float, float]
    error_runs: dict[float, int]
    lead: float


def score(forecasts: Forecasts, cases: Cases) -> Score:
    """Return how good forecasts were.

    Parameters
    ----------
    forecasts : Forecasts
        Forecasts.
    cases : Cases
        What became of them.

    Returns
    -------
    Score
    """
    forecasts, cases = forecasts.of(cases.judged), cases.of(cases.judged)
    ranked = crps(forecasts.survival, cases.growth, cases.seen)
    everyone = _mean_over_runs(ranked, cases.run)
    use = ~np.isnan(cases.growth)
    forecasts, cases, ranked = forecasts.of(use), cases.of(use), ranked[use]
    quantiles = forecasts.quantiles()
    inside_50 = (quantiles[0.25] <= cases.growth) & (cases.growth <= quantiles[0.75])
    inside_90 = (quantiles[0.05] <= cases.growth) & (cases.growth <= quantiles[0.95])
    near = cases.growth <= EDGES[-1]  # intervals are of onsets within reach
    # (median − onset) / onset, both in steps
    error = np.abs(np.exp(quantiles[0.5] - cases.growth) - 1)
    runs = np.unique(cases.run)
    way = np.exp(-cases.growth)
    at: dict[float, list[float]] = {share: [] for share in SHARES}
    leads = []
    for run in runs:
        rows = np.flatnonzero(cases.run == run)
        for share in SHARES:
            before = rows[way[rows] <= share]
            if len(before):
                at[share].append(float(error[before[-1]]))
        bad = np.flatnonzero(error[rows] > USEFUL)
        if not len(bad):
            leads.append(float(way[rows[0]]))
        else:
            leads.append(float(way[rows[bad[-1] + 1]]) if bad[-1] + 1 < len(rows) else 1.0)
    return Score(
        runs=len(runs),
        coverage_50=_mean_over_runs(inside_50[near], cases.run[near]),
        coverage_90=_mean_over_runs(inside_90[near], cases.run[near]),
        width_90=float(np.exp(_median((quantiles[0.95] - quantiles[0.05])[near]))),
        crps=_mean_over_runs(ranked, cases.run),
        crps_all=everyone,
        error={share: _median(found) for share, found in at.items()},
        error_runs={share: len(found) for share, found in at.items()},
        lead=_median(leads),
    )


def _mean_over_runs(values: NDArray[Any], run: NDArray[np.int64]) -> float:
    """Return the mean over runs of the mean over a run's moments; NaN without any."""
    if not len(run):
        return math.nan
    _, place, counts = np.unique(run, return_inverse=True, return_counts=True)
    return float((np.bincount(place, values.astype(np.float64)) / counts).mean())


def _median(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(np.median(array)) if len(array) else math.nan


def generalises(survival: FloatArray, cases: Cases) -> FloatArray:
    """Return the forecast chance that a run generalises before it ends."""
    return chance_at(survival, cases.seen)


@dataclass(frozen=True)
class Alarm:
    """What happens when runs are announced once the chance exceeds a level.

    Attributes
    ----------
    requested : float
        Share of hopeless runs of the other groups above the level.
    false : float
        Share of hopeless runs of the group itself.
    hit : float
        Share of runs that generalised that were announced before they did.
    hopeless, hopeful : int
        Numbers of runs.
    """

    requested: float
    false: float
    hit: float
    hopeless: int
    hopeful: int


def run_peaks(survival: FloatArray, cases: Cases) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the runs and the highest chance each was ever given."""
    chance = generalises(survival, cases)
    runs, place = np.unique(cases.run, return_inverse=True)
    peaks = np.zeros(len(runs))
    np.maximum.at(peaks, place, chance)
    return runs, peaks


def alarms(
    survival: FloatArray, cases: Cases, groups: NDArray[np.str_]
) -> tuple[list[Alarm], float, float]:
    """Return achieved against requested rates of false alarms.

    The level of each group is set on the hopeless runs of the others, so that a rate that is
    asked for is kept only as far as groups resemble each other.

    Returns
    -------
    list of Alarm
        One for each of `ALARM_RATES`.
    float
        Lowest rate of false alarms at which, with one level for all, half of the runs that
        generalise are announced.
    float
        AUROC of the highest chance.
    """
    judged = cases.judged
    survival, cases, groups = survival[judged], cases.of(judged), groups[judged]
    runs, peaks = run_peaks(survival, cases)
    first = np.unique(cases.run, return_index=True)[1]
    happened, group = ~np.isnan(cases.growth[first]), groups[first]
    found = []
    for rate in ALARM_RATES:
        raised = np.zeros(len(runs), dtype=bool)
        for one in np.unique(group):
            others = peaks[(group != one) & ~happened]
            own = group == one
            raised[own] = peaks[own] > np.quantile(others, 1 - rate) if len(others) else False
        found.append(
            Alarm(
                requested=rate,
                false=float(raised[~happened].mean()),
                hit=float(raised[happened].mean()),
                hopeless=int((~happened).sum()),
                hopeful=int(happened.sum()),
            )
        )
    half = np.median(peaks[happened])
    return found, float((peaks[~happened] >= half).mean()), auroc(peaks, happened)
