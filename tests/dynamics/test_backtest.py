"""Backtests: nothing of a left-out task leaks, scores by hand, alarms by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.synthetic_corpus import a_corpus

from geomdiag.dynamics.backtest import (
    BASELINES,
    Forecasts,
    alarms,
    backtest,
    crps,
    extrapolated,
    generalises,
    onsets_alone,
    score,
)
from geomdiag.dynamics.forecaster import (
    QUANTILES,
    Cases,
    calibrated,
    calibration_map,
    cases_of,
    fit_forecaster,
    hazard_on,
    interval_shares,
)
from geomdiag.dynamics.hazard import EDGES


def some_cases(
    columns: Any, run: Any, step: Any, growth: Any, seen: Any, task: Any, names: Any = ("x",)
) -> Cases:
    """Return moments ahead of the onset, all of them planned."""
    none = np.zeros(len(step), dtype=bool)
    return Cases(names, columns, run, step, growth, seen, none, ~none, task, task)


def simulated(seed: int, runs: int = 60, tasks: int = 6, noise: float = 0.2) -> Cases:
    """Runs whose one feature tells the growth to come, up to noise; a third never generalise."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        onset = float(np.exp(rng.uniform(5, 8))) if run % 3 else np.nan
        last = 8000.0
        for step in np.exp(
            np.arange(np.log(12), np.log(min(onset, last) if run % 3 else last), 0.2)
        ):
            growth = np.log(onset / step)
            told = growth if run % 3 else 5.0
            rows.append(
                (
                    -np.log(max(told, 0.02)) + noise * rng.normal(),
                    run,
                    step,
                    growth,
                    np.log(last / step),
                    f"task{run % tasks}",
                )
            )
    feature, run, step, growth, seen, task = (np.array(x) for x in zip(*rows, strict=True))
    columns = np.column_stack([np.log(step), feature])
    return some_cases(columns, run, step, growth, seen, task, names=("log_step", "told"))


def test_forecasts_of_simulated_runs_are_calibrated() -> None:
    cases = simulated(0, runs=150)
    made = backtest(cases, hazard_on(cases.names), cases.task)
    found, survival = score(made, cases), made.survival
    assert found.runs == 100
    assert 0.8 < found.coverage_90 <= 1.0
    assert 0.3 < found.coverage_50 < 0.75
    assert found.error[0.5] < 0.25
    known, _, ranks = alarms(survival, cases, cases.task)
    assert ranks > 0.95
    assert known[2].requested == 0.05
    assert known[2].false <= 0.15
    assert known[2].hit > 0.9


def test_a_left_out_task_does_not_take_part() -> None:
    """Its own outcomes may be changed at will without any change of its forecasts."""
    cases = simulated(1, runs=24)
    other = simulated(1, runs=24)
    own = other.task == "task2"
    other.growth[own] = other.growth[own][::-1]
    one = backtest(cases, hazard_on(cases.names), cases.task)
    two = backtest(other, hazard_on(cases.names), cases.task)
    np.testing.assert_array_equal(one.survival[own], two.survival[own])
    np.testing.assert_array_equal(one.shares[own], two.shares[own])
    assert not np.array_equal(one.survival[~own], two.survival[~own])


def test_scores_by_hand() -> None:
    """Certain forecasts of twice the step, made at 100, 200 and 300 of a run that needed 400."""
    step = np.array([100.0, 200.0, 300.0])
    sure = np.ones((3, len(EDGES) + 1))
    after = np.concatenate([[0.0], EDGES]) >= np.log(2.0)
    sure[:, after] = 0.0
    cases = some_cases(
        np.log(step)[:, None],
        np.zeros(3, dtype=int),
        step,
        np.log(400 / step),
        np.log(800 / step),
        np.array(["t"] * 3),
    )
    # the stretch that holds log 2 is (0.6, 0.8]: the median lies where its survival is one half
    median = np.exp(0.7)
    found = score(Forecasts(sure, sure, np.tile(QUANTILES, (3, 1))), cases)
    errors = np.abs(step * median / 400 - 1)
    assert found.runs == 1
    assert found.error == pytest.approx(
        {0.3: errors[0], 0.5: errors[1], 0.7: errors[1], 0.9: errors[2]}
    )
    assert found.error_runs == {0.3: 1, 0.5: 1, 0.7: 1, 0.9: 1}
    assert found.lead == 1.0


def test_moments_behind_the_onset_or_kept_by_it_are_not_judged() -> None:
    cases = simulated(3, runs=24)
    made = backtest(cases, hazard_on(cases.names), cases.task)
    whole = score(made, cases)
    more = np.concatenate([np.arange(len(cases.step)), [0, 1, 2, 3]])
    longer = cases.of(more)
    longer.done[-4:-2], longer.planned[-2:] = True, False
    again = score(made.of(more), longer)
    assert (again.crps, again.crps_all, again.coverage_90) == pytest.approx(
        (whole.crps, whole.crps_all, whole.coverage_90)
    )


def test_runs_without_onset_count_in_the_score_as_far_as_they_were_seen() -> None:
    never = np.ones((1, len(EDGES) + 1))
    sure = np.concatenate([[[1.0]], np.zeros((1, len(EDGES)))], axis=1)
    gone = np.array([np.nan])
    assert crps(never, gone, np.array([1.0]))[0] == 0
    assert crps(sure, gone, np.array([1.0]))[0] == pytest.approx(1.0, abs=0.06)
    assert np.isnan(crps(sure, gone)[0])


