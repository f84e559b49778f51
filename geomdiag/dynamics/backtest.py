"""Forecasts judged on runs that took no part in them: scores, baselines, alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.dynamics.criterion import auroc
from geomdiag.dynamics.forecaster import (
    FOLDS,
    QUANTILES,
    Cases,
    Predict,
    calibrated,
    calibration_map,
    chance_at,
    fit_cases,
    interval_shares,
    out_of_fold,
    spaced,
)
from geomdiag.dynamics.hazard import EDGES

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
    "generalises",
    "growth_quantile",
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


def growth_quantile(survival: FloatArray, share: float | FloatArray) -> FloatArray:
    """Return by which growth of the logarithm of the step it will have happened, with a chance.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Chance that nothing has happened by each edge.
    share : float or (n,) float array
        Chance, such as 0.5 for the median.

    Returns
    -------
    (n,) float array
        Infinite where the chance is not reached by the last edge.
    """
    edges = np.concatenate([[0.0], EDGES])
    logs = np.log(np.maximum(survival, 1e-12))
    wanted = np.broadcast_to(np.log(1 - np.asarray(share)), len(survival))
    reached = logs <= wanted[:, None]
    right = np.where(reached.any(axis=1), reached.argmax(axis=1), 0)
    rows = np.arange(len(survival))
    left = np.maximum(right - 1, 0)
    fall = logs[rows, left] - logs[rows, right]
    part = np.where(fall > 0, (logs[rows, left] - wanted) / np.where(fall > 0, fall, 1.0), 1.0)
    found: FloatArray = edges[left] + part * (edges[right] - edges[left])
    return np.where(reached.any(axis=1), found, np.inf)


def crps(survival: FloatArray, growth: FloatArray, *, points: int = 321) -> FloatArray:
    """Return the continuous ranked probability score of each forecast, in log-steps.

    Differences beyond the last edge do not count (arXiv: Gneiting & Ranjan 2011,
    doi:10.1198/jbes.2010.08110).

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts.
    growth : (n,) float array
        What happened.

    Returns
    -------
    (n,) float array
        From 0 (perfect) to the last edge.
    """
    at = np.linspace(0, EDGES[-1], points)
    width = at[1] - at[0]
    total = np.zeros(len(survival))
    for one in at:
        chance = chance_at(survival, np.full(len(survival), one))
        total += width * (chance - (growth <= one)) ** 2
    return total


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
    return Cases(
        names=(*cases.names, *more),
        columns=np.column_stack([cases.columns, *more.values()]),
        **{
            key: getattr(cases, key) for key in ("run", "step", "growth", "seen", "task", "setting")
        },
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
        later = now + np.concatenate([[0.0], EDGES])
        result: FloatArray = np.exp(logs(later) - logs(now))
        return result

    return predict


def hazard_on(names: Sequence[str]) -> Callable[[Cases], Predict]:
    """Return a way of fitting that looks at some features only."""

    def fit(train: Cases) -> Predict:
        model = fit_cases(train.only(names))
        return lambda cases: model.survival(cases.only(names).columns)

    return fit


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of cases.

    Attributes
    ----------
    survival : (n, k + 1) float array
        Chance that nothing has happened by each edge.
    shares : (n, 5) float array
        For each of `geomdiag.dynamics.forecaster.QUANTILES`, the chance at which it is read off.
    """

    survival: FloatArray
    shares: FloatArray

    def of(self, rows: Any) -> Forecasts:
        """Return the forecasts of some of the cases."""
        return Forecasts(self.survival[rows], self.shares[rows])

    def quantiles(self) -> dict[float, FloatArray]:
        """Return, for each of `QUANTILES`, the growth at which it lies, (n,) each."""
        return {
            share: growth_quantile(self.survival, self.shares[:, i])
            for i, share in enumerate(QUANTILES)
        }


def backtest(
    cases: Cases,
    fit: Callable[[Cases], Predict],
    groups: NDArray[np.str_],
    *,
    inner: NDArray[np.str_] | None = None,
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
        What is left out as a whole.
    inner : (n,) str array, optional
        What the calibration leaves out in turn among the rest; the groups if left out.
    folds : int, optional
        Groups are dealt into so many folds; one each if left out.

    Returns
    -------
    Forecasts
    """
    inner = groups if inner is None else inner
    names = np.unique(groups)

    survival = np.full((len(groups), len(EDGES) + 1), np.nan)
    shares = np.full((len(groups), len(QUANTILES)), np.nan)
    count = len(names) if folds is None else min(folds, len(names))
    for fold in range(count):
        out = np.isin(groups, names[fold::count])
        train, own = cases.of(~out), inner[~out]
        kept = spaced(train)
        apart = train.of(kept)
        rest = out_of_fold(apart, own[kept], fit, folds=FOLDS)
        mapping = calibration_map(rest, apart)
        survival[out] = calibrated(fit(train)(cases.of(out)), mapping)
        shares[out] = interval_shares(calibrated(rest, mapping), apart)
    return Forecasts(survival, shares)


@dataclass(frozen=True, eq=False)
class Score:
    """How good forecasts were, over runs that generalised; runs count alike.

    Attributes
    ----------
    runs : int
        Runs that generalised and were forecast at least once.
    coverage_50, coverage_90 : float
        Share of moments at which the interval held the onset.
    crps : float
        Mean, in log-steps.
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
    crps: float
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
    use = ~np.isnan(cases.growth)
    forecasts, cases = forecasts.of(use), cases.of(use)
    quantiles = forecasts.quantiles()
    inside_50 = (quantiles[0.25] <= cases.growth) & (cases.growth <= quantiles[0.75])
    inside_90 = (quantiles[0.05] <= cases.growth) & (cases.growth <= quantiles[0.95])
    ranked = crps(forecasts.survival, cases.growth)
    # (median − onset) / onset, both in steps
    error = np.abs(np.exp(quantiles[0.5] - cases.growth) - 1)
    runs = np.unique(cases.run)
    way = np.exp(-cases.growth)
    at: dict[float, list[float]] = {share: [] for share in SHARES}
    means, leads = [], []
    for run in runs:
        rows = np.flatnonzero(cases.run == run)
        means.append((inside_50[rows].mean(), inside_90[rows].mean(), ranked[rows].mean()))
        for share in SHARES:
            before = rows[way[rows] <= share]
            if len(before):
                at[share].append(float(error[before[-1]]))
        bad = np.flatnonzero(error[rows] > USEFUL)
        if not len(bad):
            leads.append(float(way[rows[0]]))
        else:
            leads.append(float(way[rows[bad[-1] + 1]]) if bad[-1] + 1 < len(rows) else 1.0)
    coverage_50, coverage_90, mean = np.mean(means, axis=0).tolist()
    return Score(
        runs=len(runs),
        coverage_50=coverage_50,
        coverage_90=coverage_90,
        crps=mean,
        error={share: float(np.median(found)) for share, found in at.items()},
        error_runs={share: len(found) for share, found in at.items()},
        lead=float(np.median(leads)),
    )


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
