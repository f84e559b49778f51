"""Order and grid geometry: exact grids, explicit refits, and the stated nulls."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

import geomdiag as gd
from geomdiag.metrics import order as module
from geomdiag.metrics.order import (
    additivity,
    additivity_null,
    axis_angles,
    order_readout,
    step_evenness,
)

torch = pytest.importorskip("torch")

SHAPES = [(7, 7), (3, 3, 3), (20,), (3, 4), (2, 5, 3), (4,), (3,), (2, 2)]


def ranks_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).reshape(len(shape), -1)


def grid(shape: tuple[int, ...], width: int = 9, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return a grid of equal steps along perpendicular axes, rotated and moved."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0][: len(shape)]
    points = ranks_of(shape).T @ (axes * rng.uniform(1, 2, size=(len(shape), 1)))
    return points + 5 + noise * rng.normal(size=(len(points), width))


# --- read-out ----------------------------------------------------------------------------------


def refitted(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each token's prediction by a ridge regression fitted on the others."""
    n = len(y)
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2

    def freedom(penalty: float) -> float:
        return float((values / (values + penalty)).sum())

    low, high = math.log(1e-10 * values[0]), math.log(n * values[0])
    if freedom(math.exp(low)) > n // 2:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if freedom(math.exp(middle)) > n // 2 else (low, middle)
    penalty = math.exp(low)
    predictions = np.empty(n)
    for i in range(n):
        x, target = np.delete(rows, i, axis=0), np.delete(y, i)
        middle_row, mean = x.mean(axis=0), target.mean()
        x = x - middle_row
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (target - mean))
        predictions[i] = mean + (rows[i] - middle_row) @ weights
    return predictions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [2, 5, 30])
def test_left_out_predictions_are_those_of_refits(shape: tuple[int, ...], width: int) -> None:
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(math.prod(shape), width)) + 1
    for y in ranks_of(shape):
        predictions = refitted(rows, y)
        others = np.array([np.delete(y, i).mean() for i in range(len(y))])
        fit = order_readout(rows, y)
        expected = 1 - ((y - predictions) ** 2).sum() / ((y - others) ** 2).sum()
        assert fit.r2_loo == pytest.approx(expected, rel=1e-5, abs=1e-7)
        pairs = [(i, j) for i, j in itertools.permutations(range(len(y)), 2) if y[i] < y[j]]
        over_mean = predictions - others
        concordance = np.mean([np.sign(over_mean[j] - over_mean[i]) for i, j in pairs])
        if len(y) > 4:  # with fewer the predictions tie up to rounding
            assert fit.kendall_tau == pytest.approx(concordance, abs=1e-12)


def test_without_ties_it_is_the_ordinary_tau() -> None:
    rows, y = np.random.default_rng(3).normal(size=(20, 4)), np.arange(20)
    others = np.array([np.delete(y, i).mean() for i in range(20)])
    expected = kendalltau(refitted(rows, y) - others, y).statistic
    assert order_readout(rows, y).kendall_tau == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exact_grid_is_read_exactly(shape: tuple[int, ...]) -> None:
    for width in (3, 9, 60):
        for y in ranks_of(shape):
            fit = order_readout(grid(shape, width), y)
            assert fit.r2_loo == pytest.approx(1, abs=1e-9)
            assert fit.kendall_tau == 1


@pytest.mark.parametrize("width", [8, 24, 48, 64, 128])
def test_a_noisy_grid_is_read_whatever_its_width(width: int) -> None:
    """Columns as many as tokens: where least squares breaks down."""
    fit = order_readout(grid((7, 7), width, noise=0.1), ranks_of((7, 7))[0])
    assert fit.r2_loo > 0.99
    assert fit.kendall_tau == 1


@pytest.mark.parametrize("shape", [(7, 7), (3, 3, 3), (20,)])
@pytest.mark.parametrize("width", [2, 8, 19, 26, 48, 128])
def test_random_rows_are_no_order(shape: tuple[int, ...], width: int) -> None:
    rng = np.random.default_rng(0)
    y = ranks_of(shape)[0]
    fits = np.array([order_readout(rng.normal(size=(len(y), width)), y) for _ in range(200)])
    error = fits.std(axis=0) / np.sqrt(len(fits))
    assert fits[:, 0].mean() < 4 * error[0]
    assert -0.1 - 4 * error[1] < fits[:, 1].mean() < 4 * error[1]


@pytest.mark.parametrize("width", [1, 2, 6])
def test_relabelled_tokens_are_never_better_than_the_mean(width: int) -> None:
    """Over *all* relabellings the average of r2_loo is at most 0, whatever the rows."""
    rows = np.random.default_rng(width).normal(size=(5, width)) ** 3
    y = np.array([0, 0, 1, 1, 2])
    found = [order_readout(rows[list(p)], y).r2_loo for p in itertools.permutations(range(5))]
    assert np.mean(found) <= 1e-9


