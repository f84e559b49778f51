"""The forecaster: a hazard over the growth of the step, calibrated on tasks it did not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.dynamics.corpus import runs_of
from geomdiag.dynamics.features import GEOMETRY, LOSSES, features
from geomdiag.dynamics.hazard import EDGES, MARKS, Hazard, fit_hazard

__all__ = [
    "MODES",
    "QUANTILES",
    "Cases",
    "Forecaster",
    "calibrated",
    "calibration_map",
    "cases_of",
    "chance_at",
    "fit_cases",
    "fit_forecaster",
    "given_onset",
    "growth_quantile",
    "hazard_on",
    "interval_shares",
    "judged_out_of_fold",
    "out_of_fold",
    "quantiles_given_onset",
    "spaced",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Steps before this one are not forecast from: nothing has happened yet.
FIRST = 10
#: For fitting, rows whose step has grown by less than this factor tell nothing new.
THIN = 1.3
#: Moments up to so many times the onset are shown to the model, as what is over.
AFTER = 3.0
#: Groups of tasks that are left out in turn to calibrate.
FOLDS = 3

#: Chances by which the onset is told: the median and the ends of the 50 % and 90 % intervals.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Mode → the signals it may look at.
MODES: Mapping[str, Any] = {"geometry": GEOMETRY, "losses": {**GEOMETRY, **LOSSES}}


@dataclass(frozen=True, eq=False)
class Cases:
    """Moments at which a forecast is made: steps of runs that have not generalised yet.

    Attributes
    ----------
    names : tuple of str
        Features.
    columns : (n, f) float array
        Their values.
    run : (n,) int array
        Index of the run.
    step : (n,) float array
        Step at which the forecast is made.
    growth : (n,) float array
        Logarithm of onset over step; NaN where the run never generalised.
    seen : (n,) float array
        Logarithm of the last step over this one.
    done : (n,) bool array
        Whether the onset is behind. Such moments teach the model what that looks like; they are
        neither forecast nor judged.
    planned : (n,) bool array
        Whether every run of the setting has a checkpoint at this step. Others were kept because
        something happened to a run there, which a forecast is not to be judged by.
    task, setting : (n,) str array
        Of the run.
    """

    names: tuple[str, ...]
    columns: FloatArray
    run: IntArray
    step: FloatArray
    growth: FloatArray
    seen: FloatArray
    done: NDArray[np.bool_]
    planned: NDArray[np.bool_]
    task: NDArray[np.str_]
    setting: NDArray[np.str_]

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which cases forecasts are calibrated on and judged by, (n,)."""
        return ~self.done & self.planned

    def of(self, rows: Any) -> Cases:
        """Return some of the cases."""
        return Cases(
            self.names,
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)[1:]},
        )

    def only(self, names: Sequence[str]) -> Cases:
        """Return the cases with some of the features."""
        chosen = [self.names.index(name) for name in names]
        return replace(self, names=tuple(names), columns=self.columns[:, chosen])

    def weights(self) -> FloatArray:
        """Return weights under which runs of a task, and tasks up to a root, count alike."""
        _, inverse, counts = np.unique(self.run, return_inverse=True, return_counts=True)
        first = np.unique(self.run, return_index=True)[1]
        tasks, per_task = np.unique(self.task[first], return_counts=True)
        size = dict(zip(tasks.tolist(), per_task.tolist(), strict=True))
        share = np.array([1 / math.sqrt(size[task]) for task in self.task.tolist()])
        weight: FloatArray = share / counts[inverse]
        return weight


