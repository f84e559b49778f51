"""Where a curve leaves its plateau: noise, few points and many."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomdiag.dynamics.crossings import Curve
from geomdiag.dynamics.plateau import leaves_plateau


def falling(steps: np.ndarray, at: float, rest: float = 0.0) -> np.ndarray:
    """A plateau of one, then a power of the step."""
    return np.maximum(np.minimum(1.0, (at / np.maximum(steps, 1)) ** 3), rest)


def wander(rng: np.random.Generator, n: int, correlation: float, size: float) -> np.ndarray:
    noise = np.zeros(n)
    drawn = rng.normal(size=n) * math.sqrt(1 - correlation**2)
    for i in range(n):
        noise[i] = correlation * noise[i - 1] + drawn[i] if i else rng.normal()
    return size * noise


STEPS = np.unique(np.geomspace(10, 50_000, 60).astype(int)).astype(float)


@pytest.mark.parametrize("at", [300.0, 2000.0, 9000.0])
def test_a_known_break_lies_in_its_interval(at: float) -> None:
    rng = np.random.default_rng(0)
    values = falling(STEPS, at, rest=0.05) * np.exp(wander(rng, len(STEPS), 0.5, 0.05))
    found = leaves_plateau(Curve("it", STEPS, values))
    assert found.lower <= at <= found.upper
    assert found.lower < found.value < found.upper
    assert found.upper < 2 * found.lower
    assert found.p_value <= 0.01
    assert found.evidence.startswith(f"it leaves its plateau at step {found.value:.0f}")


@pytest.mark.slow
def test_how_often_the_interval_holds_the_break() -> None:
    """Nominally 90 %; the curve's floor and rounding to checkpoints included."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(200):
        at = float(np.exp(rng.uniform(np.log(200), np.log(8000))))
        values = falling(STEPS, at, rest=0.05) * np.exp(wander(rng, len(STEPS), 0.5, 0.08))
        found = leaves_plateau(Curve("it", STEPS, values), samples=99)
        hits.append(found.exists and found.lower <= at <= found.upper)
    assert np.mean(hits) >= 0.8


def test_wandering_noise_leaves_no_plateau() -> None:
    """It often falls by the threshold's 30 %, and is hardly ever taken for a stage."""
    rng = np.random.default_rng(2)
    fell = stages = 0
    for _ in range(60):
        values = np.exp(wander(rng, len(STEPS), 0.8, 0.2))
        found = leaves_plateau(Curve("it", STEPS, values), samples=99)
        fell += "is down to" in found.evidence
        stages += found.exists
    assert fell >= 30
    assert stages <= 6
    assert "no break is sure" in found.evidence or "does not fall" in found.evidence


def test_with_few_checkpoints_the_gap_is_all_there_is() -> None:
    steps = np.array([0.0, 100, 1000, 3000, 10_000])
    found = leaves_plateau(Curve("it", steps, np.array([1.0, 1.0, 0.9, 0.2, 0.0])))
    assert (found.lower, found.value, found.upper) == (0, 3000, 3000)
    assert "5 checkpoints from its plateau on are too few" in found.evidence
    assert math.isnan(found.p_value)


def test_a_plateau_may_be_looked_for_from_a_step_on() -> None:
    values = np.where(STEPS < 100, 3.0, 1.0) * falling(STEPS, 3000)
    curve = Curve("it", STEPS, values)
    assert leaves_plateau(curve).value < 150
    later = leaves_plateau(curve, begin=100)
    assert later.lower <= 3000 <= later.upper
    assert not leaves_plateau(curve, begin=1e9).known
    assert "unknown from step" in leaves_plateau(curve, begin=1e9).evidence
    # What falls from the first step looked at may have begun since the one before.
    steep = leaves_plateau(Curve("it", STEPS, 1 / (1 + STEPS)), begin=100)
    assert steep.lower == STEPS[STEPS < 100][-1]
    assert "falls from step" in steep.evidence
    assert leaves_plateau(Curve("it", STEPS, 1 / (1 + STEPS))).or_earlier


def test_ten_thousand_checkpoints_take_a_second() -> None:
    steps = np.arange(1, 10_001.0) * 10
    rng = np.random.default_rng(3)
    values = falling(steps, 20_000) * np.exp(wander(rng, len(steps), 0.9, 0.02))
    start = time.process_time()
    found = leaves_plateau(Curve("it", steps, values))
    assert time.process_time() - start < 5
    assert found.lower <= 20_000 <= found.upper
    assert found.upper < 1.5 * found.lower
    assert found.value in steps


def test_same_seed_same_draws_whatever_the_unit() -> None:
    values = falling(STEPS, 2000, 0.02)
    one = leaves_plateau(Curve("it", STEPS, values))
    other = leaves_plateau(Curve("it", STEPS, 1000 * values))
    assert (one.value, one.lower, one.upper) == (other.value, other.lower, other.upper)
    np.testing.assert_array_equal(one.draws, leaves_plateau(Curve("it", STEPS, values)).draws)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=40), st.integers(0, 40))
def test_any_curve_gets_a_verdict(values: list[float], repeated: int) -> None:
    curve = np.array([*[max(values)] * repeated, *values])
    steps = np.arange(len(curve)) * 7.0
    found = leaves_plateau(Curve("it", steps, curve), samples=19)
    assert found.evidence
    if found.exists:
        assert found.value in steps
        assert found.lower < found.value <= found.upper
        assert np.isfinite(found.draws[:, 1]).any()
    else:
        assert math.isnan(found.lower)