def test_reversed_ranks_are_the_same_line() -> None:
    rows, y = grid((9,), noise=0.5), np.arange(9)
    np.testing.assert_allclose(order_readout(rows, y), order_readout(rows, 8 - y), rtol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 3), (7, 7), (20,)])
def test_tokens_equally_far_apart_are_in_no_order(shape: tuple[int, ...]) -> None:
    """Every prediction is the others' mean; rounding must not order them."""
    n = math.prod(shape)
    turned = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0].astype(np.float32)
    for y in ranks_of(shape):
        for rows in (np.eye(n), turned):
            fit = order_readout(rows, y)
            assert fit.kendall_tau == 0
            assert fit.r2_loo == pytest.approx(0, abs=1e-5)


def test_rows_that_follow_one_attribute_alone_are_no_order_of_the_other() -> None:
    """As `OrderFit` says: below 0 is not a reversed order, which reads as 1."""
    first, second = ranks_of((7, 7))
    rows = np.random.default_rng(0).normal(size=(7, 20))[second]
    fit = order_readout(rows, first)
    assert fit.r2_loo <= 0
    assert fit.kendall_tau < 0
    assert order_readout(-grid((7, 7)), first).kendall_tau == 1


# --- steps -------------------------------------------------------------------------------------


def test_even_steps_along_a_line() -> None:
    assert step_evenness(grid((7, 7)), ranks_of((7, 7))[1]) == pytest.approx(1)
    assert step_evenness(grid((3, 4)), ranks_of((3, 4))[1]) == pytest.approx(1)


def test_uneven_steps_have_the_written_value() -> None:
    places = np.array([0.0, 1.0, 3.0, 3.5])
    rows = np.outer(places, [3.0, 4.0])
    steps = np.diff(places)
    expected = steps.sum() ** 2 / (3 * (steps**2).sum())
    assert step_evenness(rows, np.arange(4)) == pytest.approx(expected)
    ring = np.stack([np.cos([0, 1, 2, 3, 4]), np.sin([0, 1, 2, 3, 4])], axis=1)
    chord = (np.sin(2) / np.sin(0.5)) ** 2  # four even steps, but on an arc
    assert step_evenness(ring, np.arange(5)) == pytest.approx(chord / 16)
    assert step_evenness(np.array([[0.0], [1.0], [0.0]]), np.arange(3)) == 0


def test_random_steps_are_uneven() -> None:
    rng, y = np.random.default_rng(0), ranks_of((7, 7))[0]
    found = [step_evenness(rng.normal(size=(49, 64)), y) for _ in range(200)]
    assert np.mean(found) == pytest.approx(1 / 36, abs=4 * np.std(found) / np.sqrt(200) + 1e-3)


def test_two_ranks_and_equal_means_say_nothing() -> None:
    assert math.isnan(step_evenness(grid((2, 2)), np.array([0, 0, 1, 1])))
    rows = np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])
    assert math.isnan(step_evenness(rows, np.array([0, 0, 1, 1, 2, 2])))


# --- additivity --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 7), (3, 3, 3), (3, 4), (2, 5, 3)])
def test_additivity_by_level_means_on_a_full_grid(shape: tuple[int, ...]) -> None:
    """On a full grid the main effects are the deviations of the level means."""
    rows = np.random.default_rng(0).normal(size=(math.prod(shape), 6))
    centred = rows - rows.mean(axis=0)
    effects = np.zeros_like(rows)
    for rank in ranks_of(shape):
        for level in np.unique(rank):
            effects[rank == level] += centred[rank == level].mean(axis=0)
    expected = (effects**2).sum() / (centred**2).sum()
    assert additivity(rows, ranks_of(shape)) == pytest.approx(expected, rel=1e-12)


def test_additivity_of_an_incomplete_grid_is_a_regression() -> None:
    rng = np.random.default_rng(0)
    ranks = ranks_of((4, 5))[:, rng.permutation(20)[:13]]
    rows = rng.normal(size=(13, 3))
    design = np.column_stack([rank[:, None] == np.unique(rank) for rank in ranks]).astype(float)
    fitted = design @ np.linalg.lstsq(design, rows, rcond=None)[0]
    expected = 1 - ((rows - fitted) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum()
    assert additivity(rows, ranks) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_a_grid_of_any_steps_is_additive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 5, size=rng.integers(1, 4)).tolist())
    ranks = ranks_of(shape)
    rows = sum(rng.normal(size=(size, 7))[rank] for size, rank in zip(shape, ranks, strict=True))
    assert additivity(rows, ranks) == pytest.approx(1, abs=1e-12)