def cases_of(corpus: xr.Dataset, mode: str) -> Cases:
    """Return all moments of a corpus at which a forecast is made.

    Parameters
    ----------
    corpus : xr.Dataset
        As `geomdiag.dynamics.corpus.collect` gives it.
    mode : {"geometry", "losses"}
        What the forecast may look at.

    Returns
    -------
    Cases
    """
    value = corpus["value"].values
    signals = corpus["signal"].values.astype(str).tolist()
    steps = corpus["step"].values
    onset, last = corpus["t_generalised"].values, corpus["last_step"].values
    setting = corpus["setting"].values.astype(str)
    kept_by_all = _kept_by_all(corpus["run_index"].values, steps, setting)
    parts: dict[str, list[Any]] = {
        key: [] for key in ("columns", "run", "step", "growth", "seen", "done", "planned")
    }
    names: tuple[str, ...] = ()
    for run, rows in enumerate(runs_of(corpus)):
        own = {
            name: column.astype(np.float64)
            for name, column in zip(signals, value[:, rows], strict=True)
            if not np.isnan(column).all()
        }
        found = features(steps[rows], own, MODES[mode])
        names = tuple(found)
        at = steps[rows].astype(np.float64)
        # the last moment of a run that never generalised has nothing after it
        end = last[run] if np.isnan(onset[run]) else min(AFTER * onset[run], last[run] + 1)
        kept = (at >= FIRST) & (at < end)
        done = at >= onset[run]
        parts["columns"].append(np.stack(list(found.values()), axis=1)[kept])
        parts["run"].append(np.full(kept.sum(), run))
        parts["step"].append(at[kept])
        parts["growth"].append(np.maximum(np.log(onset[run] / at[kept]), 0.0))
        parts["seen"].append(np.log(last[run] / at[kept]))
        parts["done"].append(done[kept])
        parts["planned"].append(kept_by_all[rows][kept])
    joined = {key: np.concatenate(value) for key, value in parts.items()}
    return Cases(
        names=names,
        task=corpus["task"].values.astype(str)[joined["run"]],
        setting=setting[joined["run"]],
        **joined,
    )


