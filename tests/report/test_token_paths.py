"""Tokens over steps: turned to each other, thinned, and left out with a reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import geomdiag as gd
from geomdiag.report.paths import aligned, token_paths

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series" / "comparison-5x5-transformer"


@pytest.fixture(scope="module")
def series() -> object:
    return next(iter(gd.open_runs(SERIES).values()))


@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("angle", [0.3, 2.0, np.pi])
def test_turned_and_mirrored_points_lie_on_the_last_ones(angle: float, mirror: float) -> None:
    last = np.random.default_rng(0).normal(size=(9, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = 3.0 * last @ turn @ np.diag([1.0, mirror])
    first, none, end = aligned([turned, None, last])
    assert none is None
    assert end is last
    assert first is not None
    assert np.allclose(first, 3.0 * last)


def test_distances_of_a_step_stay() -> None:
    rng = np.random.default_rng(1)
    planes = [rng.normal(size=(7, 2)) for _ in range(4)]
    for before, after in zip(planes, aligned(planes), strict=True):
        assert after is not None
        assert np.allclose(before @ before.T, after @ after.T)


def test_real_tokens_do_not_jump_between_near_steps(series: gd.Series) -> None:
    steps = [int(step) for step in series.steps]
    found = token_paths(series, steps, "comparison:5x5")
    points = [np.reshape(one, (25, 2)) for one in found["points"]]
    assert all(np.abs(one).max() <= 1413 for one in points)
    assert all(0 < share <= 1 for share in found["shares"])
    # no turn or mirror image would bring a step nearer to the next
    for before, after in itertools.pairwise(points):
        cross = before.T @ after
        assert np.trace(cross) == pytest.approx(np.linalg.svd(cross)[1].sum(), rel=0.01)


def test_few_steps_are_spread_and_hold_the_last(series: gd.Series) -> None:
    steps = [int(step) for step in series.steps]
    found = token_paths(series, steps, "comparison:5x5", most=3)
    held = [i for i, one in enumerate(found["points"]) if one is not None]
    assert len(held) == 3
    assert held[0] == 0
    assert held[-1] == len(steps) - 1


def test_other_checkpoints_than_those_analysed_are_not_shown(series: gd.Series) -> None:
    steps = [int(step) for step in series.steps]
    own = [checkpoint.digest for checkpoint in series]
    wrong = [*own[:-1], "0" * 64]
    found = token_paths(series, steps, "comparison:5x5", digests=wrong)
    assert found["points"][-1] is None
    assert found["points"][0] is not None
    none = token_paths(series, steps[-1:], "comparison:5x5", digests=wrong[-1:])
    assert "is not the one that was analysed" in none["reason"]
    missing = token_paths(series, [123456], "comparison:5x5")
    assert "none of the result's steps" in missing["reason"]
