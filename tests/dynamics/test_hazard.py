"""The survival model: against closed forms, brute force and simulated waiting times."""

from __future__ import annotations

import numpy as np
import pytest

from geomdiag.dynamics.backtest import crps, growth_quantile
from geomdiag.dynamics.forecaster import chance_at
from geomdiag.dynamics.hazard import EDGES, Hazard, fit_hazard, stretches

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


def test_without_features_the_fit_is_the_life_table() -> None:
    """Events over those at risk, in every stretch."""
    rng = np.random.default_rng(0)
    growth = rng.exponential(1.0, size=400)
    seen = rng.uniform(0.5, 3.0, size=400)
    growth = np.where(growth > seen, np.nan, growth)
    model = fit_hazard((), np.zeros((400, 0)), growth, seen, np.ones(400), edges=ENDS)
    watched, event = stretches(growth, seen, ENDS)
    share = event.sum(axis=0) / watched.sum(axis=0)
    survival = model.survival(np.zeros((1, 0)))[0]
    np.testing.assert_allclose(survival, np.concatenate([[1], np.cumprod(1 - share)]), rtol=1e-3)


def test_the_gradient_is_zero_at_the_fit() -> None:
    """Penalised likelihood at the fit, against small changes of every parameter."""
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(300, 2))
    growth = np.exp(0.7 * columns[:, 0] + rng.normal(size=300) * 0.3)
    seen = np.full(300, 2.0)
    growth = np.where(growth > seen, np.nan, growth)
    weight = rng.uniform(0.5, 2, size=300)
    ridge = 3.0
    model = fit_hazard(("a", "b"), columns, growth, seen, weight, ridge=ridge, edges=ENDS)
    watched, event = stretches(growth, seen, ENDS)

    def objective(change: np.ndarray) -> float:
        moved = Hazard(
            model.names,
            model.edges,
            model.centre,
            model.scale,
            model.intercepts + change[:3],
            model.weights + change[3:5],
            model.drift + change[5:],
        )
        survival = moved.survival(columns)
        chance = 1 - survival[:, 1:] / survival[:, :-1]
        terms = np.where(event, np.log(chance), np.where(watched, np.log(1 - chance), 0.0))
        own = (weight / weight.mean())[:, None]
        penalty = 1e-3 * (moved.intercepts**2).sum()
        penalty += ridge * ((moved.weights**2).sum() + (moved.drift**2).sum())
        return float((own * terms).sum() - penalty / 2)

    best = objective(np.zeros(7))
    for i in range(7):
        for sign in (1e-2, -1e-2):
            assert objective(sign * np.eye(7)[i]) < best


def test_a_feature_that_tells_the_time_is_found() -> None:
    rng = np.random.default_rng(2)
    told = rng.uniform(0.1, 2.5, size=2000)
    growth = told * np.exp(rng.normal(size=2000) * 0.1)
    columns = np.column_stack([-np.log(told), rng.normal(size=2000)])
    weight = np.ones(2000)
    model = fit_hazard(("told", "noise"), columns, growth, growth, weight)
    again = Hazard.from_dict(model.to_dict())
    median = growth_quantile(again.survival(columns), 0.5)
    middle = (told > 0.3) & (told < 2.0)
    assert np.median(np.abs(median[middle] / told[middle] - 1)) < 0.15
    assert abs(model.weights[1]) < 0.1 * abs(model.weights[0])


def test_missing_features_count_as_their_centre() -> None:
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(200, 1))
    growth = rng.exponential(size=200)
    model = fit_hazard(("a",), columns, growth, growth, np.ones(200))
    np.testing.assert_array_equal(
        model.survival(np.array([[np.nan]])), model.survival(model.centre[None])
    )
    assert np.isfinite(model.survival(np.array([[1e30], [-1e30]]))).all()


def test_a_feature_that_is_always_missing_or_constant_does_no_harm() -> None:
    columns = np.column_stack([np.full(50, np.nan), np.full(50, 3.0)])
    growth = np.linspace(0.1, 3, 50)
    model = fit_hazard(("gone", "same"), columns, growth, growth, np.ones(50))
    assert np.isfinite(model.survival(columns)).all()


def exponential(rate: float) -> np.ndarray:
    return np.exp(-rate * np.concatenate([[0.0], EDGES]))[None]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_quantiles_and_chances_of_an_exponential(share: float) -> None:
    survival = exponential(1.5)
    at = growth_quantile(survival, share)
    np.testing.assert_allclose(at, -np.log(1 - share) / 1.5, rtol=1e-9)
    np.testing.assert_allclose(chance_at(survival, at), share, rtol=1e-9)


def test_a_quantile_that_is_not_reached_is_infinite() -> None:
    assert np.isinf(growth_quantile(exponential(0.01), 0.5)).all()
    never = np.ones((1, len(EDGES) + 1))
    assert np.isinf(growth_quantile(never, 0.05)).all()
    now = np.concatenate([[[1.0]], np.zeros((1, len(EDGES)))], axis=1)
    assert growth_quantile(now, 0.5)[0] < EDGES[0]


def test_crps_of_an_exponential() -> None:
    """∫ (F − 1[u ≥ g])² du in closed form, up to the last edge."""
    rate, limit = 2.0, EDGES[-1]
    for g in (0.0, 0.4, 1.7):

        def integral(a: float, b: float, rate: float) -> float:
            return float((np.exp(-rate * a) - np.exp(-rate * b)) / rate)

        before = g - 2 * integral(0, g, rate) + integral(0, g, 2 * rate)
        after = integral(g, limit, 2 * rate)
        found = crps(exponential(rate), np.array([g]), points=4001)[0]
        assert found == pytest.approx(before + after, abs=1e-3)
    sure = np.concatenate([[[1.0]], np.zeros((1, len(EDGES)))], axis=1)
    assert crps(sure, np.array([0.0]))[0] < 0.05