def _kept_by_all(
    index: NDArray[np.int32], steps: NDArray[np.int64], setting: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return which rows are at steps that every run of the setting has a checkpoint of."""
    _, runs = np.unique(setting, return_counts=True)
    place = np.unique(setting, return_inverse=True)[1][index]
    _, row, count = np.unique(
        np.stack([place, steps]), axis=1, return_inverse=True, return_counts=True
    )
    kept: NDArray[np.bool_] = count[np.ravel(row)] >= runs[place]
    return kept


def spaced(cases: Cases) -> NDArray[np.bool_]:
    """Return which cases are far enough from the last one of their run to tell something new."""
    kept = np.zeros(len(cases.step), dtype=bool)
    run, last = -1, 0.0
    for i, (own, step) in enumerate(zip(cases.run.tolist(), cases.step.tolist(), strict=True)):
        if own != run or step >= THIN * last:
            kept[i], run, last = True, own, step
    return kept


Predict = Callable[[Cases], FloatArray]
Fit = Callable[[Cases], Predict]


def fit_cases(cases: Cases) -> Hazard:
    """Fit the hazard on cases that are far enough apart."""
    thin = cases.of(spaced(cases))
    return fit_hazard(thin.names, thin.columns, thin.growth, thin.seen, thin.weights())


def hazard_on(names: Sequence[str]) -> Fit:
    """Return a way of fitting that looks at some features only."""

    def fit(train: Cases) -> Predict:
        model = fit_cases(train.only(names))
        return lambda cases: model.survival(cases.only(names).columns)

    return fit


def out_of_fold(cases: Cases, groups: NDArray[Any], fit: Fit) -> FloatArray:
    """Return survival forecasts of every case by models fitted without its group.

    Parameters
    ----------
    cases : Cases
        Cases.
    groups : (n,) array
        What is left out together, such as the task; dealt into `FOLDS` by size.
    fit : callable
        Cases → (Cases → survival).

    Returns
    -------
    (n, k + 1) float array
    """
    names, counts = np.unique(groups, return_counts=True)
    load = np.zeros(min(FOLDS, len(names)))
    fold_of: dict[Any, int] = {}
    for name, count in sorted(
        zip(names.tolist(), counts.tolist(), strict=True), key=lambda x: -x[1]
    ):
        fold_of[name] = int(np.argmin(load))
        load[fold_of[name]] += count
    fold = np.array([fold_of[name] for name in groups.tolist()])
    result = np.full((len(groups), len(EDGES) + 1), np.nan)
    for one in range(len(load)):
        out = fold == one
        result[out] = fit(cases.of(~out))(cases.of(out))
    return result


def judged_out_of_fold(cases: Cases, groups: NDArray[Any], fit: Fit) -> tuple[Cases, FloatArray]:
    """Return the cases that a calibration is made on, and forecasts of them as `out_of_fold`."""
    kept = spaced(cases)
    apart, own = cases.of(kept), groups[kept]
    survival = out_of_fold(apart, own, fit)
    return apart.of(apart.judged), survival[apart.judged]


def chance_at(survival: FloatArray, growth: FloatArray) -> FloatArray:
    """Return the chance that it has happened by each case's own growth of the step.

    Within a stretch survival is taken as linear in the logarithm of the step.
    """
    at = np.clip(growth, 0.0, MARKS[-1])
    right = np.clip(np.searchsorted(MARKS, at, side="left"), 1, len(MARKS) - 1)
    share = (at - MARKS[right - 1]) / (MARKS[right] - MARKS[right - 1])
    rows = np.arange(len(at))
    result: FloatArray = 1 - (
        survival[rows, right - 1] * (1 - share) + survival[rows, right] * share
    )
    return result


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
    wanted = 1 - np.broadcast_to(np.asarray(share, dtype=np.float64), len(survival))
    reached = survival <= wanted[:, None] + 1e-12
    right = np.where(reached.any(axis=1), reached.argmax(axis=1), 0)
    rows = np.arange(len(survival))
    left = np.maximum(right - 1, 0)
    fall = survival[rows, left] - survival[rows, right]
    over = np.maximum(survival[rows, left] - wanted, 0.0)
    part = np.where(fall > 0, over / np.where(fall > 0, fall, 1.0), 1.0)
    found: FloatArray = MARKS[left] + np.minimum(part, 1.0) * (MARKS[right] - MARKS[left])
    return np.where(reached.any(axis=1), found, np.inf)


def calibration_map(survival: FloatArray, cases: Cases, *, nodes: int = 41) -> FloatArray:
    """Return how often it really had happened when a chance was forecast.

    The forecast chance at the onset would be uniform if forecasts were right (Dawid 1984). Runs
    that did not generalise are censored at their last chance, so that the distribution is the
    product-limit estimate (Kaplan & Meier 1958), in which tasks count alike.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts by models that did not know the case's task.
    cases : Cases
        What became of them.
    nodes : int
        Points of the map, evenly spaced from 0 to 1.

    Returns
    -------
    (2, nodes) float array
        Forecast chances, and what they turned out to be; increasing.
    """
    grid = np.linspace(0, 1, nodes)
    limit = EDGES[-1]
    happened = ~np.isnan(cases.growth) & (cases.growth <= limit)
    time = chance_at(survival, np.where(happened, cases.growth, np.minimum(cases.seen, limit)))
    weight = cases.weights()
    task_weight = {task: weight[cases.task == task].sum() for task in np.unique(cases.task)}
    weight = weight / np.array([task_weight[task] for task in cases.task])
    order = np.argsort(time, kind="stable")
    time, weight, happened = time[order], weight[order], happened[order]
    at_risk = np.cumsum(weight[::-1])[::-1]
    with np.errstate(divide="ignore"):
        stays = np.cumsum(np.log1p(-np.where(happened, weight, 0.0) / np.maximum(at_risk, 1e-12)))
    found = np.concatenate([[0.0], 1 - np.exp(np.nan_to_num(stays, neginf=-50.0))])
    place = np.searchsorted(time, grid, side="right")
    curve = np.maximum.accumulate(found[place])
    curve[0] = 0.0
    return np.stack([grid, curve])


def given_onset(survival: FloatArray) -> FloatArray:
    """Return survival forecasts given that the onset comes by the last edge."""
    left = survival[:, -1:]
    given: FloatArray = (survival - left) / np.maximum(1 - left, 1e-9)
    return given


def interval_shares(survival: FloatArray, cases: Cases) -> FloatArray:
    """Return which chances are the ends of intervals that hold as many onsets as they should.

    Of forecasts given that the onset comes by the last edge: of the runs of left-out tasks that
    generalised by then, 5, 25, 50, 75 and 95 % did so by the chance that is returned for it.
    They are read off the model's own chances: the calibration map is flat where nobody
    generalised any more, and has no quantiles there.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts, not calibrated, by models that did not know the case's task.
    cases : Cases
        What became of them.

    Returns
    -------
    (5,) float array
        For each of `QUANTILES`, the chance at which it is read off.
    """
    happened = ~np.isnan(cases.growth) & (cases.growth <= EDGES[-1])
    own = cases.of(happened)
    chance = chance_at(given_onset(survival[happened]), own.growth)
    order = np.argsort(chance, kind="stable")
    weight = np.cumsum(own.weights()[order])
    place = np.searchsorted(weight, np.array(QUANTILES) * weight[-1])
    shares: FloatArray = np.clip(chance[order][np.minimum(place, len(order) - 1)], 1e-6, 1 - 1e-6)
    return shares


def quantiles_given_onset(survival: FloatArray, shares: FloatArray) -> FloatArray:
    """Return the growth of the logarithm of the step at each of `QUANTILES`.

    Given that the onset comes by the last edge.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts, not calibrated.
    shares : (5,) or (n, 5) float array
        See `interval_shares`.

    Returns
    -------
    (n, 5) float array
    """
    given = given_onset(survival)
    return np.stack([growth_quantile(given, share) for share in shares.T], axis=1)


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A hazard with its calibration.

    Attributes
    ----------
    mode : {"geometry", "losses"}
        What it looks at.
    hazard : Hazard
        Model.
    calibration : (2, m) float array
        See `calibration_map`.
    shares : (5,) float array
        See `interval_shares`.
    """

    mode: str
    hazard: Hazard
    calibration: FloatArray
    shares: FloatArray

    def survival(self, columns: FloatArray) -> FloatArray:
        """Return the calibrated chance that nothing has happened by each edge.

        Parameters
        ----------
        columns : (n, f) float array
            Features in the order of ``hazard.names``.

        Returns
        -------
        (n, k + 1) float array
        """
        return calibrated(self.hazard.survival(columns), self.calibration)

    def quantiles(self, columns: FloatArray) -> FloatArray:
        """Return the growth of the logarithm of the step at each of `QUANTILES`.

        Given that the onset comes by the last edge.

        Parameters
        ----------
        columns : (n, f) float array
            As in `survival`.

        Returns
        -------
        (n, 5) float array
        """
        return quantiles_given_onset(self.hazard.survival(columns), self.shares)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "mode": self.mode,
            "hazard": self.hazard.to_dict(),
            "calibration": [[float(f"{x:.6g}") for x in row] for row in self.calibration],
            "shares": [float(f"{x:.6g}") for x in self.shares],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Forecaster:
        """Return the forecaster that `to_dict` was called on."""
        return cls(
            values["mode"],
            Hazard.from_dict(values["hazard"]),
            np.asarray(values["calibration"], dtype=np.float64),
            np.asarray(values["shares"], dtype=np.float64),
        )


def calibrated(survival: FloatArray, calibration: FloatArray) -> FloatArray:
    """Return survival after the calibration map."""
    result: FloatArray = 1 - np.interp(1 - survival, calibration[0], calibration[1])
    return result


def fit_forecaster(cases: Cases, mode: str) -> Forecaster:
    """Fit on all cases; calibrate on tasks left out in turn.

    Parameters
    ----------
    cases : Cases
        As `cases_of` gives them, of two tasks or more.
    mode : str
        Kept with the result.

    Returns
    -------
    Forecaster
    """
    apart, folds = judged_out_of_fold(cases, cases.task, hazard_on(cases.names))
    mapping = calibration_map(folds, apart)
    shares = interval_shares(folds, apart)
    return Forecaster(mode, fit_cases(cases), mapping, shares)