def test_the_null_is_the_mean_over_all_relabellings() -> None:
    rows = np.random.default_rng(1).normal(size=(6, 2)) ** 3
    ranks = ranks_of((3, 2))
    found = [additivity(rows[list(p)], ranks) for p in itertools.permutations(range(6))]
    assert np.mean(found) == pytest.approx(additivity_null(ranks), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "null"), [((7, 7), 12 / 48), ((3, 3, 3), 6 / 26), ((20,), 1), ((2, 5, 3), 7 / 29)]
)
def test_the_null_of_full_grids(shape: tuple[int, ...], null: float) -> None:
    assert additivity_null(ranks_of(shape)) == pytest.approx(null)
    rng = np.random.default_rng(0)
    n = math.prod(shape)
    found = [additivity(rng.normal(size=(n, 16)), ranks_of(shape)) for _ in range(100)]
    assert np.mean(found) == pytest.approx(null, abs=4 * np.std(found) / 10 + 1e-12)


# --- axes --------------------------------------------------------------------------------------


def test_angles_are_those_the_axes_were_given() -> None:
    for angle in (0.0, 1e-9, 0.3, np.pi / 2, 3.0, np.pi):
        axes = np.array([[2.0, 0.0], [np.cos(angle), np.sin(angle)]])
        rows = ranks_of((3, 4)).T @ axes
        found = axis_angles(rows, ranks_of((3, 4)))
        assert found.shape == (2, 2)
        np.testing.assert_allclose(found, [[0, angle], [angle, 0]], rtol=1e-6, atol=1e-14)


def test_axes_of_attributes_that_rise_together_are_told_apart() -> None:
    ranks = ranks_of((4, 4))[:, [0, 1, 5, 6, 10, 11, 15, 4]]  # far from a full grid
    rows = ranks.T @ np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    np.testing.assert_allclose(axis_angles(rows, ranks)[0, 1], np.pi / 2)


def test_an_attribute_without_an_axis_has_no_angle() -> None:
    rows = ranks_of((3, 4)).T @ np.array([[1.0, 2.0], [0.0, 0.0]])
    found = axis_angles(rows, ranks_of((3, 4)))
    assert found[0, 0] == 0
    assert np.isnan(found[1]).all()
    assert np.isnan(found[0, 1])


def test_random_axes_are_nearly_perpendicular() -> None:
    rng = np.random.default_rng(0)
    ranks = ranks_of((7, 7))
    found = np.array([axis_angles(rng.normal(size=(49, 64)), ranks)[0, 1] for _ in range(200)])
    assert found.mean() == pytest.approx(np.pi / 2, abs=4 / 8 / np.sqrt(200))
    assert found.std() == pytest.approx(1 / 8, rel=0.25)


# --- all of them -------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([3, 12, 40]))
def test_numpy_and_torch_agree_and_only_shape_counts(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = ranks_of((3, 4))
    rows = rng.normal(size=(12, width))
    turned = 3 * rows @ np.linalg.qr(rng.normal(size=(width, width)))[0] + rng.normal(size=width)
    tensor, labels = torch.from_numpy(rows), torch.from_numpy(ranks.copy())
    for other, names in ((turned, ranks), (tensor, labels), (tensor, ranks)):
        for k in range(2):
            np.testing.assert_allclose(
                order_readout(other, names[k]), order_readout(rows, ranks[k]), rtol=1e-6, atol=1e-9
            )
            assert step_evenness(other, names[k]) == pytest.approx(step_evenness(rows, ranks[k]))
        assert additivity(other, names) == pytest.approx(additivity(rows, ranks))
        np.testing.assert_allclose(axis_angles(other, names), axis_angles(rows, ranks), atol=1e-9)
    assert additivity_null(labels) == additivity_null(ranks)


def test_rows_that_do_not_vary_say_nothing() -> None:
    rows, ranks = np.full((12, 3), 0.1), ranks_of((3, 4))
    assert np.isnan(order_readout(rows, ranks[0])).all()
    assert math.isnan(step_evenness(rows, ranks[0]))
    assert math.isnan(additivity(rows, ranks))
    assert np.isnan(axis_angles(rows, ranks)).all()


@pytest.mark.parametrize("single", [order_readout, step_evenness])
@pytest.mark.parametrize("several", [additivity, axis_angles])
def test_what_is_wrong_is_said(single: object, several: object) -> None:
    rows = np.ones((12, 3))
    with pytest.raises(ValueError, match=r"shape \(5,\).*each of the 12 rows"):
        single(rows, np.arange(5))  # type: ignore[operator]
    with pytest.raises(ValueError, match="all 12 tokens have the same rank"):
        several(rows, [np.zeros(12, dtype=int)])  # type: ignore[operator]
    with pytest.raises(ValueError, match="no attribute"):
        several(rows, [])  # type: ignore[operator]
    with pytest.raises(ValueError, match="1 NaN"):
        single(np.where(np.eye(12), np.nan, 1.0)[:, :1], np.arange(12))  # type: ignore[operator]


def test_they_are_public_and_their_examples_run() -> None:
    for name in module.__all__:
        if name != "OrderFit":
            assert getattr(gd, name) is getattr(module, name)
    assert doctest.testmod(module).failed == 0
