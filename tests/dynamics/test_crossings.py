"""Detectors on curves whose boundary is known, and properties that hold for any curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.dynamics.crossings import Boundary, Curve, first_fall, rises_for_good, settles


def curve(*values: float, steps: list[float] | None = None) -> Curve:
    return Curve(
        "it", np.array(steps or np.arange(len(values)) * 10.0), np.array(values, dtype=float)
    )


NOTHING = Curve("it", np.empty(0), np.empty(0), "it was not measured")


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        ((0.1, 0.5, 0.99, 1.0), 20, "stays at or above 0.99 from step 20"),
        ((1.0, 1.0, 1.0), 0, "from the first checkpoint on"),
        (
            (0.1, 1.0, 0.98, 1.0, 1.0),
            30,
            "it first reached 0.99 at step 10 and was below again at 1 checkpoint in",
        ),
        ((0.1, 1.0, 1.0, 0.2), math.nan, "did not stay there: it is below from step 30"),
        ((1.0, 0.3, 0.2), math.nan, "below from step 10 on and ends at 0.2"),
        ((0.1, 0.6, 0.5), math.nan, "never reached 0.99; its best is 0.6 at step 10"),
        ((1.0,), 0, "or earlier"),
    ],
)
def test_rises_for_good(values: tuple[float, ...], expected: float, words: str) -> None:
    found = rises_for_good(curve(*values))
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert words in found.evidence
    assert found.known
    above = np.array(values) >= 0.99
    steps = np.arange(len(values)) * 10.0
    if above.any():
        assert found.since == steps[above.argmax()]
        assert math.isinf(found.until) is bool(above[-1])
        assert found.holds(steps)[above].all()
    else:
        assert not found.holds(steps).any()


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        # plateau, then a fall: 0.7 of the maximum is reached at 40
        ((2.0, 2.0, 2.0, 1.6, 1.4, 0.5, 0.1), 40, "down to 1.4 at step 40"),
        # the rise of an untrained network, with a dip far below the plateau
        ((0.02, 0.001, 0.001, 1.9, 2.0, 1.9, 1.0, 0.1), 60, "from its maximum 2 at step 40"),
        # one outlier does not count
        ((2.0, 0.5, 2.0, 1.0, 0.2), 30, "at step 30"),
        ((2.0, 2.0, 0.5, 2.0, 1.9), math.nan, "for one checkpoint"),
        # at the last checkpoint there is no next one
        ((2.0, 2.0, 0.5), 20, "at step 20"),
        ((2.0, 0.1), 10, "at step 10"),
        ((2.0, 1.9, 1.6, 1.5), math.nan, "at most by 25.0%, at step 30"),
        ((0.1, 0.5, 1.0, 2.0), math.nan, "running maximum: it never falls"),
        ((0.0, 0.0, 1.0, 0.2), 30, "at step 30"),
    ],
)
def test_first_fall(values: tuple[float, ...], expected: float, words: str) -> None:
    found = first_fall(curve(*values))
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert words in found.evidence
    assert found.known
    assert math.isinf(found.until)


def test_a_fall_that_is_undone() -> None:
    found = first_fall(curve(2.0, 2.0, 1.0, 0.1, 0.2, 1.9, 2.1))
    assert found.value == 20
    assert found.until == 50
    assert "back above 70% of its running maximum from step 50" in found.evidence


def test_a_fall_that_is_undone_for_a_while() -> None:
    found = first_fall(curve(2.0, 2.0, 1.0, 0.1, 1.9, 1.8, 0.1, 0.1))
    assert found.value == 20
    assert math.isinf(found.until)


def test_nothing_to_fall_and_nothing_to_see() -> None:
    flat = first_fall(curve(1e-9, 1e-12, 1e-13), floor=1e-3)
    assert not flat.exists
    assert flat.known
    assert "nothing left to fall" in flat.evidence
    assert first_fall(curve(0.0, 0.0)).known
    single = first_fall(curve(2.0))
    assert not single.exists
    assert not single.known
    assert "one checkpoint only" in single.evidence
    for detector in (rises_for_good, first_fall):
        absent = detector(NOTHING)
        assert not absent.known
        assert absent.evidence == "it was not measured"


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        ((50, 50, 30, 20, 14, 10, 10, 10), 40, "stays within 4 of its last level 10 from step 40"),
        (
            (50, 30, 20),
            math.nan,
            "it reaches its last level 20 (± 3) only with the last checkpoint",
        ),
        (  # the last tenth is two values here: their median is neither of them
            (50,) * 16 + (40, 30, 20, 10),
            math.nan,
            "last checkpoint, step 190, it is at 10, further than 3.5 from its last level 15",
        ),
        ((50, 50, 10, 10, 14, 10, 10), 20, "last level 10"),
        ((6, 6, 4, 3, 3, 3), 20, "within 1 of its last level 3"),
        ((50, 10, 10, 49, 50), math.nan, "fell but rose again at step 30"),
        ((50, 49, 48), math.nan, "no fall began"),
    ],
)
def test_settles(values: tuple[float, ...], expected: float, words: str) -> None:
    it = curve(*values)
    found = settles(it, first_fall(it), least=1)
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert words in found.evidence
    if found.exists:
        assert (found.lower, found.upper) == (expected - 10, expected)


def test_settles_of_what_nobody_saw() -> None:
    found = settles(NOTHING, Boundary(math.nan, "it was not measured", known=False))
    assert not found.known
    assert "cannot be told" in found.evidence


values = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=30)


@given(values, st.floats(0.01, 1000))
def test_falls_do_not_depend_on_the_unit(found: list[float], unit: float) -> None:
    rounded = [round(value, 3) for value in found]
    one, other = first_fall(curve(*rounded)), first_fall(curve(*(4.0 * v for v in rounded)))
    assert one.value == pytest.approx(other.value, nan_ok=True)
    assert one.until == other.until


@given(values)
def test_boundaries_are_steps_of_the_curve(found: list[float]) -> None:
    it = curve(*found)
    fall = first_fall(it)
    settled = settles(it, fall)
    for boundary in (fall, settled, rises_for_good(it, 50.0)):
        assert boundary.evidence
        assert not boundary.exists or boundary.value in it.steps
    if settled.exists:
        assert settled.value >= fall.value
    assert fall.until > fall.value or not fall.exists


@given(values)
def test_what_rose_for_good_stays(found: list[float]) -> None:
    it = curve(*found)
    boundary = rises_for_good(it, 50.0)
    if boundary.exists:
        assert (it.values[it.steps >= boundary.value] >= 50.0).all()
        before = it.values[it.steps < boundary.value]
        assert before.size == 0 or before[-1] < 50.0
    else:
        assert it.values[-1] < 50.0