def test_alarms_by_hand() -> None:
    """Peaks: hopeless 0.1 and 0.8, hopeful 0.7 and 0.9, one of each in two groups."""
    peaks = np.array([0.1, 0.8, 0.7, 0.9])
    survival = np.repeat(1 - peaks[:, None], len(EDGES) + 1, axis=1)
    survival[:, 0] = 1.0
    growth = np.array([np.nan, np.nan, 1.0, 1.0])
    group = np.array(["a", "b", "a", "b"])
    cases = some_cases(
        np.zeros((4, 1)), np.arange(4), np.full(4, 100.0), growth, np.full(4, 2.0), group
    )
    np.testing.assert_allclose(generalises(survival, cases), peaks)
    found, lowest, ranks = alarms(survival, cases, group)
    # a's level is b's hopeless 0.8, b's level is a's 0.1
    assert {(one.false, one.hit) for one in found} == {(0.5, 0.5)}
    assert lowest == 0.5  # half of the hopeful have 0.8 or more, as one of two hopeless has
    assert ranks == pytest.approx(3 / 4)


def test_onsets_alone_are_the_conditional_life_table() -> None:
    step = np.full(4, 10.0)
    growth = np.log(np.array([20, 40, 80, np.nan]) / 10)
    cases = some_cases(np.zeros((4, 1)), np.arange(4), step, growth, np.log(np.full(4, 16.0)), step)
    predict = onsets_alone(cases)
    survival = predict(cases)
    assert (np.diff(survival, axis=1) <= 0).all()
    # one of four at risk, and one more so that the last step does not make it certain
    edges = np.concatenate([[0.0], EDGES])
    between = int(np.flatnonzero((edges > np.log(2)) & (edges < np.log(4)))[0])
    assert survival[0, between] == pytest.approx(1 - 1 / 5)
    late = cases.of([2])
    late.step[:] = 79.0
    assert predict(late)[0, 1] == pytest.approx(1 - 1 / 3)


def test_the_calibration_map_undoes_a_distortion() -> None:
    """Chances that are the squares of the true ones are taken back to the truth."""
    rng = np.random.default_rng(4)
    n = 4000
    growth = np.minimum(rng.exponential(0.8, size=n), 3.1)
    survival = 1 - (1 - np.exp(-np.concatenate([[0.0], EDGES]) / 0.8)) ** 2
    survival = np.repeat(survival[None], n, axis=0)
    task = np.array([f"t{i % 4}" for i in range(n)])
    cases = some_cases(np.zeros((n, 1)), np.arange(n), np.ones(n), growth, np.full(n, 9.0), task)
    mapping = calibration_map(survival, cases)
    np.testing.assert_allclose(mapping[1][5:36], np.sqrt(mapping[0][5:36]), atol=0.06)
    again = calibration_map(calibrated(survival, mapping), cases)
    np.testing.assert_allclose(again[1], again[0], atol=0.06)


def test_intervals_hold_as_many_onsets_as_they_should() -> None:
    """Forecasts that are too sure of themselves by a known amount."""
    rng = np.random.default_rng(6)
    n = 6000
    middle = rng.uniform(0.5, 1.5, size=n)
    growth = middle + 0.4 * (2 * rng.random(n) - 1)
    # piecewise linear in the logarithm: nearly uniform over a fifth of the true width
    edges = np.concatenate([[0.0], EDGES])
    survival = np.clip(0.5 - (edges - middle[:, None]) / 0.4, 1e-6, 1)
    task = np.array([f"t{i % 5}" for i in range(n)])
    cases = some_cases(np.zeros((n, 1)), np.arange(n), np.ones(n), growth, np.full(n, 9.0), task)
    shares = interval_shares(survival, cases)
    quantiles = Forecasts(survival, survival, np.tile(shares, (n, 1))).quantiles()
    for share, at in quantiles.items():
        assert (growth <= at).mean() == pytest.approx(share, abs=0.1)
    assert shares[1] < 0.25
    assert shares[3] > 0.75
    assert (np.diff(shares) >= 0).all()


def test_extrapolation_of_a_straight_line() -> None:
    """Loss 1 nat that falls by 2 in the logarithm for each log-step reaches 0.05 after ½ log 20."""
    names = ("heldout_loss", "heldout_loss_slope", "heldout_accuracy", "heldout_accuracy_slope")
    columns = np.array([[0.0, -2.0, 0.0, 1.0], [0.0, 1.0, 0.0, -1.0], [np.nan] * 4])
    blank = np.zeros(3)
    cases = some_cases(columns, blank.astype(int), blank, blank, blank, blank, names=names)
    found = extrapolated(cases)
    value = {name: found.columns[:, i] for i, name in enumerate(found.names)}
    assert value["extrapolated_loss"][0] == pytest.approx(np.log(20) / 2)
    assert value["extrapolated_accuracy"][0] == pytest.approx(min(np.log(99), EDGES[-1]))
    assert value["extrapolated_loss"][1] == EDGES[-1]
    assert value["loss_falls"].tolist() == [1.0, 0.0, 0.0]


def test_every_baseline_has_its_features() -> None:
    known = set(extrapolated(cases_of(a_corpus(), "losses")).names)
    for names in BASELINES.values():
        assert set(names) <= known


def test_a_forecaster_is_fitted_to_all_tasks() -> None:
    found = fit_forecaster(simulated(5), "geometry")
    assert found.mode == "geometry"
    survival = found.survival(np.array([[np.log(100), 0.0], [np.log(100), -1.6]]))
    assert (np.diff(survival, axis=1) <= 1e-12).all()
    assert survival[0, 8] < survival[1, 8]
