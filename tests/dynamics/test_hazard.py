"""The survival model: against closed forms, brute force and simulated waiting times."""

from __future__ import annotations

import numpy as np
import pytest

from geomdiag.dynamics.backtest import crps
from geomdiag.dynamics.forecaster import chance_at, growth_quantile
from geomdiag.dynamics.hazard import EDGES, Hazard, fit_hazard, stretches
from geomdiag.errors import GeomdiagError

ENDS = np.array([0.5, 1.0, 2.0])


def test_stretches_by_hand() -> None:
    growth = np.array([0.2, 0.5, 0.7, 5.0, np.nan, np.nan, 0.0])
    seen = np.array([9.0, 9.0, 9.0, 9.0, 1.2, 0.3, 9.0])
    watched, event = stretches(growth, seen, ENDS)
    np.testing.assert_array_equal(
        watched,
        [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]],
    )
    np.testing.assert_array_equal(
        event,
        [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]],
    )


def told_times(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two features, the growth that the first one tells, and a weight."""
    rng = np.random.default_rng(2)
    told = rng.uniform(0.1, 2.5, size=n)
    growth = told * np.exp(rng.normal(size=n) * 0.1)
    return np.column_stack([-np.log(told), rng.normal(size=n)]), growth, np.ones(n)


def test_without_a_telling_feature_the_fit_is_nearly_the_life_table() -> None:
    """Events over those at risk, in every stretch; the trees hold back a little."""
    rng = np.random.default_rng(0)
    growth = rng.exponential(1.0, size=4000)
    seen = rng.uniform(0.5, 3.0, size=4000)
    growth = np.where(growth > seen, np.nan, growth)
    model = fit_hazard(("noise",), np.zeros((4000, 1)), growth, seen, np.ones(4000), edges=ENDS)
    watched, event = stretches(growth, seen, ENDS)
    share = event.sum(axis=0) / watched.sum(axis=0)
    survival = model.survival(np.zeros((1, 1)))[0]
    np.testing.assert_allclose(survival, np.concatenate([[1], np.cumprod(1 - share)]), atol=0.01)


def test_the_kept_trees_are_those_of_the_library() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    from geomdiag.dynamics.hazard import SETTINGS

    columns, growth, weight = told_times(800)
    columns[::7, 1] = np.nan
    model = fit_hazard(("told", "noise"), columns, growth, growth, weight)
    watched, event = stretches(growth, growth)
    case, stretch = np.nonzero(watched)
    rows = np.column_stack([columns[case], np.array(EDGES)[stretch]])
    own = HistGradientBoostingClassifier(**SETTINGS).fit(rows, event[case, stretch])
    asked = np.column_stack([columns[:50], np.full(50, EDGES[0])])
    chance = own.predict_proba(asked)[:, 1]
    np.testing.assert_allclose(1 - model.survival(columns[:50])[:, 1], chance, rtol=1e-9)


def test_a_feature_that_tells_the_time_is_found() -> None:
    columns, growth, weight = told_times()
    model = fit_hazard(("told", "noise"), columns, growth, growth, weight)
    again = Hazard.from_dict(model.to_dict())
    told = np.exp(-columns[:, 0])
    median = growth_quantile(again.survival(columns), 0.5)
    middle = (told > 0.3) & (told < 2.0)
    assert np.median(np.abs(median[middle] / told[middle] - 1)) < 0.15


def test_missing_and_wild_features_give_chances_all_the_same() -> None:
    columns, growth, weight = told_times(500)
    columns[::3, 0] = np.nan
    model = fit_hazard(("told", "noise"), columns, growth, growth, weight)
    wild = np.array([[np.nan, np.nan], [1e300, -1e300], [-np.inf, np.inf]])
    survival = model.survival(wild)
    assert np.isfinite(survival).all()
    assert (np.diff(survival, axis=1) <= 0).all()


def test_a_feature_that_is_always_missing_or_constant_does_no_harm() -> None:
    columns, growth, weight = told_times(500)
    more = np.column_stack([columns, np.full(500, np.nan), np.full(500, 3.0)])
    one = fit_hazard(("told", "noise"), columns, growth, growth, weight)
    two = fit_hazard(("told", "noise", "gone", "same"), more, growth, growth, weight)
    np.testing.assert_allclose(one.survival(columns), two.survival(more), rtol=1e-9)


def test_the_same_cases_give_the_same_model() -> None:
    columns, growth, weight = told_times(500)
    one, two = (fit_hazard(("a", "b"), columns, growth, growth, weight) for _ in range(2))
    assert one.to_dict() == two.to_dict()


def test_cases_without_any_onset_are_refused() -> None:
    columns, growth, weight = told_times(100)
    with pytest.raises(GeomdiagError, match="found 0 onsets"):
        fit_hazard(("a", "b"), columns, np.full(100, np.nan), growth, weight)


def exponential(rate: float) -> np.ndarray:
    return np.exp(-rate * np.concatenate([[0.0], EDGES]))[None]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_quantiles_and_chances_of_an_exponential(share: float) -> None:
    survival = exponential(1.5)
    at = growth_quantile(survival, share)
    np.testing.assert_allclose(at, -np.log(1 - share) / 1.5, rtol=0.05)  # lines within stretches
    np.testing.assert_allclose(chance_at(survival, at), share, rtol=1e-9)


def test_a_quantile_that_is_not_reached_is_infinite() -> None:
    assert np.isinf(growth_quantile(exponential(0.01), 0.5)).all()
    never = np.ones((1, len(EDGES) + 1))
    assert np.isinf(growth_quantile(never, 0.05)).all()
    now = np.concatenate([[[1.0]], np.zeros((1, len(EDGES)))], axis=1)
    assert growth_quantile(now, 0.5)[0] == pytest.approx(EDGES[0] / 2)


def test_crps_of_an_exponential() -> None:
    """∫ (F − 1[u ≥ g])² du in closed form, up to the last edge."""
    rate, limit = 2.0, EDGES[-1]
    for g in (0.0, 0.4, 1.7):

        def integral(a: float, b: float, rate: float) -> float:
            return float((np.exp(-rate * a) - np.exp(-rate * b)) / rate)

        before = g - 2 * integral(0, g, rate) + integral(0, g, 2 * rate)
        after = integral(g, limit, 2 * rate)
        found = crps(exponential(rate), np.array([g]), points=4001)[0]
        assert found == pytest.approx(before + after, abs=0.01)
    sure = np.concatenate([[[1.0]], np.zeros((1, len(EDGES)))], axis=1)
    assert crps(sure, np.array([0.0]))[0] < 0.05
